"""CANCEL takes out only what nobody holds; a private queue goes with all that was in it."""

from __future__ import annotations

from typing import Any

import fakeredis
import pytest
from rq.job import Job
from rq.registry import CanceledJobRegistry

from jobqueue import keys
from jobqueue.private_queue import PAGE, erase, new_name
from jobqueue.producer import Queue
from jobqueue.protocol import Outcome, Protocol
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


def test_cancel(store: fakeredis.FakeRedis, queue: Queue, protocol: Protocol) -> None:
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
    protocol.give_back("w", [(OWNER, claimed.id, claimed.claim, "q")])
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
    protocol.cycle(OWNER, "w", ["q"], [Outcome(job.id, job.claim, "q", kind, 500, b"", *times)], 0)


def test_a_private_queue_goes_with_everything(store: fakeredis.FakeRedis, queue: Queue, protocol: Protocol) -> None:
    other = Queue("other", store).enqueue("square", 1)
    before = {key for key in store.scan_iter() if b"other" in key or other.id.encode() in key}
    queue.enqueue_many("square", range(2 * PAGE + 7))
    end(protocol, queue, 1)
    end(protocol, queue, 2)
    protocol.cancel("q", [waiting(store)[-1]])
    store.sadd(keys.workers_of("q"), "someone")
    assert erase(store, "q") == 2 * PAGE + 7
    counters = {keys.OWNERS.encode(), keys.SEQ.encode(), keys.QUEUES.encode(), keys.worker("w").encode()}
    assert set(store.scan_iter()) - counters == before
    assert store.smembers(keys.QUEUES) == {keys.queue("other").encode()}
    assert erase(store, "q") == 0


def test_names_are_not_to_be_guessed() -> None:
    names = {new_name("executor") for _ in range(100)}
    assert len(names) == 100
    assert all(len(name) == len("executor-") + 16 for name in names)
