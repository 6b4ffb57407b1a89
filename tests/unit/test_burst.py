"""When a burst is over, step by step: what it waits for, and what not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import pytest
from fake_children import Clock, FakeChild, FakeRolesThread

from jobqueue.protocol import keys
from jobqueue.workers.shared.journal import BUFFERED, DONE, OUT_OF_WORK, UNSETTLED
from jobqueue.workers.supervisor.burst import Burst


class FakeOthers:
    """Other trees, which the test declares dead or alive."""

    def __init__(self) -> None:
        self.may_be_dead = False
        self.asked: list[tuple[list[str], float]] = []

    def may_lose(self, queues: Any, now: float) -> bool:
        self.asked.append((list(queues), now))
        return self.may_be_dead


class Bench:
    """Two children that are at rest, an empty handle, and two queues without a job."""

    def __init__(self) -> None:
        self.clock, self.roles_thread, self.others = Clock(), FakeRolesThread(), FakeOthers()
        self.store = fakeredis.FakeRedis()
        self.children = [FakeChild(n).come().rest() for n in range(2)]
        self.empty = FakeChild(2)
        self.full = True
        self.over = 0
        others: Any = self.others
        self.burst = Burst(
            [child.handle for child in (*self.children, self.empty)],
            ("high", "low"),
            self.store,
            ask=self.roles_thread.do,
            post=self.roles_thread.post,
            full=lambda: self.full,
            on_over=self._on_over,
            others=others,
            clock=self.clock,
        )

    def _on_over(self) -> None:
        self.over += 1

    def begins_to_look(self) -> bool:
        """Whether a turn of the main loop asks the roles thread."""
        self.burst.step()
        return bool(self.roles_thread.requests)

    def look(self) -> bool:
        """Do a whole look; return whether the burst is over after it."""
        before = self.over
        self.burst.step()
        self.roles_thread.settle()
        return self.over > before


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    for child in bench.children:
        child.close()


def test_a_burst_is_over_when_no_child_holds_a_job_and_none_waits(bench: Bench) -> None:
    assert bench.look()


def test_only_the_roles_thread_asks_the_store(bench: Bench) -> None:
    """The roles thread asks the store, and posts the answer to the main loop."""
    bench.burst.step()
    bench.roles_thread.work()
    assert bench.over == 0
    bench.roles_thread.turn()
    assert bench.over == 1


def test_only_one_look_is_under_way_at_a_time(bench: Bench) -> None:
    for _ in range(5):
        bench.burst.step()
    assert len(bench.roles_thread.requests) == 1
    bench.roles_thread.work()
    bench.burst.step()
    assert bench.roles_thread.requests == []


# -- what it waits for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "busy",
    [
        lambda child: child.run(7),
        lambda child: child.page.set(BUFFERED, 1),
        lambda child: child.page.set(UNSETTLED, 1),
        lambda child: child.page.set(OUT_OF_WORK, 0),
    ],
    ids=["it runs a job", "it has one in its buffer", "it has not settled all", "it may yet get one"],
)
def test_a_burst_waits_for_a_child_that_holds_a_job(bench: Bench, busy: Callable[[FakeChild], None]) -> None:
    """While a child holds a job, the store is not even asked."""
    busy(bench.children[1])
    assert not bench.begins_to_look()


def test_a_burst_waits_for_a_missing_child_and_for_one_not_yet_reaped(bench: Bench) -> None:
    bench.full = False
    assert not bench.begins_to_look()
    bench.full = True
    assert bench.look()


@pytest.mark.parametrize("name", ["high", "low"])
def test_a_burst_waits_for_a_job_in_its_queues(bench: Bench, name: str) -> None:
    """A job that was enqueued after the children had looked: they are woken, and the burst looks again."""
    bench.store.rpush(keys.queue(name), "a")
    assert not bench.look()
    bench.store.delete(keys.queue(name))
    assert bench.look()


def test_a_burst_does_not_wait_for_jobs_of_other_queues(bench: Bench) -> None:
    bench.store.rpush(keys.queue("others"), "a")
    assert bench.look()


def test_a_burst_waits_for_a_claim_whose_reply_was_lost(bench: Bench) -> None:
    """The reply of its claim was lost: the child will find out, and give it back."""
    bench.store.zadd(keys.own(bench.children[0].handle.owner), {"a": 7})
    assert not bench.look()


def test_a_burst_looks_again_if_a_job_ended_while_the_store_was_asked(bench: Bench) -> None:
    """A job ended and may have enqueued another, so the store's answer may be out of date."""
    bench.burst.step()
    bench.roles_thread.work()
    bench.children[0].page.set(DONE, 1)
    bench.roles_thread.turn()
    assert bench.over == 0
    assert bench.look()


@pytest.mark.parametrize("what", ["a child took something", "a child died"])
def test_a_burst_goes_on_if_a_child_got_work_while_the_store_was_asked(bench: Bench, what: str) -> None:
    bench.burst.step()
    bench.roles_thread.work()
    if what == "a child died":
        bench.full = False
    else:
        bench.children[1].run(7)
    bench.roles_thread.turn()
    assert bench.over == 0


def test_a_burst_waits_for_jobs_of_a_tree_that_may_be_dead(bench: Bench) -> None:
    """If the other tree is dead, its jobs return to the queues when it is rescued."""
    bench.others.may_be_dead = True
    bench.clock.now = 1234.5
    assert not bench.look()
    assert bench.others.asked == [(["high", "low"], 1234.5)]
    bench.others.may_be_dead = False
    assert bench.look()


# -- what it does not wait for ---------------------------------------------------------------------------------------


def test_a_paused_queue_counts_as_empty(bench: Bench) -> None:
    bench.store.sadd(keys.PAUSED, "high")
    bench.store.rpush(keys.queue("high"), "a")
    assert bench.look()
    assert bench.others.asked[-1][0] == ["low"]
    bench.store.rpush(keys.queue("low"), "b")
    assert not bench.look()


def test_while_workers_are_suspended_queues_count_as_empty(bench: Bench) -> None:
    """No worker claims from the queues, even what a rescue puts there; but the burst's own children have to end their
    jobs."""
    bench.store.set(keys.SUSPENDED, 1)
    bench.store.rpush(keys.queue("high"), "a")
    bench.others.may_be_dead = True
    assert bench.look()
    bench.store.zadd(keys.own(bench.children[0].handle.owner), {"b": 7})
    assert not bench.look()


def test_a_burst_does_not_wait_for_a_child_that_has_left(bench: Bench) -> None:
    """The page of a child that has left still shows its last jobs; ``full`` says whether the child is reaped."""
    bench.children[0].run(7)
    bench.children[0].leave()
    assert bench.look()
