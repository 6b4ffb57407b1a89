"""RQ 3.0 loses jobs when a worker on two queues is killed between claim and start; jobq does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import redis
import rq
from helpers import ROOT, Server, Tree, eventually, jobq, lines, status, submit

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys

JOBS = 6

PLAIN_RQ = """
import os, signal, sys
import redis
from rq import Queue, SimpleWorker

class Dies(SimpleWorker):
    def execute_job(self, job, queue):  # popped and fetched, not yet started
        os.kill(os.getpid(), signal.SIGKILL)

r = redis.Redis(unix_socket_path=sys.argv[1])
Dies([Queue("high", connection=r), Queue("default", connection=r)], connection=r).work(burst=True)
"""

DIES_WITH_A_CLAIM = """
import os, pathlib, signal, time
import psutil
from jobqueue.workers.child.slot import Slot

def die_with_the_whole_tree(self, job):
    pathlib.Path(os.environ["CLAIMED"]).write_text(job.id)
    psutil.Process(os.getppid()).parent().send_signal(signal.SIGKILL)
    time.sleep(60)

Slot._run_one = die_with_the_whole_tree
"""


def test_plain_rq_loses_the_job_and_doctor_brings_it_back(
    server: Server, store: redis.Redis, start: Callable[..., Tree], tmp_path: Path
) -> None:
    queue = rq.Queue("default", connection=store, serializer="json")
    jobs = [queue.enqueue("samples.note", str(tmp_path / "ran"), n) for n in range(JOBS)]
    for _ in range(3):
        dead = subprocess.run([sys.executable, "-c", PLAIN_RQ, server.socket], capture_output=True, timeout=60)
        assert dead.returncode == -9, dead.stderr
    waiting = {job_id.decode() for job_id in store.lrange(keys.queue("default"), 0, -1)}  # type: ignore[union-attr]
    lost = [job.id for job in jobs if job.id not in waiting]
    assert len(lost) == 3
    assert not store.exists(keys.intermediate("default"), keys.registry("wip", "default"))  # the jobs are in no list
    assert {status(store, job_id) for job_id in lost} == {"queued"}

    assert sorted(lost_jobs(server)["ids"]) == sorted(lost)
    assert sorted(lost_jobs(server, "--fix")["ids"]) == sorted(lost)
    assert lost_jobs(server)["severity"] == "ok"
    store.delete(*store.scan_iter(f"{keys.PREFIX}:worker*"))  # RQ's dead workers stay registered for eight minutes
    assert store.lrange(keys.queue("default"), 0, -1) == [job.id.encode() for job in jobs]
    start("--burst", "high", "default").wait()
    assert sorted(lines(tmp_path / "ran"), key=int) == [str(n) for n in range(JOBS)]


def test_jobq_loses_no_job_by_the_same_kill(
    queue: Queue, store: redis.Redis, start: Callable[..., Tree], tmp_path: Path, mode: str
) -> None:
    (tmp_path / "deadly.py").write_text(DIES_WITH_A_CLAIM)
    jobs = submit(queue, "samples.note", [(str(tmp_path / "ran"), n) for n in range(JOBS)])
    path = os.pathsep.join([str(tmp_path), str(ROOT / "tests"), str(ROOT)])
    for attempt in range(2):
        claimed = tmp_path / f"claimed-{attempt}"
        tree = start(
            *("high", "default", "-n", "1"),
            mode=mode,
            serve=("samples", "deadly"),
            JOBQ_LEASE="1",
            PYTHONPATH=path,
            CLAIMED=str(claimed),
        )
        eventually(lambda tree=tree: tree.process.poll() is not None)  # type: ignore[misc]
        tree.was_killed = True
        job_id = claimed.read_text()
        assert [key for key in keys_of_owners(store) if store.zscore(key, job_id)], "it is in a dead one's hands"
    start("high", "default", mode=mode, JOBQ_LEASE="1")
    eventually(lambda: len(lines(tmp_path / "ran")) == JOBS)
    eventually(lambda: {status(store, job.id) for job in jobs} == {"finished"})
    assert sorted(lines(tmp_path / "ran"), key=int) == [str(n) for n in range(JOBS)]


@pytest.mark.parametrize("then", ["waits", "runs"])
def test_jobs_that_rqs_workers_took_over_are_not_rescued(
    store: redis.Redis, start: Callable[..., Tree], tmp_path: Path, mode: str, then: str
) -> None:
    """All our processes died, RQ's workers took over, their maintenance failed the jobs that had run, and one was
    requeued."""
    queue = rq.Queue(connection=store, serializer="json")
    job = queue.enqueue("samples.wait_for", str(tmp_path / "ran"), 1, str(tmp_path / "gate"))
    tree = start("-n", "1", mode=mode, JOBQ_LEASE="1")
    eventually(lambda: status(store, job.id) == "started")
    tree.process.kill()
    tree.was_killed = True
    eventually(lambda: not psutil.pid_exists(tree.process.pid) or tree.process.poll() is not None)
    (member,) = store.zrange(keys.registry("wip", "default"), 0, -1)  # type: ignore[misc]
    store.zadd(keys.registry("wip", "default"), {member: 1})
    queue.started_job_registry.cleanup()
    assert status(store, job.id) == "failed"
    job.requeue()
    store.set(keys.SUSPENDED, 1)
    if then == "runs":  # by an RQ worker
        store.lpop(keys.queue("default"))
        execution = rq.SimpleWorker([queue], connection=store).prepare_execution(
            rq.job.Job.fetch(job.id, store, "json")
        )
        store.hset(keys.job(job.id), mapping={"status": "started", "worker_name": "rqs"})
        assert execution is not None
    start("-n", "1", mode=mode, JOBQ_LEASE="1")
    eventually(lambda: not any(map(store.exists, keys_of_owners(store))))
    waiting = [job.id.encode()] if then == "waits" else []
    assert store.lrange(keys.queue("default"), 0, -1) == waiting
    assert status(store, job.id) == ("queued" if then == "waits" else "started")
    store.flushall()


def lost_jobs(server: Server, *flags: str) -> dict[str, Any]:
    """Return what `jobq doctor` says of lost jobs."""
    ran = jobq(server, "doctor", "--json", "--patience", "0.5", *flags)
    assert ran.returncode in (0, 3, 4), ran.stderr
    (finding,) = [f for f in json.loads(ran.stdout)["findings"] if f["check"] == "limbo"]
    return cast(dict[str, Any], finding)


def keys_of_owners(store: redis.Redis) -> list[str]:
    members = store.smembers(keys.OWNERS)
    return [keys.own(owner.decode()) for owner in members]  # type: ignore[union-attr]
