"""jobq and RQ on one store: each runs the jobs that the other enqueued, and RQ's tools show our workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import redis
import rq
from conftest import Start
from helpers import ROOT, Server, eventually, program_path
from rq.job import Job
from rq.serializers import JSONSerializer

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys


def run_rq(server: Server, directory: Path, *argv: str) -> str:
    """Run the ``rq`` command to its end; return its output."""
    paths = program_path(ROOT, ROOT / "tests")
    run = subprocess.run(
        [sys.executable, "-m", "rq.cli", argv[0], "--url", server.url, *argv[1:]],
        env={**os.environ, "PYTHONPATH": paths, "NO_COLOR": "1"},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


def test_we_run_rqs_jobs(start: Start, mode: str, store: redis.Redis) -> None:
    queue = rq.Queue(connection=store, serializer=JSONSerializer)
    job = queue.enqueue("jobqueue.tasks.square", 4)
    start("-n", "2", mode=mode, serve=())
    eventually(lambda: job.get_status(refresh=True).value == "finished")
    assert job.return_value() == 16
    assert job.latest_result().type == rq.results.Result.Type.SUCCESSFUL


def test_we_run_rqs_pickled_jobs(start: Start, mode: str, store: redis.Redis) -> None:
    """Pickled arguments, and a result that only pickle can represent."""
    queue = rq.Queue(connection=store)
    jobs = [queue.enqueue("samples.ok", {1, 2}), queue.enqueue("samples.return_a_set")]
    assert start("--burst", "-n", "2", "--accept", "json,pickle", mode=mode).wait() == 0
    assert [job.return_value(refresh=True) for job in jobs] == [{1, 2}, {1, 2}]


def test_rq_runs_our_jobs(server: Server, store: redis.Redis, queue: Queue, tmp_path: Path) -> None:
    job = queue.enqueue("square", 5)
    bad = queue.enqueue("samples.fail", "no")
    run_rq(server, tmp_path, "worker", "--burst", "-w", "rq.worker.SimpleWorker", "--serializer", "json")
    assert job.result(1) == 25
    assert bad.get_status(refresh=True).value == "failed"
    assert Job.fetch(job.id, store, "json").return_value() == 25


def test_rq_sees_our_workers(start: Start, mode: str, server: Server, store: redis.Redis, tmp_path: Path) -> None:
    tree = start("-n", "2", mode=mode)
    gate = tmp_path / "gate"
    Queue(connection=store).enqueue("samples.wait_for", str(tmp_path / "record"), 1, str(gate))
    eventually(lambda: store.exists(keys.registry("wip", "default")))
    eventually(lambda: "busy" in run_rq(server, tmp_path, "info", "--only-workers"))
    [worker] = rq.Worker.all(connection=store)
    assert worker.pid == tree.pid
    assert worker.queue_names() == ["default"]
    assert worker.name in run_rq(server, tmp_path, "info")
    gate.touch()
    assert tree.stop() == 0
    assert rq.Worker.all(connection=store) == []
    assert "0 workers" in run_rq(server, tmp_path, "info")


def test_rqs_suspend_command_stops_our_workers(
    start: Start, server: Server, store: redis.Redis, queue: Queue, tmp_path: Path
) -> None:
    """RQ's commands themselves are used, not only the key that they set."""
    run_rq(server, tmp_path, "suspend")
    job = queue.enqueue("square", 6)
    assert start("--burst", "-n", "1").wait() == 0
    assert queue.job_ids == [job.id]
    run_rq(server, tmp_path, "resume")
    assert start("--burst", "-n", "1").wait() == 0
    assert job.result(1) == 36
