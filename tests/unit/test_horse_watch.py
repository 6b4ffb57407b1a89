"""When the parent of a horse replaces it, judged step by step with a clock that is passed in."""

from __future__ import annotations

import pytest

from jobqueue.workers.rq_classes import horse_watch
from jobqueue.workers.rq_classes.horse_flags import HorseFlags
from jobqueue.workers.rq_classes.horse_watch import HorseWatch
from jobqueue.workers.rq_classes.rq_roles import one_page
from jobqueue.workers.shared.journal import PULSE, SharedPage
from jobqueue.workers.supervisor.birth_watch import KILLED
from jobqueue.workers.supervisor.idle_watch import SILENT, STOPPED_FOR, UNWATCHED

PID = 4711


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.page: SharedPage = one_page()
        self.flags = HorseFlags()
        self.watch = HorseWatch(self.page, self.flags)
        self.stopped = False
        self.now = 1000.0
        monkeypatch.setattr(horse_watch, "is_stopped", lambda pid: self.stopped)
        self.watch.forked(self.now)
        self.watch.step(PID, self.now)

    def after(self, seconds: float) -> str:
        """Step the watch once a second."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 1.0, end)
            if why := self.watch.step(PID, self.now):
                return why
        return ""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_a_horse_whose_pulse_stands_still_is_replaced(bench: Bench) -> None:
    bench.page.set(PULSE, 1)
    assert bench.after(1.0) == ""
    assert bench.after(SILENT - 0.5) == ""
    assert bench.after(1.0) == "does not react"


def test_a_horse_that_never_had_a_pulse_has_as_long_as_a_child_that_starts(bench: Bench) -> None:
    assert bench.after(KILLED - 0.5) == ""
    assert bench.after(1.0) == "does not react"


def test_a_horse_that_is_leaving_is_not_judged_by_its_pulse(bench: Bench) -> None:
    bench.page.set(PULSE, 1)
    bench.flags.set_leaving()
    assert bench.after(3 * SILENT) == ""


def test_a_stopped_horse_is_replaced(bench: Bench) -> None:
    bench.stopped = True
    assert bench.after(1.0) == ""
    assert bench.after(STOPPED_FOR + 1.0) == "is stopped"


def test_a_horse_that_runs_a_job_is_not_replaced(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.page, "running", lambda: [object()])
    bench.stopped = True
    assert bench.after(3 * max(SILENT, STOPPED_FOR, KILLED)) == ""


def test_after_a_stop_of_the_parent_the_watch_starts_again(bench: Bench) -> None:
    bench.page.set(PULSE, 1)
    assert bench.after(1.0) == ""
    bench.now += UNWATCHED + SILENT
    assert bench.watch.step(PID, bench.now) == ""
    assert bench.after(SILENT - 0.5) == ""
    assert bench.after(1.0) == "does not react"


def test_flags_are_cleared_before_the_next_fork() -> None:
    flags = HorseFlags()
    flags.set_stop(), flags.set_left(), flags.set_leaving()
    assert (flags.stop, flags.left, flags.leaving) == (True, True, True)
    flags.clear()
    assert (flags.stop, flags.left, flags.leaving) == (False, False, False)
