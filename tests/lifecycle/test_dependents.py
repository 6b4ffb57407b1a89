"""Dependents are enqueued without RQ's maintenance, whatever happens to the process that recorded the end of their
dependency."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
import rq
from conftest import Start
from helpers import Server, Tree, eventually, status
from proxy import Proxy
from rq.job import Dependency

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys

WITHOUT_MAINTENANCE = ("--maintenance-interval", "0", "--no-scheduler")
RARELY = ("--maintenance-interval", "3600")  # of rq worker
MANY = 10_000

COPY = """
local template = redis.call('HGETALL', KEYS[1])
for n = 1, tonumber(ARGV[2]) do
  local id = 'copy-' .. n
  redis.call('HSET', ARGV[3] .. id, unpack(template))
  redis.call('ZADD', KEYS[2], n, id)
  redis.call('SADD', KEYS[3], id)
  redis.call('SADD', ARGV[4] .. id .. ':dependencies', ARGV[1])
end
"""


def add_many(store: redis.Redis, queue: Queue, parent: str, number: int) -> list[str]:
    """Enqueue this number of dependents of a job that waits."""
    [first] = [queue.enqueue("samples.ok", 1, job_id="first", depends_on=Dependency([parent], allow_failure=True))]
    copied = [keys.job(first.id), keys.registry("deferred", queue.name), keys.dependents(parent)]
    prefixes = keys.job(""), keys.dependencies("").removesuffix(":dependencies")
    store.eval(COPY, len(copied), *copied, parent, number - 1, *prefixes)
    return [first.id, *(f"copy-{n}" for n in range(1, number))]


def ended(store: redis.Redis, ids: list[str], how: bytes = b"finished") -> bool:
    with store.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.hget(keys.job(job_id), "status")
        return set(pipe.execute()) == {how}


def nothing_is_owed(store: redis.Redis) -> bool:
    return not store.exists(keys.ENDED) and not list(store.scan_iter(keys.waiting_for("*")))


@pytest.mark.parametrize("ending", ["first_end", "first_failure"])
def test_a_child_dies_after_an_outcome_and_before_the_dependents(
    start: Start, mode: str, ending: str, queue: Queue, store: redis.Redis, tmp_path: Path
) -> None:
    """The job may fail, as the dependent allows that. RQ alone would leave the dependent deferred for ever."""
    queue.enqueue(f"samples_dependents.{ending}", job_id="parent")
    queue.enqueue("samples_dependents.first_end", job_id="child", depends_on=Dependency(["parent"], allow_failure=True))
    serve = ("samples", "samples_dependents")
    tree = start(*WITHOUT_MAINTENANCE, "-n", "1", mode=mode, serve=serve, DIED=str(tmp_path / "died"))
    eventually(lambda: status(store, "child") == "finished", 20)
    assert (tmp_path / "died").exists()
    assert "taken from this worker" not in tree.log
    assert nothing_is_owed(store)


def test_a_child_is_killed_while_it_enqueues_many_dependents(
    start: Start, mode: str, queue: Queue, store: redis.Redis
) -> None:
    queue.enqueue("samples.ok", 1, job_id="parent")
    ids = add_many(store, queue, "parent", 3000)
    tree = start(*WITHOUT_MAINTENANCE, "-n", "1", mode=mode)
    eventually(lambda: store.zcard(keys.registry("deferred", "default")) < len(ids), every=0.0005)
    for child in tree.children():
        child.kill()
    eventually(lambda: ended(store, ids), 40, every=0.2)
    assert nothing_is_owed(store)


def test_many_dependents_of_a_job_with_a_short_limit(start: Start, mode: str, queue: Queue, store: redis.Redis) -> None:
    """The process does not count as stuck, renews its lease, and settles the jobs of its other slot."""
    queue.enqueue("samples.ok", 1, job_id="parent", job_timeout=1)
    ids = add_many(store, queue, "parent", MANY)
    tree = start(*WITHOUT_MAINTENANCE, "-n", "2", mode=mode, JOBQ_LEASE="1")
    eventually(lambda: ended(store, ids), 60, every=0.2)
    assert "killed" not in tree.log
    assert "rescued" not in tree.log


def test_a_whole_tree_dies_after_an_outcome_and_before_the_dependents(
    start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path
) -> None:
    queue.enqueue("samples_dependents.first_failure", job_id="parent")
    queue.enqueue("samples.ok", job_id="child", depends_on=Dependency(["parent"], allow_failure=True))
    told = {"mode": mode, "JOBQ_LEASE": "1"}
    serve = ("samples", "samples_dependents")
    dies = start(*WITHOUT_MAINTENANCE, "-n", "1", serve=serve, DIED=str(tmp_path / "died"), **told)
    eventually(lambda: (tmp_path / "died").exists(), 20)
    dies.kill()
    start(*WITHOUT_MAINTENANCE, "-n", "1", **told)
    eventually(lambda: status(store, "child") == "finished", 30)
    eventually(lambda: store.scard(keys.WORKERS) == 1)
    assert nothing_is_owed(store)


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("function", ["samples.ok", "samples.fail"])
def test_the_connection_is_lost_while_the_outcome_is_recorded(
    start: Start, mode: str, function: str, answered: bool, server: Server, queue: Queue, store: redis.Redis
) -> None:
    """The request that records the outcome, or its reply, is lost: it is recorded once, and the dependent runs."""
    queue.enqueue(function, job_id="parent")
    queue.enqueue("samples.ok", job_id="child", depends_on=Dependency(["parent"], allow_failure=True))
    with Proxy(server.socket) as proxy:
        cut = proxy.cut(b"EXEC", b":fin:parent", most=1, answered=answered)
        tree = start(*WITHOUT_MAINTENANCE, "-n", "2", mode=mode, JOBQ_URL=proxy.url)
        eventually(lambda: status(store, "child") == "finished", 20)
        assert cut.hits == 1
        assert store.xlen(keys.results("parent")) == 1
        assert "taken from this worker" not in tree.log
        assert tree.stop() == 0
    assert nothing_is_owed(store)


@pytest.mark.parametrize("ending", ["first_end", "first_failure"])
@pytest.mark.parametrize("place", ["SimpleWorker", "Worker"])
def test_dependents_with_rqs_worker_classes(
    start_rq: Callable[..., Tree], place: str, ending: str, store: redis.Redis, tmp_path: Path
) -> None:
    queue = rq.Queue(connection=store)
    queue.enqueue(f"samples_dependents.{ending}", job_id="parent")
    queue.enqueue("samples.ok", job_id="child", depends_on=Dependency(["parent"], allow_failure=True))
    dies = start_rq(place, *RARELY, DIED=str(tmp_path / "died"))
    eventually(lambda: (tmp_path / "died").exists(), 20)
    if place == "SimpleWorker":  # the job ran in the worker itself
        eventually(lambda: dies.process.poll() == -signal.SIGKILL)
        start_rq(place, *RARELY)
    eventually(lambda: status(store, "child") == "finished", 30)
    assert nothing_is_owed(store)
