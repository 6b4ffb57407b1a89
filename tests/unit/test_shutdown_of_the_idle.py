"""Which children are killed before the grace of a stop is over, and which are not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from helpers import eventually

from jobqueue.workers.shared.journal import BUFFERED, OUT_OF_WORK, PULSE, UNSETTLED, SharedPage, make_file
from jobqueue.workers.supervisor.child_handle import ChildHandle, HandleState
from jobqueue.workers.supervisor.shutdown import IDLE_WAIT, KILL_WAIT, Phase, Shutdown

GRACE = 600.0


@pytest.fixture
def handle() -> Iterator[ChildHandle]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    handle = ChildHandle(0, SharedPage(make_file(1, 1), 0, 1))
    handle.state, handle.process.pid = HandleState.IN_USE, process.pid
    handle.page.set(PULSE, 1)
    handle.page.set(OUT_OF_WORK, 1)
    handle.is_there = lambda: process.poll() is None  # type: ignore[attr-defined]
    yield handle
    process.kill()
    process.wait()


def stopping(handle: ChildHandle, **more: Callable[[], bool]) -> tuple[Shutdown, float]:
    stopping = Shutdown([handle], GRACE, lambda tokens: None, **more)
    stopping.begin("asked")
    return stopping, stopping._began


def test_a_child_that_runs_nothing_is_killed(handle: ChildHandle) -> None:
    it, began = stopping(handle)
    it.step(began)
    it.step(began + IDLE_WAIT - 1)
    assert handle.is_there()  # type: ignore[attr-defined]
    it.step(began + IDLE_WAIT)
    eventually(lambda: not handle.is_there())  # type: ignore[attr-defined]


@pytest.mark.parametrize("word", [UNSETTLED, BUFFERED, None])
def test_a_child_that_has_something_to_record_or_give_back_has_the_whole_grace(
    handle: ChildHandle, word: int | None
) -> None:
    if word is None:
        handle.page.begin(0, 7, 1.0, 0.0)
    else:
        handle.page.set(word, 1)
    it, began = stopping(handle)
    for seconds in (0.0, IDLE_WAIT, 10 * IDLE_WAIT):
        it.step(began + seconds)
    assert not it._idle_since
    assert handle.is_there()  # type: ignore[attr-defined]


def test_while_the_store_is_away_idle_children_are_not_killed(handle: ChildHandle) -> None:
    it, began = stopping(handle, is_away=lambda: True)
    for seconds in (0.0, IDLE_WAIT, 10 * IDLE_WAIT):
        it.step(began + seconds)
    assert handle.is_there()  # type: ignore[attr-defined]


def test_a_stop_takes_too_long_if_the_death_of_a_killed_child_is_not_reported(handle: ChildHandle) -> None:
    handle.page.begin(0, 7, 1.0, 0.0)
    it, now = stopping(handle)
    while it.phase < Phase.KILL:
        assert not it.takes_too_long(now)
        now += 300
        it.step(now)
    assert not it.takes_too_long(now)
    assert it.takes_too_long(now + KILL_WAIT)
    handle.state = HandleState.EMPTY
    it.step(now + KILL_WAIT)
    assert not it.takes_too_long(now + KILL_WAIT)
