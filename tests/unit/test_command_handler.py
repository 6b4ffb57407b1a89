"""What RQ's commands do to children, without processes; no command ends the worker."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_children import Clock, FakeChild, Kills

from jobqueue.errors import StoppedOnRequest
from jobqueue.protocol.rescue import Verdict
from jobqueue.workers.shared.endings import HARD
from jobqueue.workers.shared.messages import StopJob, ToChild
from jobqueue.workers.supervisor.command_handler import CommandHandler


class Bench:
    """Two children with two slots each, which run the jobs 7 and 8, and 9; one child without a job; an empty handle."""

    def __init__(self, kills: Kills) -> None:
        self.kills = kills
        self.clock = Clock()
        self.children = [FakeChild(n, slots=2).come() for n in range(3)]
        self.children[0].run(7, 0).run(8, 1)
        self.children[1].run(9, 1)
        self.empty = FakeChild(3, slots=2)
        self.shutdowns = 0
        self.searches: list[tuple[str, list[str], Callable[[int | None], None]]] = []
        handles = [child.handle for child in (*self.children, self.empty)]
        self.orders = CommandHandler(handles, self._shutdown, lambda *search: self.searches.append(search), self.clock)

    def _shutdown(self) -> None:
        self.shutdowns += 1

    def order(self, command: Any, **fields: Any) -> None:
        self.orders.handle({"command": command, **fields})

    def found(self, claim: int | None) -> None:
        """Call back with the result of the roles thread's lookup."""
        _, _, then = self.searches.pop()
        then(claim)

    def heard(self) -> list[list[ToChild]]:
        return [child.heard() for child in self.children]

    @property
    def condemned(self) -> dict[int, tuple[str, str, float]]:
        """Return verdict, cause and time of each condemned job, by claim."""
        all_of_them = [child.handle.process.condemned for child in self.children]
        return {claim: tuple(c)[:3] for condemned in all_of_them for claim, c in condemned.items()}  # type: ignore[misc]

    def nothing_happened(self) -> bool:
        return not (self.shutdowns or self.searches or self.condemned or self.kills or any(self.heard()))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench(Kills(monkeypatch))
    yield bench
    for child in bench.children:
        child.close()


def test_shutdown_is_passed_on_as_a_signal_is(bench: Bench) -> None:
    """Each shutdown command is passed on, as a signal is."""
    bench.order("shutdown")
    bench.order("shutdown")
    assert bench.shutdowns == 2


def test_stop_job_reaches_the_child_and_the_watchdog(bench: Bench) -> None:
    """The job's claim is looked up; then its child is sent StopJob, and the watchdog is told."""
    bench.order("stop-job", job_id="a")
    [(job_id, owners, _)] = bench.searches
    assert (job_id, owners) == ("a", ["w:0.1", "w:1.1", "w:2.1"])
    assert not any(bench.heard())
    bench.clock.now = 1050.0
    bench.found(8)
    assert bench.heard() == [[StopJob(8)], [], []]
    assert bench.condemned == {8: (Verdict.STOP, StoppedOnRequest(), 1050.0)}


def test_a_repeated_stop_job_gives_the_job_no_more_time(bench: Bench) -> None:
    """StopJob is sent again, but HARD seconds count from the first time."""
    for _ in range(3):
        bench.order("stop-execution", execution_id=f"{9:x}")
        bench.clock.now += HARD / 2
    assert bench.heard() == [[], [StopJob(9)] * 3, []]
    assert bench.condemned == {9: (Verdict.STOP, StoppedOnRequest(), 1000.0)}


def test_stop_execution_needs_no_lookup_of_the_claim(bench: Bench) -> None:
    """The execution's id is the claim in hexadecimal, so nothing has to be looked up."""
    bench.children[2].run(0xABC)
    bench.order("stop-execution", execution_id="abc")
    assert bench.heard() == [[], [], [StopJob(2748)]]
    assert bench.searches == []


@pytest.mark.parametrize("claim", [None, 0, 10])
def test_stop_job_of_a_job_that_does_not_run_here_does_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture, claim: int | None
) -> None:
    """There is no such job, or it is claimed and not started, or it ended during the lookup."""
    bench.order("stop-job", job_id="a")
    bench.found(claim)
    assert bench.nothing_happened()
    assert caplog.messages == ["a job that does not run here is to be stopped: ignored"]


def test_stop_job_does_nothing_if_the_child_died_during_the_lookup(bench: Bench) -> None:
    """A dead child's page is read only when the child is reaped."""
    bench.order("stop-job", job_id="a")
    bench.children[1].leave()
    bench.found(9)
    assert bench.condemned == {}


@pytest.mark.parametrize("execution_id", ["no number", "", None, "0", 9.5, "ffffffffffffffffffffffffffffffff"])
def test_an_invalid_execution_id_is_ignored(bench: Bench, execution_id: Any) -> None:
    bench.order("stop-execution", execution_id=execution_id)
    assert bench.nothing_happened()


def test_kill_horse_kills_each_child_that_runs_a_job(bench: Bench) -> None:
    """kill-horse kills each child that runs a job, and no other."""
    bench.order("kill-horse")
    assert bench.kills == [(0, signal.SIGKILL), (1, signal.SIGKILL)]
    assert bench.condemned == {}


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"command": None},
        {"command": "dance"},
        {"command": ["shutdown"]},
        {"command": {"shutdown": 1}},
        {"command": "stop-job", "job_id": "\ud800"},
        {"command": "x" * 100_000},
    ],
    ids=lambda order: f"{order!s:.40}",
)
def test_an_invalid_command_is_ignored_with_one_short_line(
    bench: Bench, caplog: pytest.LogCaptureFixture, order: dict[str, Any]
) -> None:
    bench.orders.handle(order)
    assert bench.nothing_happened()
    [message] = caplog.messages
    assert "ignored" in message
    assert len(message) < 500


def test_an_error_in_a_command_does_not_end_the_worker(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_search: Any) -> None:
        raise RuntimeError("no such thing")

    bench.orders._find = fail
    bench.order("stop-job", job_id="a")
    assert "RuntimeError" in caplog.text or "no such thing" in caplog.text
