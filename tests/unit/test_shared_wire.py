"""The states of a child's one connection."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import ConnectionError as Lost

from jobqueue.protocol.cycle import Cycle, CycleRequest
from jobqueue.workers.child.shared_wire import SharedWire, WireState
from jobqueue.workers.shared.journal import SharedPage, make_file

REPLY = Cycle("empty", [], [])


REQUEST = CycleRequest("w:0.1", "w", ("default",), [], 1, 1)


class Fake:
    """A wire that fails where a test says so, and records in which state it is used."""

    def __init__(self) -> None:
        self.fails = ""
        self.lock = threading.Condition(threading.Lock())
        self.page = SharedPage(make_file(1, 1), 0, 1)
        self.wire = SharedWire(self, self.lock, self.page)  # type: ignore[arg-type]
        self.seen: list[WireState] = []

    def _step(self, name: str, error: Callable[[str], BaseException] = Lost) -> None:
        assert self.lock.acquire(blocking=False), "somebody holds the lock while Redis is waited for"
        self.lock.release()
        self.seen.append(self.wire.state)
        if self.fails == name:
            raise error("cut")

    def send(self, _request: CycleRequest) -> None:
        self._step("send")

    def receive(self) -> Cycle:
        self._step("receive")
        if self.fails == "interrupted":
            raise KeyboardInterrupt
        return REPLY


def refuse(_wire: Any) -> int:
    raise Lost("cut")


@pytest.fixture
def fake() -> Fake:
    made = Fake()
    with made.lock:
        made.wire.begin_to_mend()
        made.wire.mended()
    return made


def test_the_wire_is_broken_until_it_is_mended() -> None:
    fake = Fake()
    assert fake.wire.state is WireState.BROKEN
    with fake.lock:
        fake.wire.begin_to_mend()
        assert not fake.wire.wait_before_attempt()  # the first time at once
        assert isinstance(fake.wire.attempt(refuse), Lost)
        since = fake.page.unanswered_since
        assert since > 0.0
        assert isinstance(fake.wire.attempt(refuse), Lost)
        assert fake.page.unanswered_since == since  # by the first attempt
        assert fake.wire.attempt(lambda wire: 3) == 3
        fake.wire.mended()
    assert (fake.wire.state, fake.page.unanswered_since) == (WireState.FREE, 0.0)


def test_a_request_and_its_reply(fake: Fake) -> None:
    with fake.lock:
        assert fake.wire.send(REQUEST) is None
        assert fake.wire.state is WireState.AWAITING
        assert fake.wire.read() is REPLY
        assert fake.wire.state is WireState.FREE
    assert fake.seen == [WireState.SENDING, WireState.READING]


@pytest.mark.parametrize("step", ["send", "receive"])
def test_a_broken_wire_is_logged_once(fake: Fake, step: str, caplog: pytest.LogCaptureFixture) -> None:
    fake.fails = step
    for _ in range(2):
        with fake.lock:
            error = fake.wire.send(REQUEST) or fake.wire.read()
            assert isinstance(error, Lost)
            assert fake.wire.state is WireState.BROKEN
    assert caplog.text.count("the store does not answer") == 1


def test_a_failed_attempt_is_followed_by_a_pause(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_wire: object) -> int:
        raise Lost("refused")

    pauses: list[float] = []
    monkeypatch.setattr(fake.lock, "wait", pauses.append)
    with fake.lock:
        fake.wire.begin_to_mend()
        for _ in range(3):
            fake.wire.wait_before_attempt()
            assert isinstance(fake.wire.attempt(fail), Lost)
            assert fake.wire.state is WireState.MENDING
        assert fake.wire.wait_before_attempt()
    assert len(pauses) == 2  # after the first failure there is no pause
    assert pauses[0] < pauses[1] * 2


def test_an_interrupt_leaves_state_and_lock_as_they_were(fake: Fake) -> None:
    """The interrupted thread then knows that a request is under way on the wire."""
    fake.fails = "interrupted"
    with fake.lock:
        fake.wire.send(REQUEST)
    with pytest.raises(KeyboardInterrupt), fake.lock:
        fake.wire.read()
    assert fake.wire.state is WireState.READING
    assert fake.lock.acquire(blocking=False)
