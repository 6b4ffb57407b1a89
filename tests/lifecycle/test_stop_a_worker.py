"""Stopping a worker: running jobs finish or go back, buffered jobs go back in order, and nothing is counted as a
failure."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from conftest import Start
from helpers import Tree, eventually, lines, submit
from rq.job import Job

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.serializers import Auto

pytestmark = pytest.mark.parametrize("mode", ["thread", "process"])

JOBS = 200


def started(record: str) -> list[str]:
    return [line.removeprefix("start ") for line in lines(record) if line.startswith("start ")]


def waiting(store: redis.Redis) -> list[str]:
    return [job_id.decode() for job_id in store.lrange(keys.queue("default"), 0, -1)]


def all_are_quiet(tree: Tree) -> bool:
    """Return whether every child has given back the jobs that it does not run, in time or late."""
    late = re.search(r"quiet: .* (\d+) children have not answered", tree.log)
    return late is not None and tree.log.count("answers late") == int(late[1])


def nothing_is_counted(store: redis.Redis, ids: list[str]) -> None:
    assert store.zcard(keys.registry("failed", "default")) == 0
    with store.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.hgetall(keys.job(job_id))
        jobs = pipe.execute()
    for fields in jobs:
        assert fields[b"status"] == b"queued"
        assert not {b"jobq_crashes", b"jobq_redelivered"} & set(fields)


class Held:
    """A worker with two slots whose running jobs wait for a gate, and many jobs behind them."""

    def __init__(self, start: Start, mode: str, queue: Queue, tmp_path: Path, *flags: str) -> None:
        self.record, self.gate = str(tmp_path / "record"), tmp_path / "gate"
        warm = [queue.enqueue("samples.ok", n) for n in range(JOBS)]  # short jobs: the buffers grow
        calls = [(self.record, n, str(self.gate)) for n in range(JOBS)]
        self.ids = [job.id for job in submit(queue, "samples.wait_for", calls)]
        self.tree: Tree = start("-n", "2", *flags, mode=mode)
        eventually(lambda: len(started(self.record)) == 2)
        assert [job.result(30) for job in warm] == list(range(JOBS))
        self.running = [self.ids[int(n)] for n in started(self.record)]
        self.others = [job_id for job_id in self.ids if job_id not in self.running]

    def all_are_back(self, store: redis.Redis) -> None:
        """Interrupted jobs and jobs that never started are in the order of their submission, whichever child gave back
        first."""
        assert waiting(store) == self.ids
        nothing_is_counted(store, self.ids)


def test_buffered_jobs_keep_their_order(
    start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path
) -> None:
    """The worker is stopped during short jobs, while buffers are full: jobs that did not run are in the queue in the
    order of submission."""
    record, many = str(tmp_path / "record"), 6000  # so many that some are left however late the stop comes
    ids = [job.id for job in submit(queue, "samples.note_and_nap", [(record, n, 0.004) for n in range(many)])]
    tree = start("-n", "4", mode=mode)
    eventually(lambda: len(lines(record)) > 200)
    assert tree.stop() == 0
    ran = {ids[int(n)] for n in started(record)}
    assert 100 < len(ran) < many
    assert len(started(record)) == len(ran)
    assert waiting(store) == [job_id for job_id in ids if job_id not in ran]
    nothing_is_counted(store, waiting(store))


@pytest.mark.parametrize("stop", ["SIGTERM", "SIGINT", "Ctrl-C"])
def test_running_jobs_finish(
    start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path, stop: str
) -> None:
    """Running jobs finish; all others are in the queue before the running ones are done."""
    held = Held(start, mode, queue, tmp_path, "-v")
    if stop == "Ctrl-C":
        held.tree.send_to_group(signal.SIGINT)
    else:
        held.tree.send(signal.Signals[stop])
    eventually(lambda: all_are_quiet(held.tree))
    eventually(lambda: waiting(store) == held.others)
    held.gate.touch()
    assert held.tree.wait() == 0
    assert waiting(store) == held.others
    nothing_is_counted(store, held.others)
    assert len(started(held.record)) == 2
    assert {Job.fetch(i, store, Auto).get_status().value for i in held.running} == {"finished"}


def test_a_second_signal_interrupts(start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path) -> None:
    """The running jobs are back at the head of their queue, uncounted."""
    held = Held(start, mode, queue, tmp_path, "-v")
    held.tree.send(signal.SIGTERM)
    eventually(lambda: all_are_quiet(held.tree))  # otherwise the kernel merges the second signal with the first
    eventually(lambda: len(waiting(store)) == JOBS - 2)
    held.tree.send(signal.SIGTERM)
    assert held.tree.wait() == 0
    assert not [line for line in lines(held.record) if line.startswith("end")]
    held.all_are_back(store)


def test_when_the_grace_is_over_running_jobs_go_back(
    start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path
) -> None:
    held = Held(start, mode, queue, tmp_path, "--grace", "0.2")
    assert held.tree.stop() == 0
    held.all_are_back(store)


def test_a_job_that_ignores_the_interrupt_is_killed(
    start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path
) -> None:
    """The job continues after the interrupt, so its process is killed; the job is back in its queue, uncounted."""
    record = str(tmp_path / "record")
    job = queue.enqueue("samples.shrug_off", record, 60)
    tree = start("-n", "1", "--grace", "0", mode=mode)
    eventually(lambda: lines(record) == ["start"])
    tree.send_to_group(signal.SIGTERM)
    assert tree.wait() == 0, tree.log
    assert lines(record) == ["start", "Interrupted"]
    assert waiting(store) == [job.id]
    nothing_is_counted(store, [job.id])


def test_with_on_crash_fail_an_interrupted_job_does_not_run_again(
    start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path
) -> None:
    record = str(tmp_path / "record")
    job = queue.enqueue("samples.note_and_nap", record, "x", 60)
    tree = start("-n", "1", "--grace", "0", "--on-crash", "fail", mode=mode)
    eventually(lambda: lines(record))
    assert tree.stop() == 0
    assert waiting(store) == []
    found = Job.fetch(job.id, store, Auto)
    assert found.get_status().value == "failed"
    assert "shut down while this job ran" in found.latest_result().exc_string


def test_a_stop_before_the_first_child_has_started(start: Start, mode: str, queue: Queue, store: redis.Redis) -> None:
    """A stop before the first child has started: the worker ends, and the jobs stay."""
    jobs = [queue.enqueue("samples.nap", 60) for _ in range(5)]
    tree = start("-n", "2", mode=mode)
    eventually(tree.fork_server)
    tree.send(signal.SIGTERM)
    assert tree.wait() == 0
    assert waiting(store) == [job.id for job in jobs]


def test_an_idle_worker_ends_at_once(start: Start, mode: str, queue: Queue) -> None:
    tree = start("-n", "2", mode=mode)
    assert queue.enqueue("square", 3).result(30) == 9
    assert tree.stop() == 0
    assert tree.done == 1


@contextmanager
def blocked() -> Iterator[None]:
    """Start what is started inside with all signals blocked, as a careless parent does."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=["TERM", "HUP", "INT"])
def test_a_worker_that_was_started_with_its_signals_blocked(
    start: Start, mode: str, queue: Queue, number: signal.Signals
) -> None:
    with blocked():
        tree = start("-n", "1", mode=mode)
    assert queue.enqueue("samples.ok", 3).result(30) == 3
    tree.send(number)
    assert tree.wait() == 0


def test_a_worker_that_was_started_with_its_signals_blocked_and_loads_a_cron_file(
    start: Start, mode: str, tmp_path: Path
) -> None:
    loads, file = tmp_path / "loads", tmp_path / "crons.py"
    file.write_text(f"import pathlib, time\npathlib.Path({str(loads)!r}).touch()\ntime.sleep(3600)\n")
    with blocked():
        tree = start("-n", "1", "--cron", str(file), mode=mode)
    eventually(loads.exists)
    tree.send(signal.SIGTERM)
    assert tree.wait() == 0


def test_the_log_of_a_plain_start_and_stop(start: Start, mode: str) -> None:
    """The log has no line without information."""
    tree = start("-n", "2", mode=mode)
    eventually(lambda: tree.children())
    tree.send(signal.SIGTERM)
    assert tree.wait() == 0
    assert "quiet:" not in tree.log
    assert max(map(len, tree.log.splitlines())) < 160
