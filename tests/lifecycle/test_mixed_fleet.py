"""Both of RQ's workers and both of our modes on one queue, with pickled jobs and JSON jobs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis
import rq
from conftest import Start
from helpers import ROOT, Server, eventually, lines, program_path
from rq.job import Job

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.serializers import Auto

JOBS = 3000
FLEET = 4


@contextmanager
def rq_worker(server: Server, directory: Path, *flags: str) -> Iterator[None]:
    """Start a worker of RQ's that reads both formats."""
    env = {**os.environ, "PYTHONPATH": program_path(ROOT, ROOT / "tests")}
    command = [sys.executable, "-m", "rq.cli", "worker", "--url", server.url, "--quiet"]
    command += ["--serializer", "jobqueue.serializers.Auto", *flags]
    with subprocess.Popen(command, env=env, cwd=directory) as process:
        try:
            yield
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        finally:
            process.kill()


def rq_info(server: Server) -> str:
    command = [sys.executable, "-m", "rq.cli", "info", "--url", server.url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def enqueue_mixed(store: redis.Redis, record: str, first: int) -> None:
    """Enqueue JOBS more jobs, alternately as RQ enqueues them (even numbers, pickled) and as jobq does (odd ones,
    JSON)."""
    theirs, ours = rq.Queue(connection=store), Queue(connection=store)
    for start in range(first, first + JOBS, 200):
        even, odd = range(start, start + 200, 2), range(start + 1, start + 200, 2)
        theirs.enqueue_many([rq.Queue.prepare_data("samples_rq.note_soon", (record, n)) for n in even])
        list(ours.enqueue_many("samples_rq.note_soon", [record] * 100, odd))


@pytest.mark.timeout(240)
def test_each_job_runs_once(start: Start, server: Server, store: redis.Redis, tmp_path: Path) -> None:
    record, jobs = str(tmp_path / "record"), 0
    # RQ's maintenance looks at the intermediate queue, and may note that it saw a job which has ended by then
    rq.Queue(connection=store).acquire_maintenance_lock()
    with ExitStack() as fleet:
        fleet.enter_context(rq_worker(server, tmp_path))
        fleet.enter_context(rq_worker(server, tmp_path, "-w", "rq.worker.SimpleWorker"))
        for mode in ("thread", "process"):
            start("-n", "2", "--accept", "json,pickle", mode=mode, serve=("samples_rq",))
        eventually(lambda: store.scard(keys.WORKERS) == FLEET)
        while len(who_ran(store)) < 2 * FLEET and jobs < 3 * JOBS:  # repeated when a worker was delayed meanwhile
            enqueue_mixed(store, record, jobs)
            jobs += JOBS
            eventually(lambda jobs=jobs: number_finished(store) == jobs, 100)  # type: ignore[misc]
        seen = rq_info(server)
    assert sorted(map(int, lines(record))) == list(range(jobs))
    assert re.search(rf"default .* 0, 0 executing, {jobs} finished, 0 failed", seen), seen
    assert f"{FLEET} workers, 1 queues" in seen
    ended = finished(store)
    assert sorted(job.return_value() for job in ended) == list(range(jobs))
    assert {len(job.results()) for job in ended} == {1}
    assert len(who_ran(store)) == 2 * FLEET, who_ran(store)


def number_finished(store: redis.Redis) -> int:
    return int(store.zcard(keys.registry("finished", "default")))


def finished(store: redis.Redis) -> list[Job]:
    ids = store.zrange(keys.registry("finished", "default"), 0, -1)
    return [job for job in Job.fetch_many([i.decode() for i in ids], store, Auto) if job]


def who_ran(store: redis.Redis) -> Counter[tuple[str | None, int]]:
    """Return how many jobs each worker has run, of either format: each must have some of both."""
    return Counter((job.worker_name, job.args[1] % 2) for job in finished(store))
