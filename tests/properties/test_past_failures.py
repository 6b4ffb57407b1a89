"""Failures that the state machine has found, each as a minimal sequence of steps."""

from __future__ import annotations

from typing import Any

import fakeredis
import pytest
import redis
from processes import THEN, Process, outcome
from rq.intermediate_queue import IntermediateQueue

from jobqueue.job import Job
from jobqueue.protocol import keys
from jobqueue.protocol.claims import Claimed, StartMark
from jobqueue.protocol.outcomes import RAISED, RETURNED, Ack
from jobqueue.protocol.protocol import Protocol
from jobqueue.protocol.rescue import ForRQ, Ruling, Verdict
from jobqueue.serializers import JSON

A, B, WORKER = "w:0.1", "w:1.1", "w"


@pytest.fixture
def store() -> redis.Redis:
    """A store with two owners."""
    client = fakeredis.FakeRedis()
    client.sadd(keys.OWNERS, A, B)
    return client


@pytest.fixture
def protocol(store: redis.Redis) -> Protocol:
    return Protocol(store)


def enqueue(protocol: Protocol, *ids: str, **fields: Any) -> None:
    plain = {"status": "queued", "origin": "q", "data": b'["x.y",null,[],{}]', "created_at": THEN}
    protocol.enqueue("q", [(job_id, plain | fields) for job_id in ids], ttl=fields.get("ttl"))


def claim(protocol: Protocol, owner: str = A, want: int = 1) -> list[Claimed]:
    return protocol.cycle(owner, WORKER, ["q"], [], want, want).jobs


def settle(protocol: Protocol, job: Claimed, kind: int = RETURNED, ttl: int = 500) -> list[int]:
    return protocol.cycle(A, WORKER, ["q"], [outcome(job.id, job.claim, "q", kind, ttl)], 0).acks


def give_back(protocol: Protocol, *jobs: Claimed) -> int:
    return protocol.give_back(WORKER, [job.token(A) for job in jobs])


def mark(protocol: Protocol, job: Claimed) -> bool:
    return protocol.start_mark(A, WORKER, [StartMark(job, THEN, 90)])[0]


def waiting(store: redis.Redis) -> list[str]:
    ids: Any = store.lrange(keys.queue("q"), 0, -1)
    return [job_id.decode() for job_id in ids]


def traces(store: redis.Redis) -> list[Any]:
    """Return all keys that would show a job as held."""
    names = ["queue:q:intermediate*", "jobq:own:*", "wip:*", "execution*", "worker:*:executions"]
    return [key for name in names for key in store.keys(f"{keys.PREFIX}:{name}")]


@pytest.mark.parametrize("is_held", [True, False])
def test_an_id_that_is_twice_in_a_queue_is_claimed_once(store: redis.Redis, protocol: Protocol, is_held: bool) -> None:
    enqueue(protocol, "a")
    jobs = claim(protocol) if is_held else []
    store.lpush(keys.queue("q"), "a")
    jobs += claim(protocol, want=2)
    assert [job.claim for job in jobs] == [1]
    assert settle(protocol, jobs[0]) == [Ack.RECORDED]
    assert traces(store) == []


def test_ids_without_a_hash_do_not_hide_a_job(store: redis.Redis, protocol: Protocol) -> None:
    store.rpush(keys.queue("q"), "gone", "gone too")
    enqueue(protocol, "a")
    assert [job.id for job in claim(protocol)] == ["a"]


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("by", ["settle", "mark", "give back", "reconcile", "rescue"])
def test_no_key_is_left_of_a_job_whose_hash_is_gone(
    store: redis.Redis, protocol: Protocol, by: str, started: bool
) -> None:
    enqueue(protocol, "a")
    (job,) = claim(protocol)
    if started:
        assert mark(protocol, job)
    store.delete(keys.job("a"))
    match by:
        case "settle":
            assert settle(protocol, job) == [Ack.GONE]
        case "mark":
            assert not mark(protocol, job)
        case "give back":
            assert give_back(protocol, job) == 0
        case "reconcile":
            protocol.run("reconcile", 1, keys.own(A), A, WORKER)
        case "rescue":
            rescue(protocol)
    assert traces(store) == []
    assert waiting(store) == []


def rescue(protocol: Protocol, running: tuple[int, ...] = ()) -> None:
    rulings = [Ruling(claim, Verdict.CRASH, b"x") for claim in running]
    judge: dict[str, Any] = {"running": rulings, "on_crash": "fail", "most": 3, "final": False}
    assert protocol.rescue(A, WORKER, **judge, cause=b"x", ended_at=THEN, ended=2.0) is not None


def test_a_former_owner_does_not_change_keys_of_the_new_owner(
    store: redis.Redis, protocol: Protocol, caplog: pytest.LogCaptureFixture
) -> None:
    enqueue(protocol, "a")
    (job,) = claim(protocol)
    give_back(protocol, job)
    claim(protocol, B)
    store.delete(keys.job("a"))
    Process(A, WORKER).finish_by_rq(store, ForRQ("a", job.claim, "q", Verdict.RETURNED, b""))
    assert "was taken from this worker" in caplog.text
    assert sorted(traces(store)) == [b"rq:jobq:own:w:1.1", b"rq:queue:q:intermediate"]


@pytest.mark.parametrize("by", ["give back", "rescue", "rescue of a running one"])
def test_a_job_that_was_canceled_is_not_requeued(store: redis.Redis, protocol: Protocol, by: str) -> None:
    enqueue(protocol, "a")
    (job,) = claim(protocol)
    Job.fetch("a", connection=store, serializer=JSON).cancel()
    if by == "give back":
        give_back(protocol, job)
    else:
        rescue(protocol, (job.claim,) if "running" in by else ())
    assert waiting(store) == []
    assert store.hget(keys.job("a"), "status") == b"canceled"
    assert traces(store) == []


@pytest.mark.parametrize("started", [True, False])
def test_rqs_note_of_a_settled_job_is_deleted(store: redis.Redis, protocol: Protocol, started: bool) -> None:
    """If the note stayed, RQ's maintenance would fail the job as stuck the next time."""
    enqueue(protocol, "a")
    (job,) = claim(protocol)
    IntermediateQueue(keys.queue("q"), store).set_first_seen("a")
    if started:
        assert mark(protocol, job)
        assert store.keys("*first_seen*") == []
    settle(protocol, job, RAISED)
    assert traces(store) == []


def test_a_failure_that_is_not_to_be_kept_is_not_kept(store: redis.Redis, protocol: Protocol) -> None:
    enqueue(protocol, "a", "b", failure_ttl=0)
    one, other = claim(protocol, want=2)
    assert settle(protocol, one, RAISED, ttl=0) == [Ack.RECORDED]
    rescue(protocol, (other.claim,))
    assert {key for key in store.keys("*") if b"jobq" not in key} == {b"rq:queues", b"rq:worker:w"}


def test_a_job_that_is_requeued_has_its_ttl_again(store: redis.Redis, protocol: Protocol) -> None:
    enqueue(protocol, "a", ttl=1000)
    (job,) = claim(protocol)
    mark(protocol, job)
    assert store.ttl(keys.job("a")) == -1
    give_back(protocol, job)
    assert 0 < store.ttl(keys.job("a")) <= 1000


def test_a_later_job_of_the_same_id_is_not_the_place_to_give_back_behind(
    store: redis.Redis, protocol: Protocol
) -> None:
    enqueue(protocol, "a", "b", "c")
    give_back(protocol, *claim(protocol))
    Job.fetch("a", connection=store, serializer=JSON).delete()
    enqueue(protocol, "a")
    give_back(protocol, *claim(protocol))
    assert waiting(store) == ["b", "c", "a"]
