"""A job that kills its process fails with the cause, its neighbours run again, and RQ's own finish is done."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest
import redis
from conftest import Start
from helpers import Tree, eventually, failed, lines, submit, uncounted
from rq import Callback, Retry
from rq.job import Dependency
from samples import words_of

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys

GOOD = 200


def test_a_segfault_counts_only_for_the_job_that_crashed(
    start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path
) -> None:
    """The death is counted only for the job that crashed, also if other jobs ran in its process."""
    record, bad = tmp_path / "record", tmp_path / "bad"
    calls = [(str(record), n, 0.01) for n in range(GOOD)]
    good = submit(queue, "samples.note_and_nap", calls[: GOOD // 2])
    culprit = queue.enqueue("samples.segfault", str(bad))
    good += submit(queue, "samples.note_and_nap", calls[GOOD // 2 :])
    start("-n", "3", mode=mode)
    assert "was killed by SIGSEGV." in eventually(lambda: failed(store, culprit.id))
    assert [job.result(30) for job in good] == list(range(GOOD))
    assert lines(bad) == ["start"] * 3
    assert store.hget(keys.job(culprit.id), "jobq_crashes") == b"3"
    assert all(uncounted(store, job.id) for job in good)
    ran = Counter(lines(record))
    # a job beside it may have noted its end without having reported it
    assert all(1 <= ran[f"end {n}"] <= ran[f"start {n}"] for n in range(GOOD))
    again = sum(ran[f"start {n}"] for n in range(GOOD)) - GOOD
    assert 0 <= again <= (3 * 2 if mode == "thread" else 0)  # the jobs that ran beside it, and no other


@pytest.mark.parametrize("mode", ["thread"])
def test_suspects_run_alone(start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path) -> None:
    """It is not known which of four jobs caused a SIGKILL: each runs again alone, uncounted."""
    record, barrier, slots = tmp_path / "record", tmp_path / "barrier", 4
    barrier.touch()  # none of the four ends before it has been killed
    jobs = submit(queue, "samples.nap_behind", [(str(barrier), str(record), n, 0.5) for n in range(slots)])
    jobs += submit(queue, "samples.note_and_nap", [(str(record), n, 0.05) for n in range(slots, 16)])
    tree: Tree = start("-n", str(slots), mode=mode)
    eventually(lambda: len(lines(record)) == slots)
    suspects = {line.removeprefix("start ") for line in lines(record)}
    [child] = tree.children()
    child.send_signal(signal.SIGKILL)
    barrier.unlink()
    assert [job.result(30) for job in jobs] == list(range(16))
    assert suspects == {str(n) for n in range(slots)}
    assert all(uncounted(store, job.id) for job in jobs)
    running: set[str] = set()
    for line in lines(record)[slots:]:
        word, name = line.split()
        running = running | {name} if word == "start" else running - {name}
        assert len(running) == 1 or not running & suspects, lines(record)


def test_a_signal_without_a_name(start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path) -> None:
    """Most real-time signals have no name; the supervisor continues."""
    start("-n", "2", mode=mode)
    job = queue.enqueue("samples.kill_itself", str(tmp_path / "record"), signal.SIGRTMIN + 5, on_crash="fail")
    assert f"was killed by signal {signal.SIGRTMIN + 5}." in eventually(lambda: failed(store, job.id))
    assert queue.enqueue("square", 4).result(30) == 16


def test_rqs_own_finish_after_a_death(
    start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path
) -> None:
    """The failure callback is called, dependents that allow a failure are enqueued, RQ's retries apply with --on-crash
    fail."""
    tree: Tree = start("-n", "2", mode=mode)
    record = tmp_path / "record"
    on_failure = Callback("samples.on_failure")
    job = queue.enqueue("samples.segfault", str(record), on_crash="fail", retry=Retry(max=1), on_failure=on_failure)
    dependent = queue.enqueue("square", 3, depends_on=Dependency(job, allow_failure=True))
    patient = queue.enqueue("square", 3, depends_on=job)
    assert "was killed by SIGSEGV." in eventually(lambda: failed(store, job.id))
    assert lines(record) == ["start"] * 2
    assert store.hget(keys.job(job.id), "retries_left") == b"0"
    assert dependent.result(30) == 9
    assert patient.get_status(refresh=True).value == "deferred"
    said = store.hget(words_of(job.id), "failure")
    assert b"was killed by SIGSEGV" in (said or b"")
    eventually(lambda: len(tree.children()) == (1 if mode == "thread" else 2))


def test_a_callback_that_kills_its_process(
    start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path
) -> None:
    """The callback is not called again and again: the job is recorded as failed without it."""
    tree: Tree = start("-n", "2", mode=mode)
    job = queue.enqueue(
        "samples.exit_process", str(tmp_path / "record"), on_crash="fail", on_failure=Callback("samples.fatal_callback")
    )
    assert "exited with status 7." in eventually(lambda: failed(store, job.id))
    assert store.hgetall(words_of(job.id)) == {b"failure": b"called"}
    assert store.xlen(keys.results(job.id)) == 1
    assert "1 job is recorded without own code" in tree.log
    assert queue.enqueue("square", 4).result(30) == 16
