"""A job ends by its time limit, whatever it does, and the other jobs of its worker continue."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis
from conftest import Start
from helpers import eventually, failed, lines, submit, uncounted
from rq import Callback, Retry
from samples import words_of

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys

SLOTS = 3


def all_slots_work(queue: Queue, record: Path, gate: Path) -> None:
    """Assert that as many jobs as there are slots run at once."""
    jobs = submit(queue, "samples.wait_for", [(str(record), n, str(gate)) for n in range(SLOTS)])
    eventually(lambda: len(lines(record)) == SLOTS)
    gate.touch()
    assert [job.result(30) for job in jobs] == list(range(SLOTS))


def test_sleeping_jobs_end_at_their_time_limit(
    start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path
) -> None:
    """In thread mode such jobs cannot be woken: their threads are written off, and their slots are replaced. RQ's
    retries still apply."""
    record = tmp_path / "runs"
    start("-n", str(SLOTS), mode=mode)
    job = queue.enqueue("samples.sleep_in_c", 3600, job_timeout=1)
    call = ("samples.hang", str(record), "x", "sleep", 3600)
    retried = queue.enqueue(*call, job_timeout=1, retry=Retry(max=1))
    for ended in (job, retried):
        assert "time limit of 1 s" in eventually(lambda ended=ended: failed(store, ended.id))  # type: ignore[misc]
        assert uncounted(store, ended.id)
    assert lines(record) == ["start x", "start x"]
    assert store.hget(keys.job(retried.id), "retries_left") == b"0"
    all_slots_work(queue, tmp_path / "record", tmp_path / "gate")


@pytest.mark.parametrize("mode", ["thread"])
def test_a_worker_ends_after_the_end_of_a_written_off_job_is_recorded(
    start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path
) -> None:
    """RQ's own finish takes its time while no slot works any more; if the worker ended before, the job would run
    again."""
    record = tmp_path / "record"
    tree = start("-n", "2", mode=mode)
    call = ("samples.hang", str(record), "x", "sleep", 3600)
    job = queue.enqueue(*call, job_timeout=1, on_failure=Callback("samples.slow_on_failure"))
    eventually(lambda: lines(record))
    assert tree.stop() == 0
    assert "time limit of 1 s" in failed(store, job.id)
    assert store.hget(words_of(job.id), "failure") is not None
    assert store.llen(keys.queue("default")) == 0
    assert lines(record) == ["start x"]


def test_a_job_in_c_code_that_keeps_the_gil_is_killed_at_its_limit(
    start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path
) -> None:
    """The job's process is killed. Other jobs of the process run again, uncounted."""
    record, gate = tmp_path / "record", tmp_path / "gate"
    start("-n", str(SLOTS), mode=mode)
    neighbours = submit(queue, "samples.wait_for", [(str(record), n, str(gate)) for n in range(SLOTS - 1)])
    eventually(lambda: len(lines(record)) == SLOTS - 1)
    hog = queue.enqueue("samples.hold_the_gil", 60, job_timeout=1)
    began = time.monotonic()
    assert "time limit of 1 s" in eventually(lambda: failed(store, hog.id))
    assert time.monotonic() - began < 15
    gate.touch()
    assert [job.result(30) for job in neighbours] == list(range(SLOTS - 1))
    assert all(uncounted(store, job.id) for job in (hog, *neighbours))
    ran = len([line for line in lines(record) if line.startswith("start")])
    assert ran == (SLOTS - 1) * (2 if mode == "thread" else 1)
    all_slots_work(queue, tmp_path / "record2", tmp_path / "gate2")


@pytest.mark.parametrize("mode", ["process"])
def test_jobs_do_not_wait_behind_one_that_keeps_the_gil(start: Start, mode: str, queue: Queue, tmp_path: Path) -> None:
    """Jobs that were claimed ahead run in another worker; the job without a limit keeps its worker for longer than the
    lease."""
    record = tmp_path / "record"
    trees = [start("-n", "2", mode=mode, JOBQ_LEASE="4")]
    trees.append(start("-n", "1", mode=mode, JOBQ_LEASE="4"))  # it would rescue jobs of a dead worker
    calls = [("samples.ok", n) for n in range(300)]
    before = [queue.enqueue(*call) for call in calls]
    hog = queue.enqueue("samples.hang", str(record), "x", "hold", 10)
    behind = [queue.enqueue(*call) for call in calls]
    eventually(lambda: lines(record))
    assert [job.result(30) for job in behind] == list(range(300))
    assert [job.result(30) for job in before] == list(range(300))  # finished and not reported ones too
    assert lines(record) == ["start x"]  # which still holds the GIL
    assert hog.result(30) is None
    assert lines(record) == ["start x", "end x"]
    assert not [tree.log for tree in trees if "no longer ours" in tree.log or "rescued" in tree.log]
