"""A burst waits for jobs of its queues that are held by a tree without a sign of life, for a limited time."""

from __future__ import annotations

import pytest
import redis

from jobqueue.protocol import keys
from jobqueue.workers.supervisor.other_trees import RESCUE, OtherTrees

LEASE = 10.0


@pytest.fixture
def others(store: redis.Redis) -> OtherTrees:
    """Register another tree, ``gone``, which holds a job of the queue ``q``."""
    store.sadd(keys.OWNERS, "gone:0.1", "us:0.1", b"\xff:0.1", "no owner")
    store.set(keys.lease("gone"), "7")
    hold(store, "gone:0.1", "a", "q")
    hold(store, "us:0.1", "b", "q")
    return OtherTrees(store, "us", lambda worker: LEASE)


def hold(store: redis.Redis, owner: str, job_id: str, queue: str) -> None:
    store.zadd(keys.own(owner), {job_id: 1})
    store.hset(keys.job(job_id), "origin", queue)


def look(others: OtherTrees, until: float, queues: tuple[str, ...] = ("q",)) -> bool:
    """Look as often as a burst does, starting at the second 1000."""
    seconds, found = 1000.0, True
    while seconds <= 1000.0 + until:
        found = others.may_lose(queues, seconds)
        seconds += 1.0
    return found


def test_a_tree_whose_lease_stands_still_may_lose_its_jobs(others: OtherTrees) -> None:
    assert look(others, LEASE)


def test_a_burst_does_not_wait_for_a_tree_that_lives(others: OtherTrees, store: redis.Redis) -> None:
    assert look(others, 2)
    store.incr(keys.lease("gone"))
    assert not others.may_lose(["q"], 1003.0)


def test_a_tree_without_a_lease_may_lose_its_jobs(others: OtherTrees, store: redis.Redis) -> None:
    store.delete(keys.lease("gone"))
    assert look(others, LEASE)


def test_a_burst_gives_up_on_jobs_that_nobody_rescues(others: OtherTrees) -> None:
    assert not look(others, LEASE + RESCUE + 2)


def test_jobs_of_other_queues_are_not_waited_for(others: OtherTrees) -> None:
    assert not look(others, 2, queues=("other",))


def test_a_burst_does_not_wait_for_rescued_jobs(others: OtherTrees, store: redis.Redis) -> None:
    assert look(others, 2)
    store.delete(keys.own("gone:0.1"))
    assert not others.may_lose(["q"], 1003.0)


def test_keys_of_a_wrong_type_are_skipped(others: OtherTrees, store: redis.Redis) -> None:
    store.set(keys.own("no owner"), "x")
    store.sadd(keys.OWNERS, "strange:0.1")
    store.set(keys.own("strange:0.1"), "x")
    store.delete(keys.own("gone:0.1"))
    assert not look(others, 2)
