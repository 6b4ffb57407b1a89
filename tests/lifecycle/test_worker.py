"""A worker runs the jobs of its queues, each once, and ends when it should."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from conftest import Start
from helpers import Server, eventually, lines, submit

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys


def test_burst_on_empty_queues(start: Start, mode: str) -> None:
    tree = start("--burst", "-n", "2", mode=mode)
    assert tree.wait() == 0
    assert tree.done == 0


def test_jobs_wait_for_a_worker(start: Start, mode: str, queue: Queue, store: redis.Redis) -> None:
    """The jobs are submitted first, the worker starts later: no job is lost, the results are right."""
    jobs = [queue.enqueue("square", n) for n in range(50)]
    assert start("--burst", "-n", "2", mode=mode).wait() == 0
    assert [job.result(1) for job in jobs] == [n * n for n in range(50)]
    assert store.zcard(keys.registry("finished", "default")) == 50


def test_short_jobs_then_long_ones(start: Start, mode: str, queue: Queue, tmp_path: Path) -> None:
    record = str(tmp_path / "record")
    submit(queue, "samples.note", [(record, n) for n in range(1000)])
    submit(queue, "samples.note_and_nap", [(record, f"long {n}", 1.0) for n in range(8)])
    tree = start("--burst", "-n", "4", mode=mode)
    assert tree.wait() == 0, tree.log
    ran = lines(record)
    expected = [str(n) for n in range(1000)] + [f"{end} long {n}" for n in range(8) for end in ("start", "end")]
    assert sorted(ran) == sorted(expected)
    assert tree.done == 1008


def test_two_workers_share_a_queue(start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path) -> None:
    """Each job runs exactly once, and both workers get some: four jobs that wait for each other need all four slots."""
    record, waiting, gate = str(tmp_path / "record"), tmp_path / "waiting", tmp_path / "gate"
    trees = [start("-n", "2", mode=mode) for _ in range(2)]
    submit(queue, "samples.wait_for", [(str(waiting), n, str(gate)) for n in range(4)])
    eventually(lambda: len(lines(waiting)) == 4)
    submit(queue, "samples.note", [(record, n) for n in range(2000)])
    gate.touch()
    eventually(lambda: store.zcard(keys.registry("finished", "default")) == 2004)
    assert sorted(map(int, lines(record))) == list(range(2000))
    assert len(lines(waiting)) == 8
    assert [tree.stop() for tree in trees] == [0, 0]
    done = [tree.done for tree in trees]
    assert sum(done) == 2004
    assert min(done) >= 2


def test_queues_are_served_in_order(start: Start, store: redis.Redis, tmp_path: Path) -> None:
    record = str(tmp_path / "record")
    for name in ("low", "high"):
        submit(Queue(name, connection=store), "samples.note", [(record, f"{name} {n}") for n in range(20)])
    assert start("--burst", "-n", "1", "high", "low").wait() == 0
    assert lines(record) == [f"{name} {n}" for name in ("high", "low") for n in range(20)]


def test_processes_with_threads(start: Start, queue: Queue) -> None:
    """--mode process --threads: as many processes as -n says, with slots that are not in the main thread."""
    jobs = [queue.enqueue("samples.in_main_thread") for _ in range(20)]
    assert start("--burst", "-n", "2", "--threads", "3").wait() == 0
    assert {job.result(1) for job in jobs} == {False}


def test_the_process_and_the_thread_in_which_jobs_run(
    start: Start, mode: str, queue: Queue, store: redis.Redis
) -> None:
    """Thread mode: one process, many threads; process mode: many processes, each job in the main thread."""
    tree = start("-n", "3", mode=mode)
    eventually(lambda: len(tree.children()) == (1 if mode == "thread" else 3))
    jobs = [queue.enqueue("samples.in_main_thread") for _ in range(10)]
    assert {job.result(30) for job in jobs} == {mode == "process"}


@pytest.mark.parametrize("flags", [[], ["--burst"]])
def test_a_stdin_that_has_already_ended(server: Server, mode: str, flags: list[str]) -> None:
    """With --until-eof the end of stdin is a stop like any other, also while the worker is still starting."""
    command = [sys.executable, "-m", "jobqueue.cli", "worker", "--until-eof", "--mode", mode, "-n", "1", *flags]
    env = {**os.environ, "JOBQ_URL": server.url}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, "it may be told to stop while it still starts"
