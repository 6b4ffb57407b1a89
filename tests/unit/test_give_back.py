"""Which jobs a child gives back, and when, without threads and without waiting."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from jobqueue.protocol.claims import Claimed, Token
from jobqueue.workers.child.give_back import RECONCILE_EVERY, GiveBack
from jobqueue.workers.child.prefetch import LONG
from jobqueue.workers.shared.journal import SharedPage, make_file
from jobqueue.workers.shared.messages import Dropped

NOW = 1000.0
OWNER = "w:0.1"


class FakeConsumer:
    """A consumer that records its calls. buffer: the claims in it."""

    def __init__(self, *buffer: int) -> None:
        self.buffer = buffer
        self.calls: list[Any] = []
        self.lets_wait = False

    @property
    def holds_up(self) -> bool:
        return bool(self.buffer)

    def settle(self) -> None:
        self.calls.append("settle")

    def reconcile(self) -> None:
        self.calls.append("reconcile")

    def drop_buffer(self, **how: bool) -> list[Claimed]:
        self.calls.append(how)
        dropped, self.buffer = self.buffer, ()
        return [Claimed(f"j{claim}", claim, "q", b"", None, None, None, 0) for claim in dropped]


class FakeRequestThread:
    """A request thread that does its requests when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []
        self.given: list[Token] = []

    def do(self, request: Callable[[], object]) -> None:
        self.waiting.append(request)

    do_if_awake = do

    def give_back(self, tokens: tuple[Token, ...]) -> None:
        self.given += tokens

    def work(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()


class Bench:
    def __init__(self, *buffer: int, busy: tuple[float, ...] = (NOW - 1.0,)) -> None:
        self.consumer, self.thread = FakeConsumer(*buffer), FakeRequestThread()
        self.page = SharedPage(make_file(1, 1), 0, 1)
        slots = [SimpleNamespace(busy_since=since) for since in busy]
        self.give_back = GiveBack(OWNER, self.page, self.consumer, slots, self.thread, NOW)  # type: ignore[arg-type]

    def claims(self) -> list[int]:
        self.thread.work()
        return [token.claim for token in self.thread.given]


def test_jobs_behind_long_jobs_are_given_back_once() -> None:
    bench = Bench(1, 2)
    bench.give_back.step(NOW)
    bench.give_back.step(NOW)
    assert len(bench.thread.waiting) == 1
    assert bench.claims() == [1, 2]
    assert bench.consumer.calls == ["settle", {}]  # what is finished first
    bench.consumer.buffer = (3,)
    bench.give_back.step(NOW)
    assert bench.claims() == [1, 2, 3]


def test_nothing_is_given_back_while_a_slot_may_take_it_soon() -> None:
    for busy in [(NOW - 1.0, NOW - LONG / 2), (NOW - 1.0, 0.0)]:
        bench = Bench(1, busy=busy)
        bench.give_back.step(NOW)
        assert bench.claims() == []


def test_outcomes_are_settled_while_long_jobs_run() -> None:
    bench = Bench()
    bench.give_back.step(NOW)
    assert bench.thread.waiting == []
    bench.consumer.lets_wait = True
    bench.give_back.step(NOW)
    bench.thread.work()
    assert "settle" in bench.consumer.calls


def test_a_revocation_is_answered_when_the_buffer_is_dropped() -> None:
    bench = Bench(1, busy=(0.0,))
    bench.page.revoke()
    bench.give_back.step(NOW)
    bench.give_back.step(NOW)
    assert bench.page.revoked
    assert bench.claims() == [1]
    assert not bench.page.revoked
    assert bench.consumer.calls == [{"at_rest": True}]


def test_a_second_revocation_is_answered_by_itself() -> None:
    bench = Bench(1, busy=(0.0,))
    drop = bench.consumer.drop_buffer

    def revoke_again(**how: bool) -> list[Claimed]:
        bench.page.revoke()
        bench.consumer.drop_buffer = drop  # type: ignore[method-assign]
        return drop(**how)

    bench.consumer.drop_buffer = revoke_again  # type: ignore[method-assign]
    bench.page.revoke()
    bench.give_back.step(NOW)
    bench.thread.work()
    assert bench.page.revoked
    bench.give_back.step(NOW)
    bench.thread.work()
    assert not bench.page.revoked


def test_at_a_shutdown_the_supervisor_hears_which_jobs_never_started() -> None:
    """The supervisor gives back the jobs of all children; if a child watchdog has failed, the child gives its own
    back."""
    told: list[object] = []
    bench = Bench(1)
    bench.give_back.quiet(SimpleNamespace(tell=told.append))  # type: ignore[arg-type]
    assert told == [Dropped((Token(OWNER, "j1", 1, "q"),))]
    assert bench.claims() == []
    other = Bench(2)
    other.give_back.withdraw()
    assert other.claims() == [2]
    assert bench.consumer.calls == other.consumer.calls == [{"quiet": True}]


def test_reconcile_is_sent_periodically() -> None:
    bench = Bench()
    bench.give_back.step(NOW + RECONCILE_EVERY - 1)
    assert bench.thread.waiting == []
    for _ in range(2):
        bench.give_back.step(NOW + RECONCILE_EVERY)
    bench.thread.work()
    assert bench.consumer.calls == ["reconcile"]
