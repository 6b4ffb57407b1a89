"""What is done for the dead, turn by turn: who does which part, in which order, and how long a stop waits for it."""

from __future__ import annotations

from typing import Any

import pytest
from fake_children import Registrar

from jobqueue.protocol.rescue import ForRQ, Verdict
from jobqueue.workers.shared.deaths import DeathReport, LeftForRQ
from jobqueue.workers.supervisor.reaper import Reaper

OWNER, PID = "w:0.1", 4711
DEAD = DeathReport(OWNER, [], [])
NOTHING = LeftForRQ(OWNER, "w", [])
JOBS = [ForRQ("a", 7, "q", Verdict.FAIL, b""), ForRQ("b", 8, "q", Verdict.STOP, b"")]
SOME = LeftForRQ(OWNER, "w", JOBS)
ALL = frozenset({7, 8})
FAILED = 1 << 8  # a wait status


class FakeRescuer:
    """Finds what it is told to, and notes what it is asked."""

    def __init__(self, left: LeftForRQ | None) -> None:
        self.left = left
        self.calls: list[tuple[str, Any]] = []

    def rescue_own(self, death_report: DeathReport) -> LeftForRQ | None:
        self.calls.append(("rescue", death_report))
        return self.left

    def close(self, left: LeftForRQ) -> None:
        self.calls.append(("close", left))


class Bench:
    """Something that is left of a dead child, and a fork server that forks, or does not."""

    def __init__(self, left: LeftForRQ | None = SOME) -> None:
        self.roles_thread = Registrar()
        self.rescuer: Any = FakeRescuer(left)
        self.can_fork = True
        self.forked: list[LeftForRQ] = []
        self.reaper = Reaper(self.rescuer, self.roles_thread.do, self.roles_thread.post, self._fork)

    def _fork(self, left: LeftForRQ) -> bool:
        self.forked.append(left)
        return self.can_fork

    def reap(self) -> None:
        """As far as it goes by itself."""
        self.reaper.reap(DEAD)
        self.roles_thread.settle()

    def request_starts(self, pid: int = PID) -> None:
        assert self.reaper.forked(OWNER, pid)

    def request_ends(self, status: int, pid: int = PID) -> None:
        assert self.reaper.died(pid, status)
        self.roles_thread.settle()

    @property
    def closed(self) -> list[LeftForRQ]:
        return [what for name, what in self.rescuer.calls if name == "close"]


def test_the_main_loop_waits_for_nothing() -> None:
    """The roles thread rescues; what came of it is seen to in the main loop, and until then a stop has to wait."""
    bench = Bench(NOTHING)
    bench.reaper.reap(DEAD)
    assert (bench.rescuer.calls, bench.reaper.busy) == ([], True)
    bench.roles_thread.work()
    assert (bench.rescuer.calls, bench.reaper.busy) == ([("rescue", DEAD)], True)
    bench.roles_thread.turn()
    assert not bench.reaper.busy


@pytest.mark.parametrize("left", [NOTHING, None])
def test_when_nothing_is_left_that_is_all(left: LeftForRQ | None) -> None:
    """None: somebody else has struck the name off."""
    bench = Bench(left)
    bench.reap()
    assert (bench.forked, bench.closed, bench.reaper.busy) == ([], [], False)


def test_two_deaths_are_two_burials() -> None:
    bench = Bench(NOTHING)
    bench.reaper.reap(DEAD)
    bench.reaper.reap(DEAD._replace(owner="w:1.1"))
    bench.roles_thread.work()
    bench.roles_thread.events.pop()()
    assert bench.reaper.busy
    bench.roles_thread.turn()
    assert not bench.reaper.busy
    assert [death_report.owner for _, death_report in bench.rescuer.calls] == [OWNER, "w:1.1"]


def test_what_needs_rqs_own_code_goes_to_a_child(caplog: pytest.LogCaptureFixture) -> None:
    """It is user code: never in the supervisor. Then the case is closed, by the roles thread."""
    bench = Bench()
    bench.reap()
    assert (bench.forked, bench.closed, bench.reaper.busy) == ([SOME], [], True)
    bench.request_starts()
    assert bench.reaper.busy
    assert bench.reaper.died(PID, 0)
    assert (bench.closed, bench.reaper.busy) == ([], True)
    bench.roles_thread.work()
    assert (bench.closed, bench.reaper.busy) == ([SOME], True)
    bench.roles_thread.turn()
    assert not bench.reaper.busy
    assert caplog.messages == []


def test_one_that_died_at_it_is_followed_by_one_without_their_code(caplog: pytest.LogCaptureFixture) -> None:
    """Callbacks of the user's killed it, perhaps: the second one records only."""
    bench = Bench()
    bench.reap()
    bench.request_starts()
    bench.request_ends(FAILED)
    assert bench.forked == [SOME, SOME._replace(plain=ALL)]
    assert (bench.closed, bench.reaper.busy) == ([], True)
    bench.request_starts(PID + 1)
    bench.request_ends(0, PID + 1)
    assert (bench.closed, bench.reaper.busy) == ([SOME._replace(plain=ALL)], False)
    assert caplog.messages == [f"finishing the jobs of {OWNER} failed; they are recorded without their own code"]


def test_a_third_one_there_is_not(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.reap()
    for pid in (PID, PID + 1):
        bench.request_starts(pid)
        bench.request_ends(FAILED, pid)
    assert len(bench.forked) == 2
    assert ([left.jobs for left in bench.closed], bench.reaper.busy) == ([JOBS], False)
    assert "recorded without callbacks and retries" in caplog.messages[-1]


def test_one_that_had_nothing_of_theirs_to_run_is_not_repeated() -> None:
    """All its jobs were to be recorded plainly in the first place."""
    bench = Bench(SOME._replace(plain=ALL))
    bench.reap()
    bench.request_starts()
    bench.request_ends(FAILED)
    assert (len(bench.forked), len(bench.closed), bench.reaper.busy) == (1, 1, False)


def test_part_of_it_was_plain() -> None:
    """One callback did not end before; now another one does not: both are left out."""
    bench = Bench(SOME._replace(plain=frozenset({7})))
    bench.reap()
    bench.request_starts()
    bench.request_ends(FAILED)
    assert bench.forked[1].plain == ALL


def test_without_a_fork_server_the_final_rescue_does_without(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.can_fork = False
    bench.reap()
    assert (bench.closed, bench.reaper.busy) == ([SOME], False)
    assert "recorded without callbacks and retries" in caplog.messages[-1]


def test_the_fork_server_went_between_two_attempts() -> None:
    bench = Bench()
    bench.reap()
    bench.request_starts()
    bench.can_fork = False
    bench.request_ends(FAILED)
    assert (len(bench.closed), bench.reaper.busy) == (1, False)


def test_a_process_that_could_not_be_started() -> None:
    bench = Bench()
    bench.reap()
    assert not bench.reaper.unborn("w:1.1", "no memory")  # a child of ours, say
    assert bench.reaper.busy
    assert bench.reaper.unborn(OWNER, "no memory")
    bench.roles_thread.settle()
    assert (bench.closed, bench.reaper.busy) == ([SOME], False)


def test_the_fork_server_is_gone_with_every_request() -> None:
    """Also with one of which nobody said yet that it was forked; and a late word of its death does no harm."""
    bench = Bench()
    bench.reap()
    bench.request_starts()
    other = SOME._replace(owner="w:1.1")
    bench.reaper.finish_by_rq(other)
    bench.reaper.all_died()
    bench.roles_thread.settle()
    assert (bench.closed, bench.reaper.busy) == ([SOME, other], False)
    assert not bench.reaper.died(PID, 0)
    assert not bench.reaper.forked(OWNER, PID)


def test_what_another_tree_left_is_finished_once() -> None:
    """Its rescue is repeated until the case is closed: one request at a time for one owner."""
    bench = Bench()
    bench.reaper.finish_by_rq(SOME)
    bench.reaper.finish_by_rq(SOME)
    bench.request_starts()
    bench.reaper.finish_by_rq(SOME)
    assert len(bench.forked) == 1
    bench.request_ends(0)
    bench.reaper.finish_by_rq(SOME)
    assert len(bench.forked) == 2


def test_others_are_none_of_its_business() -> None:
    bench = Bench()
    bench.reap()
    bench.request_starts()
    assert not bench.reaper.forked("w:1.1", PID + 1)
    assert not bench.reaper.died(PID + 1, 0)
    assert bench.reaper.busy


def test_what_else_the_roles_thread_is_asked_keeps_a_stop_waiting() -> None:
    """The result arrives in the main loop, once."""
    bench = Bench()
    found: list[int] = []
    bench.reaper.ask(lambda: 42, found.append)
    bench.roles_thread.work()
    assert (found, bench.reaper.busy) == ([], True)
    bench.roles_thread.turn()
    assert (found, bench.reaper.busy) == ([42], False)
