"""A worker that cannot work does not look alive, whatever the store or a job does: its roles continue, or its health
check names the failure."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import redis
from conftest import Start
from helpers import Server, Tree, eventually, jobq, lines
from samples_unfriendly import FOREVER

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys


def why(path: Path) -> str:
    """Return the reason in the health file."""
    try:
        return str(json.loads(path.read_text())["why"])
    except FileNotFoundError:
        return ""


def name_of(store: redis.Redis) -> str:
    """Return the name of the only worker."""
    (key,) = eventually(lambda: store.smembers(keys.WORKERS))
    return str(key.decode().removeprefix(keys.worker("")))


# -- what stands in the store ----------------------------------------------------------------------------------------


def spoil(store: redis.Redis, queue: Queue) -> None:
    """Store invalid schedules, as an older version, RQ or an attacker might."""
    for n, fields in enumerate(
        [
            {"every": "3e11"},
            {"every": "True"},
            {"every": "nan"},
            {"every": "-5"},
            {"every": "", "cron": "x"},
            {"every": "", "cron": ""},
        ]
    ):
        queue.schedule("square", 3, every=60, schedule_id=f"bad{n}")
        store.hset(keys.schedule(f"bad{n}"), mapping=fields)  # type: ignore[arg-type]
        store.zadd(keys.SCHEDULES, {f"bad{n}": 1000.0 + n})
    store.zadd(keys.SCHEDULES, {"typed": 1.0, b"\xff": 2.0, "endless": float("inf")})
    store.set(keys.schedule("typed"), "x")
    store.hset(keys.schedule("").encode() + b"\xff", "every", "1")
    store.zadd(keys.registry("scheduled", "default"), {"nobody": float("inf")})
    store.sadd(keys.OWNERS, b"\xff:0.1", "no owner", "gone:0.1", "strange:0.1")
    store.hset(keys.worker("gone"), "jobq_lease", "for ever")
    store.set(keys.worker("strange"), "x")


ORDERS = [
    '{"command": "stop-job", "job_id": "\\ud800"}',
    '{"command": "stop-job"}',
    '{"command": "stop-execution", "execution_id": [1, 2]}',
    '{"command": {"a": 1}}',
    '{"command": "stop-execution", "execution_id": "' + "f" * 5000 + '"}',
    "[" * 50_000,
    '{"command": "kill-horse", "x": ' + "9" * 5000 + "}",
]


def test_invalid_schedules_in_the_store_stop_nothing(
    start: Start, mode: str, server: Server, store: redis.Redis, queue: Queue, tmp_path: Path
) -> None:
    """The valid schedule is enqueued, jobs run, commands are received, and the health check says so; each wrong entry
    is logged."""
    spoil(store, queue)
    path = tmp_path / "health"
    tree: Tree = start("-n", "1", "--health-file", str(path), mode=mode, JOBQ_LEASE="2")
    eventually(lambda: why(path) == "able to claim")
    for order in ORDERS:
        store.publish(keys.channel(name_of(store)), order)
    queue.schedule("square", 4, every=0.5, schedule_id="good")
    eventually(lambda: int(store.hget(keys.schedule("good"), "runs") or 0) >= 2)
    assert queue.enqueue("square", 7).result(30) == 49
    assert why(path) == "able to claim"
    eventually(lambda: all(f"the schedule 'bad{n}' is skipped" in tree.log for n in range(6)))
    listed = [json.loads(line) for line in jobq(server, "schedule", "list", "--json").stdout.splitlines()]
    assert {view["id"] for view in listed if view["problem"]} >= {*(f"bad{n}" for n in range(6)), "typed", "endless"}
    assert tree.stop() == 0
    assert "Traceback" not in tree.log
    for owner in store.smembers(keys.OWNERS):  # of other names: ours is none of them
        assert name_of_tree(tree) not in owner.decode(errors="replace")
    store.delete(keys.OWNERS, keys.worker("strange"))


def name_of_tree(tree: Tree) -> str:
    return f"-{tree.pid}-"


@pytest.mark.parametrize("what", ["registration", "lease"])
def test_a_key_of_a_wrong_type_in_place_of_the_registration(
    start: Start, store: redis.Redis, queue: Queue, tmp_path: Path, what: str
) -> None:
    path = tmp_path / "health"
    start("-n", "1", "--health-file", str(path), JOBQ_LEASE="2")
    eventually(lambda: why(path) == "able to claim")
    worker = name_of(store)
    key = keys.worker(worker) if what == "registration" else keys.lease(worker)
    store.delete(key)
    store.rpush(key, "x")
    eventually(lambda: store.type(key) == (b"hash" if what == "registration" else b"string"))
    assert queue.enqueue("square", 3).result(30) == 9
    assert store.hget(keys.worker(worker), "queues") == b"default"


# -- numbers of any size ---------------------------------------------------------------------------------------------


@pytest.mark.spread("mode")
@pytest.mark.parametrize("timeout", ["10000000000", "1e18", "1e308", "inf", "nan", "-5", "1" + "0" * 400])
def test_a_time_limit_of_any_size_stops_no_watchdog(
    start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path, timeout: str
) -> None:
    """The child's watchdog continues: it receives the stop, and the running job may finish."""
    record, gate = tmp_path / "record", tmp_path / "gate"
    tree: Tree = start("-n", "1", "-v", mode=mode)
    eventually(tree.children)
    store.sadd(keys.PAUSED, "default")  # so that it is not claimed before its limit is set
    job = queue.enqueue("samples.wait_for", str(record), "x", str(gate))
    store.hset(keys.job(job.id), "timeout", timeout)
    store.srem(keys.PAUSED, "default")
    eventually(record.exists)
    eventually(lambda: store.hget(keys.job(job.id), "status") == b"started")  # marked by the watchdog
    [child] = tree.children()
    tree.send(15)
    eventually(lambda: "quiet: 0 buffered jobs go back, 0 children have not answered" in tree.log)
    assert child.is_running()
    gate.touch()
    assert tree.wait() == 0
    assert job.result(5) == "x"


# -- children and fork servers that do not react ---------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close_everything", "allow_no_files"])
def test_a_job_that_closes_its_processes_descriptors(
    start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path, how: str
) -> None:
    """The job's outcome is recorded, its process replaced, and the next jobs run; the health check is good in the
    end."""
    path = tmp_path / "health"
    tree: Tree = start("-n", "1", "--health-file", str(path), mode=mode)
    [before] = eventually(tree.children)
    job = queue.enqueue(f"samples.{how}")
    jobs = [queue.enqueue("samples.ok", n) for n in range(20)]
    assert job.result(60) == ("closed" if how == "close_everything" else "none")
    assert [job.result(60) for job in jobs] == list(range(20))
    eventually(lambda: before not in tree.children(), 60)
    eventually(tree.children)
    eventually(lambda: why(path) == "able to claim")
    assert queue.enqueue("samples.where").result(60)["pid"] != before.pid
    assert store.hget(keys.job(job.id), "jobq_crashes") is None
    tree.send(15)
    assert tree.wait() == 0


def test_an_idle_child_that_is_stopped_is_replaced(start: Start, mode: str, queue: Queue, tmp_path: Path) -> None:
    path = tmp_path / "health"
    tree: Tree = start("-n", "1", "--health-file", str(path), mode=mode)
    assert queue.enqueue("samples.ok", 1).result(30) == 1
    eventually(lambda: why(path) == "able to claim")
    [before] = tree.children()
    before.suspend()
    eventually(lambda: why(path) == "its processes do not react")
    job = queue.enqueue("samples.ok", 2)
    assert job.result(30) == 2
    assert not before.is_running()
    eventually(lambda: why(path) == "able to claim")
    assert "is replaced: it is stopped" in tree.log


def held_in_all(store: redis.Redis) -> int:
    return sum(store.zcard(keys.own(owner.decode())) for owner in store.smembers(keys.OWNERS))


def test_a_child_that_is_stopped_between_two_jobs_holds_back_no_job(
    start: Start, queue: Queue, store: redis.Redis, tmp_path: Path
) -> None:
    """A child is stopped again and again, at any instant of a stream of short jobs: all jobs run, once."""
    tree: Tree = start("-n", "1")
    jobs = list(queue.enqueue_many("samples.note", [str(tmp_path / "record")] * 4000, range(4000)))
    for _ in range(5):
        child = eventually(tree.children)[0]
        child.suspend()
        eventually(lambda child=child: not child.is_running() or held_in_all(store) <= 1, 60)  # type: ignore[misc]
        if child.is_running():  # it runs one job
            child.resume()
    assert [job.result(60) for job in jobs] == list(range(4000))
    assert sorted(map(int, lines(tmp_path / "record"))) == list(range(4000))


def test_a_fork_server_that_is_stopped_is_replaced(start: Start, mode: str, queue: Queue) -> None:
    tree: Tree = start("-n", "1", mode=mode)
    eventually(tree.children)
    before = tree.fork_server()
    assert before is not None
    before.suspend()
    eventually(lambda: not before.is_running(), 60)
    eventually(lambda: (server := tree.fork_server()) is not None and server != before)
    assert queue.enqueue("samples.ok", 2).result(60) == 2


def test_a_fork_server_that_is_stopped_while_jobs_run_is_continued(start: Start, queue: Queue, tmp_path: Path) -> None:
    """The fork server is continued, as the running jobs would die with it."""
    record, gate = tmp_path / "record", tmp_path / "gate"
    tree: Tree = start("-n", "1")
    job = queue.enqueue("samples.wait_for", str(record), "x", str(gate))
    eventually(record.exists)
    server = tree.fork_server()
    assert server is not None
    server.suspend()
    eventually(lambda: "is stopped: it is continued" in tree.log, 60)
    eventually(lambda: server.status() != "stopped")
    gate.touch()
    assert job.result(30) == "x"
    assert lines(record) == ["start x", "end x"]


NO_FORKS = """
import os
real_fork = os.fork

def fork():
    if os.path.exists({!r}):
        raise OSError(11, "Resource temporarily unavailable")
    return real_fork()

os.fork = fork
"""


def test_a_child_that_cannot_be_started_is_started_later(start: Start, queue: Queue, tmp_path: Path) -> None:
    """The running job continues; the missing child is started when the system can start one."""
    flag = tmp_path / "flag"
    (tmp_path / "no_forks.py").write_text(NO_FORKS.format(str(flag)))
    record, gate = tmp_path / "record", tmp_path / "gate"
    tree: Tree = start("-n", "2", serve=("no_forks", "samples"))
    eventually(lambda: len(tree.children()) == 2)
    job = queue.enqueue("samples.wait_for", str(record), "x", str(gate))
    eventually(record.exists)
    flag.touch()
    server = tree.fork_server()
    busy = queue.enqueue("samples.where").result(30)["pid"]  # by the other child
    next(child for child in tree.children() if child.pid == busy).kill()
    eventually(lambda: "no process could be started" in tree.log, 60)
    assert tree.fork_server() == server
    flag.unlink()
    gate.touch()
    assert job.result(30) == "x"
    assert lines(record) == ["start x", "end x"]
    eventually(lambda: len(tree.children()) == 2, 60)


# -- a worker that was away for longer than its lease ----------------------------------------------------------------


@contextmanager
def stopped(tree: Tree) -> Iterator[None]:
    """Stop all processes of the worker; they continue one by one, the children first."""
    processes = [psutil.Process(tree.pid), *psutil.Process(tree.pid).children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in reversed(processes):
            process.resume()
            time.sleep(0.05)  # the next test relies on what this worker does by itself


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["retry", "fail"])
def test_jobs_that_another_worker_took_over_do_not_start(
    start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path, policy: str
) -> None:
    """A worker is stopped with a full buffer, and another one runs all jobs. The first continues and starts none of
    them."""
    record = tmp_path / "record"
    first: Tree = start("-n", "1", "--on-crash", policy, mode=mode, JOBQ_LEASE="2")
    jobs = list(queue.enqueue_many("samples.note_where", [str(record)] * 2000, range(2000), [0.001] * 2000))
    eventually(lambda: len(lines(record)) > 200 and held_in_all(store) > 5, every=0.001)
    with stopped(first):
        start("-n", "1", "--on-crash", policy, mode=mode, JOBQ_LEASE="2")
        ended = (b"finished", b"failed")
        eventually(lambda: all(store.hget(keys.job(job.id), "status") in ended for job in jobs), 100)
        before = lines(record)
    eventually(lambda: store.scard(keys.WORKERS) == 2)
    probe = [queue.enqueue("samples.ok", n) for n in range(20)]
    assert [job.result(60) for job in probe] == list(range(20))
    pid = before[0].split()[0]  # in it one job runs at a time, in order
    *_, last = (int(line.split()[1]) for line in before if line.startswith(f"{pid} "))
    # It may have been stopped between the start of a job and its line in the record: then that line comes late.
    assert lines(record)[len(before) :] in ([], [f"{pid} {last + 1}"])


@pytest.mark.parametrize("number", ["1", "2"])
def test_a_slot_that_is_stuck_in_the_garbage_collector(start: Start, mode: str, queue: Queue, number: str) -> None:
    """The slot's process is replaced, although its watchdog reacts and no job runs in it."""
    tree: Tree = start("-n", number, mode=mode, serve=("samples", "samples_unfriendly"))
    eventually(lambda: len(tree.children()) == (1 if mode == "thread" else int(number)))
    before = {child.pid for child in tree.children()}
    first, job = queue.enqueue("samples_unfriendly.keep_the_next_slot", FOREVER), queue.enqueue("samples.ok", 1)
    assert job.result(90) == 1
    assert first.result(90) is None
    eventually(lambda: "has not come back" in tree.log, 60)
    eventually(lambda: {child.pid for child in tree.children()} != before)
    assert tree.stop() == 0


def test_a_slot_that_is_stuck_after_its_job(start: Start, mode: str, queue: Queue, tmp_path: Path) -> None:
    """After the job no time limit is active, and the job is not recorded yet."""
    tree: Tree = start("-n", "2" if mode == "thread" else "1", mode=mode, serve=("samples", "samples_unfriendly"))
    job = queue.enqueue("samples_unfriendly.keep_this_slot", str(tmp_path / "record"), job_timeout=-1)
    assert job.result(60) == "again"
    assert "has not come back" in tree.log
