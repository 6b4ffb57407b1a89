"""CANCEL removes only jobs that no worker holds; erasing a private queue deletes all its jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fakeredis
import pytest
from rq.job import Job
from rq.registry import CanceledJobRegistry

from jobqueue.executor import private_queue
from jobqueue.executor.private_queue import PAGE, erase, new_name, pipe_to
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.protocol.outcomes import JobOutcome
from jobqueue.protocol.protocol import Protocol
from jobqueue.serializers import Auto

OWNER = "w:0.1"


@pytest.fixture
def store() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis()


@pytest.fixture
def queue(store: fakeredis.FakeRedis) -> Queue:
    return Queue("q", store)


@pytest.fixture
def protocol(store: fakeredis.FakeRedis) -> Protocol:
    store.sadd(keys.OWNERS, OWNER)
    return Protocol(store)


def waiting(store: fakeredis.FakeRedis) -> list[str]:
    return [i.decode() for i in store.lrange(keys.queue("q"), 0, -1)]


def test_cancel_removes_waiting_jobs(store: fakeredis.FakeRedis, queue: Queue, protocol: Protocol) -> None:
    a, b, c = [job.id for job in queue.enqueue_many("square", range(3))]
    assert protocol.cancel("q", [c, b, "nobody"]) == [True, True, False]
    assert waiting(store) == [a]
    job = Job.fetch(b, store, Auto)
    assert job.get_status().value == "canceled"
    assert set(CanceledJobRegistry("q", store).get_job_ids(cleanup=False)) == {b, c}
    assert protocol.cancel("q", [b]) == [False]


def test_a_claimed_job_is_not_canceled_until_it_is_given_back(
    store: fakeredis.FakeRedis, queue: Queue, protocol: Protocol
) -> None:
    job = queue.enqueue("square", 1)
    (claimed,) = protocol.cycle(OWNER, "w", ["q"], [], 1, 1).jobs
    assert protocol.cancel("q", [job.id]) == [False]
    assert store.hget(keys.job(job.id), "status") == b"queued"
    protocol.give_back("w", [claimed.token(OWNER)])
    assert store.zcard(keys.back("q")) == 1
    assert protocol.cancel("q", [job.id]) == [True]
    assert (waiting(store), store.zcard(keys.back("q"))) == ([], 0)
    assert protocol.cycle(OWNER, "w", ["q"], [], 1, 1).jobs == []


def test_a_job_whose_hash_is_gone_leaves_no_trace(store: fakeredis.FakeRedis, queue: Queue, protocol: Protocol) -> None:
    job = queue.enqueue("square", 1)
    store.delete(keys.job(job.id))
    assert protocol.cancel("q", [job.id]) == [True]
    assert not store.exists(keys.job(job.id), keys.registry("canceled", "q"))


def end(protocol: Protocol, queue: Queue, kind: int) -> None:
    (job,) = protocol.cycle(OWNER, "w", ["q"], [], 1, 1).jobs
    times: tuple[Any, ...] = ("2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:00.000000Z", 1.0, 1.0)
    protocol.cycle(OWNER, "w", ["q"], [JobOutcome(job.id, job.claim, "q", kind, 500, b"", *times)], 0)


def test_erasing_a_private_queue_leaves_no_key(store: fakeredis.FakeRedis, queue: Queue, protocol: Protocol) -> None:
    other = Queue("other", store).enqueue("square", 1)
    before = {key for key in store.scan_iter() if b"other" in key or other.id.encode() in key}
    queue.enqueue_many("square", range(2 * PAGE + 7))
    end(protocol, queue, 1)
    end(protocol, queue, 2)
    protocol.cancel("q", [waiting(store)[-1]])
    store.sadd(keys.workers_of("q"), "someone")
    assert erase(pipe_to(store), ["q"]) == 2 * PAGE + 7
    counters = {keys.OWNERS.encode(), keys.SEQ.encode(), keys.QUEUES.encode(), keys.worker("w").encode()}
    assert set(store.scan_iter()) - counters == before
    assert store.smembers(keys.QUEUES) == {keys.queue("other").encode()}
    assert erase(pipe_to(store), ["q"]) == 0


def test_erasing_a_private_queue_deletes_what_a_dead_worker_left(
    store: fakeredis.FakeRedis, queue: Queue, protocol: Protocol
) -> None:
    """The dead worker left a job in its own list, executions, fences of RQ's finish, and its registration."""
    store.sadd(keys.OWNERS, "other:0.1")
    queue.enqueue_many("square", range(3))
    held, finishing = protocol.cycle(OWNER, "w", ["q"], [], 2, 2).jobs
    store.lrem(keys.intermediate("q"), 0, held.id)
    store.set(keys.fin(finishing.id), 1)
    store.zadd(keys.executions(finishing.id), {"x": 1})
    store.hset(keys.execution(finishing.id, "x"), "id", "x")
    store.set(keys.first_seen("q", finishing.id), 1)
    store.hset(keys.worker("w"), "pid", 1)
    store.set(keys.lease("w"), 1)
    for key in (keys.WORKERS, keys.workers_of("q")):
        store.sadd(key, keys.worker("w"))
    assert erase(pipe_to(store), ["q"]) == 3
    assert set(store.scan_iter()) <= {keys.OWNERS.encode(), keys.SEQ.encode()}
    assert store.smembers(keys.OWNERS) == {b"other:0.1"}


@pytest.mark.parametrize("step", ["delete_workers", "delete_queue"])
def test_erasing_a_private_queue_can_be_continued_after_an_interrupt(
    store: fakeredis.FakeRedis, queue: Queue, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.enqueue_many("square", range(3))
    store.hset(keys.worker("w"), "pid", 1)
    store.sadd(keys.workers_of("q"), keys.worker("w"))

    def cut(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(private_queue, step, cut)
        with pytest.raises(KeyboardInterrupt):
            erase(pipe_to(store), ["q"])
    assert store.keys()
    erase(pipe_to(store), ["q"])
    assert store.keys() == []


def test_each_page_of_commands_is_retried_by_itself(store: fakeredis.FakeRedis) -> None:
    pages: list[int] = []

    def retry_request(do: Callable[[], list[Any]]) -> list[Any]:
        do()  # twice, as after a lost reply
        pages.append(1)
        return do()

    pipe = pipe_to(store, retry_request)
    assert pipe(("set", f"k{n}", n) for n in range(PAGE + 1)) == [True] * (PAGE + 1)
    assert len(pages) == 2


def test_names_of_private_queues_cannot_be_guessed() -> None:
    names = {new_name("executor") for _ in range(100)}
    assert len(names) == 100
    assert all(len(name) == len("executor-") + 16 for name in names)
