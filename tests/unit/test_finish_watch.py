"""When a finish process holds still: past a limit that it has shown, stopped, or without a sign of life."""

from __future__ import annotations

import pytest

from jobqueue.workers.shared import finish_watch
from jobqueue.workers.shared.endings import FAILURE, HARD, RECORDING
from jobqueue.workers.shared.finish_page import SIZE, FinishPage
from jobqueue.workers.shared.finish_watch import SILENT, SLOW, STOPPED_FOR, UNWATCHED, FinishWatch

PID = 4711
BEGAN = 1000.0


class Clocked:
    """A page whose clock stands still, and its watch."""

    def __init__(self, page: FinishPage, **more: bool) -> None:
        self.page = page
        self.watch = FinishWatch(page, BEGAN, **more)
        self.now = BEGAN

    def look(self, seconds: float, is_away: bool = False) -> str:
        """Look about once a second for so long; return what was found at last."""
        end, found = self.now + seconds, ""
        while self.now < end and not found:
            self.now = min(end, self.now + 0.9)
            found = self.watch.step(PID, self.now, is_away)
        return found


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    pids: set[int] = set()
    monkeypatch.setattr(finish_watch, "is_stopped", pids.__contains__)
    return pids


@pytest.fixture
def it(stopped: set[int]) -> Clocked:
    return Clocked(FinishPage(memoryview(bytearray(SIZE)), clock=lambda: BEGAN))


def test_code_past_its_limit(it: Clocked) -> None:
    """First the process has time to end it by itself."""
    it.page.show(FAILURE, 3.0)
    assert it.look(3.0 + HARD + SLOW) == ""
    assert it.look(1.0) == "the failure callback did not react at its time limit"


def test_code_that_ended_in_time(it: Clocked) -> None:
    it.page.show(FAILURE, 3.0)
    it.look(3.0)
    it.page.show(RECORDING, 0.0)
    assert it.look(30.0) == ""


def test_code_without_a_limit(it: Clocked, stopped: set[int]) -> None:
    """It may take as long as it likes, as a job without a limit."""
    it.page.show(FAILURE, 0.0)
    assert it.look(1000.0) == ""


def test_one_that_is_stopped_under_a_limit_has_the_limit(it: Clocked, stopped: set[int]) -> None:
    stopped.add(PID)
    it.page.show(FAILURE, 8.0)
    assert it.look(8.0 + HARD) == ""
    assert "did not react" in it.look(10.0)


def test_one_that_is_stopped_elsewhere(it: Clocked, stopped: set[int]) -> None:
    stopped.add(PID)
    assert it.look(STOPPED_FOR) == ""
    assert it.look(1.0) == "it is stopped"


def test_one_that_goes_on(it: Clocked, stopped: set[int]) -> None:
    stopped.add(PID)
    it.look(STOPPED_FOR / 2)
    stopped.clear()
    it.look(1.0)
    stopped.add(PID)
    assert it.look(STOPPED_FOR / 2) == ""


def test_one_that_shows_nothing_new(it: Clocked) -> None:
    it.look(SILENT - 1)
    it.page.beat()
    assert it.look(SILENT) == ""
    assert it.look(2.0) == "it has done nothing for 60 s"


def test_one_that_waits_for_the_store(it: Clocked) -> None:
    assert it.look(10 * SILENT, is_away=True) == ""
    assert it.look(SILENT - 1) == ""
    assert it.look(2.0)


def test_one_that_imports(it: Clocked) -> None:
    it.watch = FinishWatch(it.page, BEGAN, imports=True)
    assert it.look(10 * SILENT) == ""
    it.page.beat()
    assert it.look(SILENT) == ""
    assert it.look(3.0)


def test_after_this_process_was_stopped_itself(it: Clocked, stopped: set[int]) -> None:
    stopped.add(PID)
    it.look(STOPPED_FOR / 2)
    it.now += UNWATCHED + 10 * SILENT
    assert it.watch.step(PID, it.now) == ""
    assert it.look(STOPPED_FOR - 1) == ""
