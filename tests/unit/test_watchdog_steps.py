"""The watchdog step by step, with signals that reach no process; test_watchdog.py has real ones."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from fake_children import NO_PID, Because, FakeChild, Kills

from jobqueue.protocol.rescue import Verdict
from jobqueue.store.connection import Address
from jobqueue.workers.shared.endings import FAILURE, HARD, JOB, RECORDING, SUCCESS
from jobqueue.workers.shared.journal import PULSE
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.supervisor import watchdog
from jobqueue.workers.supervisor.child_handle import ChildHandle
from jobqueue.workers.supervisor.child_process import Condemned
from jobqueue.workers.supervisor.watchdog import MEASURE_EVERY, SILENT, SILENT_FOR_GOOD, Watchdog

T0 = 1000.0  # monotonic seconds at which the jobs here begin
STOP, CONT, KILL = signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL


class Bench:
    """A watchdog and two children."""

    def __init__(self, kills: Kills, slots: int = 1, max_memory: int = 0) -> None:
        fields: dict[str, Any] = {"worker": "w", "queues": ("default",), "children": 2, "max_memory": max_memory}
        settings = Settings(Address(url="redis://127.0.0.1:1/0"), slots=slots, **fields)
        self.kills = kills
        self.stood_in: list[ChildHandle] = []
        self.retired: list[tuple[int, str]] = []
        self.watchdog = Watchdog(
            settings,
            lambda handle, pulse: self.stood_in.append(handle),
            lambda handle, why: self.retired.append((handle.number, why)),
        )
        self.children = [FakeChild(n, slots).come() for n in range(2)]

    @property
    def child(self) -> FakeChild:
        return self.children[0]

    @property
    def condemned(self) -> dict[int, Condemned]:
        return self.child.handle.process.condemned

    def look(self, *times: float) -> None:
        for now in times:
            self.watchdog.step(self.child.handle, now)

    def answer(self) -> None:
        """Move the pulse, as the child watchdog does."""
        self.child.page.set(PULSE, self.child.page.get(PULSE) + 1)


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> Kills:
    return Kills(monkeypatch)


@pytest.fixture
def bench(request: pytest.FixtureRequest, kills: Kills) -> Iterator[Bench]:
    bench = Bench(kills, **getattr(request, "param", {}))
    yield bench
    for child in bench.children:
        child.close()


THREADS = pytest.mark.parametrize("bench", [{"slots": 2}], indirect=True)


# -- a kill that is meant for one job --------------------------------------------------------------------------------


def test_a_process_is_stopped_before_it_is_killed(bench: Bench) -> None:
    """A stopped process cannot change its page between the look and the kill."""
    bench.child.run(7, limit=1.0)
    bench.look(T0 + 1.0 + HARD - 0.01)
    assert bench.kills == []
    bench.look(T0 + 1.0 + HARD)
    assert bench.kills == [(0, STOP), (0, KILL)]
    assert bench.child.handle.process.killed


def test_a_process_whose_job_ended_at_the_last_moment_continues(
    bench: Bench, kills: Kills, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next job started between the look and SIGSTOP."""

    def stop(pid: int, number: int) -> None:
        kills.append((pid - NO_PID, signal.Signals(number)))
        bench.child.run(8, since=T0 + 5)

    bench.child.run(7, limit=1.0)
    monkeypatch.setattr("os.kill", stop)
    bench.look(T0 + 5)
    assert kills == [(0, STOP), (0, CONT)]
    assert (bench.child.handle.process.killed, bench.condemned) == (False, {})


def test_a_process_that_is_gone_when_it_is_to_be_stopped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog did not kill the process: the fork server reports how it died."""

    def fail(pid: int, number: int) -> None:
        raise ProcessLookupError

    bench.child.run(7, limit=1.0)
    monkeypatch.setattr("os.kill", fail)
    bench.look(T0 + 5)
    assert (bench.child.handle.process.killed, bench.condemned) == (False, {})


def test_a_child_whose_pid_is_not_known_yet(bench: Bench) -> None:
    bench.child.run(7, limit=1.0)
    bench.child.handle.process.pid = 0
    bench.look(T0 + 5)
    assert (bench.kills, bench.child.handle.process.killed, bench.condemned) == ([], False, {})


def test_each_child_is_judged_by_itself(bench: Bench) -> None:
    bench.children[0].run(7, limit=1.0)
    bench.children[1].run(8, limit=100.0)
    for child in bench.children:
        bench.watchdog.step(child.handle, T0 + 5)
    assert {number for number, _ in bench.kills} == {0}


# -- what is past its limit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "subject"),
    [(SUCCESS, "The success callback"), (FAILURE, "The failure callback"), (RECORDING, "Recording how the job ended")],
)
def test_a_limit_set_after_the_job_counts_from_then(bench: Bench, what: int, subject: str) -> None:
    """The job itself took an hour; its callback may take ten seconds more."""
    bench.child.run(7, since=T0 - 3600, limit=5000.0)
    bench.child.page.allow(0, what, T0, 10.0)
    bench.look(T0 + 10 + HARD - 0.01)
    assert bench.kills == []
    bench.look(T0 + 10 + HARD)
    assert bench.kills == [(0, STOP), (0, KILL)]
    verdict, cause, _, subject_of_limit = bench.condemned[7]
    assert (verdict, subject_of_limit) == ("fail", what)
    assert cause.recorded.startswith(f"TimeLimitExceeded: {subject} ran longer than its time limit of 10 s.")


def test_a_job_that_reacted_to_the_stop_is_left_alone(bench: Bench) -> None:
    """The job has ended, and RQ's code records that it was stopped, which may take long."""
    bench.child.run(7)
    bench.condemned[7] = Condemned(Verdict.STOP, Because("as you wished"), T0)
    bench.child.page.allow(0, RECORDING, T0 + 1, 0.0)
    bench.look(T0 + HARD, T0 + 100 * HARD)
    assert bench.kills == []


def test_a_stopped_job_whose_callback_hangs_is_recorded_as_stopped(bench: Bench) -> None:
    bench.child.run(7)
    bench.condemned[7] = Condemned(Verdict.STOP, Because("as you wished"), T0)
    bench.child.page.allow(0, FAILURE, T0 + 1, 10.0)
    bench.look(T0 + 11 + HARD)
    assert bench.kills == [(0, STOP), (0, KILL)]
    assert bench.condemned[7] == Condemned(Verdict.STOP, Because("as you wished"), T0, FAILURE)


def test_a_job_to_stop_that_is_also_past_its_limit_is_recorded_as_stopped(bench: Bench) -> None:
    """The request to stop came first, so it is the cause."""
    bench.child.run(7, limit=1.0)
    bench.condemned[7] = Condemned(Verdict.STOP, Because("as you wished"), T0)
    bench.look(T0 + 100)
    assert bench.condemned[7] == Condemned(Verdict.STOP, Because("as you wished"), T0, JOB)


@THREADS
def test_a_process_with_several_jobs_is_killed_only_if_it_holds_still(bench: Bench) -> None:
    """The process has to hold still for longer than until the watchdog stands in, as a busy machine is slow."""
    bench.child.run(7, 0, limit=1.0).run(8, 1)
    late = T0 + 100
    bench.look(late, late + SILENT, late + SILENT_FOR_GOOD - 0.01)
    assert (len(bench.stood_in), bench.kills) == (1, [])
    bench.answer()
    bench.look(late + SILENT_FOR_GOOD, late + 2 * SILENT_FOR_GOOD - 0.01)
    assert (len(bench.stood_in), bench.kills) == (2, [])
    bench.look(late + 2 * SILENT_FOR_GOOD)
    assert bench.kills == [(0, STOP), (0, KILL)]
    assert set(bench.condemned) == {7}


@THREADS
def test_two_that_are_past_their_limits_end_with_one_kill(bench: Bench) -> None:
    """The first job is condemned; the death report has the ruling on the other."""
    bench.child.run(7, 0, limit=1.0).run(8, 1, limit=1.0)
    bench.look(T0 + 100, T0 + 100 + SILENT_FOR_GOOD)
    assert bench.kills == [(0, STOP), (0, KILL)]
    assert set(bench.condemned) == {7}


# -- what has grown --------------------------------------------------------------------------------------------------


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """The memory of the children in MB, by number."""
    sizes = {0: 10, 1: 10}
    monkeypatch.setattr(watchdog, "memory_mb", lambda pid: sizes[pid - NO_PID])
    return sizes


LIMITED = pytest.mark.parametrize("bench", [{"max_memory": 100}], indirect=True)


@LIMITED
def test_a_child_that_is_too_large_retires(bench: Bench, sizes: dict[int, int]) -> None:
    handles = [child.handle for child in bench.children]
    sizes.update({0: 100, 1: 101})
    bench.watchdog.weigh(handles, T0)
    assert bench.retired == [(1, "it uses 101 MB, more than --max-memory 100")]
    assert bench.kills == []


@LIMITED
def test_memory_is_measured_about_once_a_second(bench: Bench, sizes: dict[int, int]) -> None:
    handles = [child.handle for child in bench.children]
    bench.watchdog.weigh(handles, T0)
    sizes[0] = 200
    bench.watchdog.weigh(handles, T0 + MEASURE_EVERY - 0.01)
    assert bench.retired == []
    bench.watchdog.weigh(handles, T0 + MEASURE_EVERY)
    assert len(bench.retired) == 1


@LIMITED
def test_the_memory_of_a_retiring_or_missing_child_is_not_measured(bench: Bench, sizes: dict[int, int]) -> None:
    handles = [child.handle for child in bench.children]
    sizes.update({0: 200, 1: 200})
    handles[0].process.retiring = True
    handles[1].process.pid = 0
    bench.watchdog.weigh(handles, T0)
    assert bench.retired == []
