"""RQ's worker classes and user code that is no job: callbacks of a dead horse's jobs, RQ's maintenance, decoding. In
Worker none of it runs in the parent, so it costs at most its own job."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis
import rq
import samples_unfriendly
from helpers import ROOT, Server, Tree, abandon, assert_nothing_left, eventually, program_path
from rq.job import Job, Retry

from jobqueue.protocol import keys

StartRQ = Callable[..., Tree]
RUDE = ("exit", "exit as if all were well", "kill", "stop", "keep")
CALLBACK = "samples_unfriendly.be_rude_on_failure"
WITHIN = 60.0


def status(job: Job) -> str:
    return str(job.get_status(refresh=True).value)


def text(job: Job) -> str:
    return job.latest_result().exc_string or ""


def callers(store: redis.Redis, job: Job) -> list[int]:
    """Return the pids of the processes that have called the job's callback."""
    return [int(pid) for pid in store.lrange(f"called:{job.id}", 0, -1)]


def enqueue_with_callback(
    queue: rq.Queue, function: str, *args: object, how: str, timeout: int = 1, **more: object
) -> Job:
    return queue.enqueue(function, *args, on_failure=rq.Callback(CALLBACK, timeout=timeout), meta={"how": how}, **more)


def all_finish(queue: rq.Queue, count: int = 5) -> None:
    jobs = [queue.enqueue("samples.ok", n) for n in range(count)]
    eventually(lambda: {status(job) for job in jobs} == {"finished"}, WITHIN)


def leaves(tree: Tree, store: redis.Redis) -> None:
    """Assert that the worker stops at once and leaves nothing behind."""
    began = time.monotonic()
    assert tree.stop() == 0
    assert time.monotonic() - began < 8
    assert_nothing_left([tree], store)
    assert not store.smembers(keys.OWNERS)
    assert not list(store.scan_iter("rq:jobq:own:*")) + list(store.scan_iter("rq:jobq:lease:*"))


@pytest.mark.parametrize("how", RUDE)
def test_a_failure_callback_after_the_death_of_the_horse(
    start_rq: StartRQ, store: redis.Redis, how: str, tmp_path: Path
) -> None:
    queue = rq.Queue(connection=store)
    tree = start_rq("Worker", lease="60")
    poison = enqueue_with_callback(queue, "samples.kill_itself", str(tmp_path / "record"), how=how)
    all_finish(queue)
    eventually(lambda: status(poison) == "failed", WITHIN)
    assert "Work-horse terminated unexpectedly; waitpid returned 9" in text(poison)
    (caller,) = callers(store, poison)
    assert caller != tree.pid
    assert not psutil.pid_exists(caller)
    leaves(tree, store)


@pytest.mark.parametrize("how", RUDE[:3])
def test_a_failure_callback_in_the_horse(start_rq: StartRQ, store: redis.Redis, how: str) -> None:
    """The callback ends the horse and is called once more; the job's own failure stays recorded."""
    queue = rq.Queue(connection=store)
    tree = start_rq("Worker", lease="60")
    poison = enqueue_with_callback(queue, "samples.fail", "no", how=how)
    all_finish(queue)
    eventually(lambda: status(poison) == "failed", WITHIN)
    assert "ValueError: no" in text(poison)
    assert tree.pid not in callers(store, poison)
    leaves(tree, store)


def test_rqs_retries_apply_after_a_callback_that_ends_its_process(
    start_rq: StartRQ, store: redis.Redis, tmp_path: Path
) -> None:
    """A burst does so too: it waits for the jobs that the finish enqueues."""
    queue = rq.Queue(connection=store)
    record = str(tmp_path / "record")
    poison = enqueue_with_callback(queue, "samples.kill_itself", record, how="exit", retry=Retry(max=2))
    assert start_rq("Worker", "--burst", lease="60").wait() == 0
    assert (status(poison), len(callers(store, poison))) == ("failed", 3)


def test_a_stop_limits_the_time_of_a_callback(start_rq: StartRQ, store: redis.Redis, tmp_path: Path) -> None:
    """The callback may run for ten minutes: a stop gives it ten seconds."""
    queue = rq.Queue(connection=store)
    tree = start_rq("Worker", lease="60")
    poison = enqueue_with_callback(queue, "samples.kill_itself", str(tmp_path / "record"), how="keep", timeout=600)
    eventually(lambda: callers(store, poison))
    all_finish(queue)
    began = time.monotonic()
    assert tree.stop() == 0
    assert time.monotonic() - began < 25
    assert status(poison) == "failed"
    assert "Work-horse terminated unexpectedly" in text(poison)
    assert_nothing_left([tree], store)


def test_meta_that_ends_the_process_when_it_is_loaded(start_rq: StartRQ, store: redis.Redis, tmp_path: Path) -> None:
    """The parent does not load such meta."""
    queue = rq.Queue(connection=store)
    tree = start_rq("Worker", lease="60")
    record = str(tmp_path / "record")
    meta = {"it": samples_unfriendly.Rude("exit")}
    poison = queue.enqueue("samples.kill_itself", record, meta=meta, on_failure=rq.Callback("samples_rq.note_failure"))
    eventually(lambda: status(poison) == "failed", WITHIN)
    all_finish(queue)
    leaves(tree, store)


def test_a_callback_for_the_job_of_another_worker(start_rq: StartRQ, store: redis.Redis, tmp_path: Path) -> None:
    """The worker was killed with its horse: another worker rescues its job and calls the callback."""
    queue = rq.Queue(connection=store)
    first = start_rq("Worker")
    running = enqueue_with_callback(
        queue, "samples.wait_for", str(tmp_path / "record"), 1, str(tmp_path / "gate"), how="exit"
    )
    eventually(lambda: status(running) == "started")
    first.kill()
    second = start_rq("Worker")
    eventually(lambda: status(running) == "failed", WITHIN)
    all_finish(queue)
    assert second.pid not in callers(store, running)
    leaves(second, store)


def test_a_simple_worker_limits_a_callback(start_rq: StartRQ, store: redis.Redis, tmp_path: Path) -> None:
    """A SimpleWorker runs such a callback in its only process. A job may have blocked the signal that interrupts it."""
    queue = rq.Queue(connection=store)
    first = start_rq("Worker")
    calls = {"on_failure": rq.Callback("samples_unfriendly.on_failure", timeout=1), "meta": {"failure": "sleep"}}
    running = queue.enqueue("samples.wait_for", str(tmp_path / "record"), 1, str(tmp_path / "gate"), **calls)
    eventually(lambda: status(running) == "started")
    first.kill()
    second = start_rq("SimpleWorker")
    eventually(lambda: status(running) == "failed", WITHIN)
    all_finish(queue)
    assert store.lrange(f"called:{running.id}", 0, -1) == [b"failure"]
    leaves(second, store)


# -- RQ's maintenance --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_a_callback_in_rqs_maintenance(start_rq: StartRQ, store: redis.Redis, how: str) -> None:
    """The entries after its job are maintained all the same, and the queue's lock is released."""
    queue = rq.Queue(connection=store)
    jobs = [enqueue_with_callback(queue, "samples.ok", n, how=how) for n in range(3)]
    for job in jobs:
        abandon(store, queue, job)
    tree = start_rq("Worker", lease="60")
    eventually(lambda: {status(job) for job in jobs} == {"failed"}, WITHIN)
    all_finish(queue)
    assert len([pid for job in jobs for pid in callers(store, job)]) == 1
    eventually(lambda: not store.exists(queue.registry_cleaning_key))
    assert "it is done without callbacks and handlers" in tree.log
    assert tree.stop() == 0
    eventually(lambda: not tree.processes())


def test_an_exception_handler_that_raises_in_rqs_maintenance(start_rq: StartRQ, store: redis.Redis) -> None:
    """SimpleWorker calls the handler in its only process."""
    queue = rq.Queue(connection=store)
    job = queue.enqueue("samples.ok", 1)
    abandon(store, queue, job)
    tree = start_rq("SimpleWorker", "--exception-handler", "samples_rq.handle_and_exit")
    eventually(lambda: "RQ's maintenance failed" in tree.log)
    all_finish(queue)
    assert tree.stop() == 0


# -- handle_work_horse_killed ------------------------------------------------------------------------------------------

HANDLER = """
import os, sys
import redis, rq
import samples_unfriendly
from jobqueue.rq import Worker

def told(job, pid, status, usage):
    job.connection.rpush("told", f"{os.getpid() == parent} {job.meta}")
    samples_unfriendly.be_rude("raise")

parent = os.getpid()
r = redis.Redis(unix_socket_path=sys.argv[1])
Worker([rq.Queue(connection=r)], connection=r, work_horse_killed_handler=told).work(burst=True)
print("went on")
"""


def test_a_killed_horse_handler_that_exits(server: Server, store: redis.Redis, tmp_path: Path) -> None:
    """The handler is called in the parent, as in RQ; what it raises does not end the parent."""
    queue = rq.Queue(connection=store)
    poison = queue.enqueue("samples.kill_itself", str(tmp_path / "record"), meta={"a": 1})
    last = queue.enqueue("samples.ok", 1)
    env = {**os.environ, "PYTHONPATH": program_path(ROOT, ROOT / "tests")}
    command = [sys.executable, "-c", HANDLER, server.socket]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, start_new_session=True)
    assert (ran.returncode, ran.stdout.splitlines()[-1]) == (0, "went on"), ran.stderr
    assert store.lrange("told", 0, -1) == [b"True {'a': 1}"]
    assert (status(poison), status(last)) == ("failed", "finished")
    assert "Work-horse terminated unexpectedly; waitpid returned 9" in text(poison)
