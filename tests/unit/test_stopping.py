"""Who is killed before the grace of a stop is over, and who is not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from helpers import eventually

from jobqueue.workers.shared.journal import BUFFERED, HUNGRY, PULSE, UNSETTLED, Region, make_file
from jobqueue.workers.supervisor.child_handle import Seat, Use
from jobqueue.workers.supervisor.shutdown import IDLE_WAIT, KILL_WAIT, Phase, Stopping

GRACE = 600.0


@pytest.fixture
def seat() -> Iterator[Seat]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    seat = Seat(0, Region(make_file(1, 1), 0, 1))
    seat.use, seat.pid = Use.TAKEN, process.pid
    seat.region.set(PULSE, 1)
    seat.region.set(HUNGRY, 1)
    seat.is_there = lambda: process.poll() is None  # type: ignore[attr-defined]
    yield seat
    process.kill()
    process.wait()


def stopping(seat: Seat, **more: Callable[[], bool]) -> tuple[Stopping, float]:
    stopping = Stopping([seat], GRACE, lambda tokens: None, **more)
    stopping.begin("asked")
    return stopping, stopping._began


def test_who_runs_nothing_is_killed(seat: Seat) -> None:
    it, began = stopping(seat)
    it.step(began)
    it.step(began + IDLE_WAIT - 1)
    assert seat.is_there()  # type: ignore[attr-defined]
    it.step(began + IDLE_WAIT)
    eventually(lambda: not seat.is_there())  # type: ignore[attr-defined]


@pytest.mark.parametrize("word", [UNSETTLED, BUFFERED, None])
def test_who_owes_something_has_the_whole_grace(seat: Seat, word: int | None) -> None:
    if word is None:
        seat.region.begin(0, 7, 1.0, 0.0)
    else:
        seat.region.set(word, 1)
    it, began = stopping(seat)
    for seconds in (0.0, IDLE_WAIT, 10 * IDLE_WAIT):
        it.step(began + seconds)
    assert not it._idle_since
    assert seat.is_there()  # type: ignore[attr-defined]


def test_while_the_store_is_away(seat: Seat) -> None:
    it, began = stopping(seat, is_away=lambda: True)
    for seconds in (0.0, IDLE_WAIT, 10 * IDLE_WAIT):
        it.step(began + seconds)
    assert seat.is_there()  # type: ignore[attr-defined]


def test_a_kill_of_which_nobody_hears(seat: Seat) -> None:
    seat.region.begin(0, 7, 1.0, 0.0)
    it, now = stopping(seat)
    while it.phase < Phase.KILL:
        assert not it.takes_too_long(now)
        now += 300
        it.step(now)
    assert not it.takes_too_long(now)
    assert it.takes_too_long(now + KILL_WAIT)
    seat.use = Use.EMPTY
    it.step(now + KILL_WAIT)
    assert not it.takes_too_long(now + KILL_WAIT)
