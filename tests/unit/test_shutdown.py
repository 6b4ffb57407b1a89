"""The phases of a worker's stop, step by step, without processes: each comes at its time, once, and the stop always
ends."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from fake_children import Clock, FakeChild, Kills

from jobqueue.workers.shared.journal import UNSETTLED
from jobqueue.workers.shared.messages import Interrupt, Quiet, ToChild
from jobqueue.workers.supervisor.shutdown import BIRTH_WAIT, INTERRUPTED_FOR, QUIET_WAIT, Phase, Shutdown

GRACE = 10.0
MOMENT = 0.05  # seconds between two turns of the main loop
SIGKILL = signal.SIGKILL


class Bench:
    """Three children that run a job each, an empty handle, and a stop that has not started."""

    def __init__(self, kills: Kills, grace: float) -> None:
        self.kills = kills
        self.clock = Clock()
        self.children = [FakeChild(n).come().run(100 + n) for n in range(3)]
        self.empty = FakeChild(3)
        self.given_back: list[list[Any]] = []
        handles = [child.handle for child in (*self.children, self.empty)]
        self.stop = Shutdown(handles, grace, lambda tokens: self.given_back.append([*tokens]), clock=self.clock)

    def after(self, seconds: float) -> None:
        """Let this much time pass without a step; then step."""
        self.clock.now += seconds
        self.stop.step(self.clock.now)

    def until(self, seconds: float) -> None:
        """Step as often as the main loop does, until this many seconds after the start."""
        while self.clock.now < 1000.0 + seconds:
            self.after(MOMENT)

    def answer(self, number: int, *tokens: Any) -> None:
        self.stop.dropped(self.children[number].handle, tokens)

    def all_answer(self) -> None:
        for number in range(3):
            self.answer(number)

    def heard(self) -> list[list[ToChild]]:
        return [child.heard() for child in self.children]


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> Kills:
    return Kills(monkeypatch)


@pytest.fixture
def bench(request: pytest.FixtureRequest, kills: Kills) -> Iterator[Bench]:
    bench = Bench(kills, getattr(request, "param", GRACE))
    yield bench
    for child in (*bench.children, bench.empty):
        child.close()


# -- quiet -----------------------------------------------------------------------------------------------------------


def test_every_child_is_sent_quiet_once(bench: Bench) -> None:
    bench.stop.begin("because")
    assert bench.heard() == [[Quiet()]] * 3
    assert bench.stop.phase is Phase.QUIET
    bench.stop.begin("and because")
    bench.until(GRACE - 1)
    assert bench.heard() == [[]] * 3


def test_a_child_that_was_sent_quiet_before_is_not_sent_it_again(bench: Bench) -> None:
    """A retiring child was sent quiet before."""
    bench.children[1].handle.quiet()
    bench.heard()
    bench.stop.begin("because")
    assert bench.heard() == [[Quiet()], [], [Quiet()]]


def test_a_second_begin_changes_nothing(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """The grace counts from the first begin."""
    caplog.set_level(logging.INFO)
    bench.stop.begin("first")
    bench.all_answer()
    bench.clock.now += GRACE - 1
    bench.stop.begin("second")
    bench.after(1)
    assert bench.stop.phase is Phase.INTERRUPT
    assert "first" in caplog.messages
    assert "second" not in caplog.messages


def test_jobs_that_never_started_are_given_back_in_one_step_in_order(bench: Bench) -> None:
    """The jobs are in the order of the children, not of their answers, as soon as the last child has answered."""
    bench.stop.begin("because")
    bench.answer(2, "e")
    bench.answer(0, "a", "b")
    bench.after(MOMENT)
    assert bench.given_back == []
    bench.answer(1, "c", "d")
    bench.after(MOMENT)
    assert bench.given_back == [["a", "b", "c", "d", "e"]]
    bench.until(GRACE + 10)
    assert len(bench.given_back) == 1


def test_a_child_that_does_not_answer_is_waited_for_a_moment(bench: Bench) -> None:
    bench.stop.begin("because")
    bench.answer(0, "a")
    bench.answer(2, "c")
    bench.after(QUIET_WAIT - 0.01)
    assert bench.given_back == []
    bench.after(0.01)
    assert bench.given_back == [["a", "c"]]
    bench.answer(1, "b")  # a late answer: at once
    assert bench.given_back == [["a", "c"], ["b"]]


def test_the_answer_of_a_child_that_has_left_counts(bench: Bench) -> None:
    bench.stop.begin("because")
    bench.answer(0, "a")
    bench.children[0].leave()
    bench.answer(1, "b")
    bench.answer(2)
    bench.after(MOMENT)
    assert bench.given_back == [["a", "b"]]


def test_a_child_that_died_without_an_answer_is_not_waited_for(bench: Bench) -> None:
    bench.stop.begin("because")
    bench.answer(0, "a")
    bench.answer(1)
    bench.children[2].leave()
    bench.after(MOMENT)
    assert bench.given_back == [["a"]]


def test_if_no_job_was_dropped_nothing_is_given_back(bench: Bench) -> None:
    bench.stop.begin("because")
    bench.all_answer()
    bench.until(GRACE + 10)
    assert bench.given_back == []


def test_jobs_that_a_retiring_child_drops_are_given_back_at_once(bench: Bench) -> None:
    bench.answer(1, "a")
    assert bench.given_back == [["a"]]
    assert bench.stop.phase is Phase.RUNNING


def test_a_child_that_is_not_ready_is_killed_early(bench: Bench) -> None:
    """A child that is not ready runs no job and needs no grace; the others keep theirs."""
    bench.children[1].leave()
    bench.children[1].close()
    bench.children[1].come(begun=False)
    bench.stop.begin("because")
    bench.after(BIRTH_WAIT - 0.01)
    assert bench.kills == []
    bench.after(0.01)
    assert bench.kills == [(1, SIGKILL)]


# -- interrupt, and kill ---------------------------------------------------------------------------------------------


def test_when_the_grace_is_over_each_child_is_interrupted_once(bench: Bench) -> None:
    """Running jobs may finish until the grace is over; then every child is sent Interrupt, once."""
    bench.stop.begin("because")
    bench.all_answer()
    bench.heard()
    bench.after(GRACE - 0.01)
    assert (bench.stop.phase, bench.heard()) == (Phase.QUIET, [[]] * 3)
    bench.after(0.01)
    assert (bench.stop.phase, bench.heard()) == (Phase.INTERRUPT, [[Interrupt()]] * 3)
    bench.after(INTERRUPTED_FOR - 0.01)
    assert (bench.stop.phase, bench.heard(), bench.kills) == (Phase.INTERRUPT, [[]] * 3, [])


def test_a_child_that_does_not_leave_is_killed(bench: Bench) -> None:
    bench.stop.begin("because")
    bench.all_answer()
    bench.after(GRACE)
    bench.children[0].leave()
    bench.after(INTERRUPTED_FOR)
    assert bench.stop.phase is Phase.KILL
    assert bench.kills == [(1, SIGKILL), (2, SIGKILL)]


def test_a_kill_that_had_no_effect_is_repeated(bench: Bench) -> None:
    """A child may have been forked at the same moment: the stop always ends."""
    bench.stop.begin("because")
    bench.until(GRACE + INTERRUPTED_FOR + 1)
    kills = len(bench.kills)
    bench.empty.come()
    bench.after(INTERRUPTED_FOR)
    assert bench.kills[kills:] == [(n, SIGKILL) for n in range(4)]


@pytest.mark.parametrize("bench", [0.0], indirect=True)
def test_without_a_grace_jobs_are_interrupted_at_once(bench: Bench) -> None:
    bench.stop.begin("because")
    bench.after(0.0)
    assert bench.heard() == [[Quiet(), Interrupt()]] * 3


def test_a_long_sleep_skips_no_phase(bench: Bench) -> None:
    """After a suspension of the machine, jobs are still interrupted before a child is killed."""
    bench.stop.begin("because")
    bench.after(3600)
    assert (bench.stop.phase, bench.kills) == (Phase.INTERRUPT, [])
    bench.after(3600)
    assert bench.stop.phase is Phase.KILL


# -- who asks, and how often -----------------------------------------------------------------------------------------


def test_the_second_signal_ends_the_grace(bench: Bench) -> None:
    bench.stop.asked("SIGTERM")
    bench.all_answer()
    bench.after(1)
    assert bench.stop.phase is Phase.QUIET
    bench.stop.asked("SIGTERM")
    bench.after(MOMENT)
    assert bench.stop.phase is Phase.INTERRUPT
    assert bench.heard() == [[Quiet(), Interrupt()]] * 3


def test_a_third_signal_changes_nothing(bench: Bench) -> None:
    """An interrupted job has time to be given back, however often Ctrl-C is pressed."""
    bench.stop.asked("SIGINT")
    bench.stop.asked("SIGINT")
    bench.after(0.0)
    bench.heard()
    for _ in range(10):
        bench.stop.asked("SIGINT")
        bench.after((INTERRUPTED_FOR - 0.1) / 10)
    assert (bench.stop.phase, bench.heard(), bench.kills) == (Phase.INTERRUPT, [[]] * 3, [])
    bench.after(0.1)
    assert bench.stop.phase is Phase.KILL


def test_sigquit_ends_the_grace_at_once(bench: Bench) -> None:
    """SIGQUIT needs no second signal."""
    bench.stop.asked("SIGQUIT", at_once=True)
    bench.after(0.0)
    assert bench.stop.phase is Phase.INTERRUPT
    assert bench.heard() == [[Quiet(), Interrupt()]] * 3


def test_sigquit_ends_the_grace_of_an_earlier_signal(bench: Bench) -> None:
    bench.stop.asked("SIGTERM")
    bench.after(1)
    bench.stop.asked("SIGQUIT", at_once=True)
    bench.after(MOMENT)
    assert bench.stop.phase is Phase.INTERRUPT


def test_a_signal_after_a_stop_by_the_worker_itself_ends_its_grace(bench: Bench) -> None:
    """The worker stops by itself when a burst is over or its start failed."""
    bench.stop.begin("the queues are empty")
    bench.stop.asked("SIGTERM")
    bench.after(0.0)
    assert bench.stop.phase is Phase.INTERRUPT


@pytest.mark.parametrize(
    ("running", "unsettled", "what"),
    [
        (True, True, "running jobs have 10 s to finish"),
        (True, False, "running jobs have 10 s to finish"),
        (False, True, "finished jobs have 10 s to be recorded"),
        (False, False, "running jobs have 10 s to finish"),
    ],
)
def test_the_log_says_what_the_grace_is_for(
    bench: Bench, caplog: pytest.LogCaptureFixture, running: bool, unsettled: bool, what: str
) -> None:
    caplog.set_level(logging.INFO)
    for child in bench.children:
        if not running:
            child.page.end(0)
    bench.children[2].page.set(UNSETTLED, int(unsettled))
    bench.stop.asked("SIGTERM")
    assert caplog.messages == [f"SIGTERM: taking no more jobs; {what}"]


# -- the end ---------------------------------------------------------------------------------------------------------


def test_the_time_without_a_child_is_measured(bench: Bench) -> None:
    """The time counts from the step that found no child."""
    bench.stop.begin("because")
    bench.after(MOMENT)
    assert bench.stop.without_children_for(bench.clock.now + 100) == 0.0
    for child in bench.children:
        child.leave()
    assert bench.stop.without_children_for(bench.clock.now + 100) == 0.0
    bench.after(MOMENT)
    bench.after(3)
    assert bench.stop.without_children_for(bench.clock.now) == pytest.approx(3.0)


def test_a_child_that_appears_resets_the_time_without_a_child(bench: Bench) -> None:
    bench.stop.begin("because")
    for child in bench.children:
        child.leave()
    bench.after(1)
    bench.empty.come()
    bench.after(1)
    assert bench.stop.without_children_for(bench.clock.now) == 0.0
