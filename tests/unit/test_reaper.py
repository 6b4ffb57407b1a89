"""The steps after a death: in which thread, in which order, and how long a stop waits for them."""

from __future__ import annotations

from typing import Any

import pytest
from fake_children import FakeRolesThread

from jobqueue.protocol.rescue import ForRQ, Verdict
from jobqueue.workers.shared.deaths import DeathReport, LeftForRQ
from jobqueue.workers.supervisor.reaper import Reaper

OWNER, PID = "w:0.1", 4711
DEAD = DeathReport(OWNER, [], [])
NOTHING = LeftForRQ(OWNER, "w", [])
JOBS = [ForRQ("a", 7, "q", Verdict.FAIL, b""), ForRQ("b", 8, "q", Verdict.STOP, b"")]
MANY = [*JOBS, *(ForRQ(f"job {claim}", claim, "q", Verdict.FAIL, b"") for claim in range(9, 13))]
SOME = LeftForRQ(OWNER, "w", JOBS)
ALL = frozenset({7, 8})
FAILED = 1 << 8  # a wait status


class FakeRescuer:
    """A rescuer that leaves what the test says for RQ's finish, and records its calls."""

    def __init__(self, left: LeftForRQ | None) -> None:
        self.left = left
        self.calls: list[tuple[str, Any]] = []

    def rescue_own(self, death_report: DeathReport) -> LeftForRQ | None:
        self.calls.append(("rescue", death_report))
        return self.left

    def close(self, left: LeftForRQ) -> None:
        self.calls.append(("close", left))


class Bench:
    """A dead child that leaves jobs for RQ's own code, and a fork server that forks, or does not."""

    def __init__(self, left: LeftForRQ | None = SOME) -> None:
        self.roles_thread = FakeRolesThread()
        self.rescuer: Any = FakeRescuer(left)
        self.can_fork = True
        self.left: list[LeftForRQ] = []
        self.at = 0  # the claim of the job at which the next finish process dies
        self.pids: dict[str, int] = {}
        self.reaper = Reaper(self.rescuer, self.roles_thread.do, self.roles_thread.post, self)

    def fork(self, left: LeftForRQ) -> bool:
        assert left.owner not in self.pids
        self.left.append(left)
        return self.can_fork

    def forked(self, owner: str, pid: int) -> None:
        self.pids[owner] = pid

    def ended(self, owner: str) -> int:
        self.pids.pop(owner, None)
        return self.at

    def reap(self) -> None:
        """Reap the dead child, and run what follows without a fork server."""
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
    """The roles thread does the rescue; the main loop handles the result, and a stop waits until then."""
    bench = Bench(NOTHING)
    bench.reaper.reap(DEAD)
    assert (bench.rescuer.calls, bench.reaper.busy) == ([], True)
    bench.roles_thread.work()
    assert (bench.rescuer.calls, bench.reaper.busy) == ([("rescue", DEAD)], True)
    bench.roles_thread.turn()
    assert not bench.reaper.busy


@pytest.mark.parametrize("left", [NOTHING, None])
def test_a_rescue_that_leaves_nothing_ends_the_reap(left: LeftForRQ | None) -> None:
    """None as result means that another process has struck the owner name off."""
    bench = Bench(left)
    bench.reap()
    assert (bench.left, bench.closed, bench.reaper.busy) == ([], [], False)


def test_each_death_is_handled_by_itself() -> None:
    bench = Bench(NOTHING)
    bench.reaper.reap(DEAD)
    bench.reaper.reap(DEAD._replace(owner="w:1.1"))
    bench.roles_thread.work()
    bench.roles_thread.events.pop()()
    assert bench.reaper.busy
    bench.roles_thread.turn()
    assert not bench.reaper.busy
    assert [death_report.owner for _, death_report in bench.rescuer.calls] == [OWNER, "w:1.1"]


def test_jobs_for_rqs_finish_go_to_a_finish_process(caplog: pytest.LogCaptureFixture) -> None:
    """RQ's finish calls user code, which never runs in the supervisor. The roles thread does the final rescue."""
    bench = Bench()
    bench.reap()
    assert (bench.left, bench.closed, bench.reaper.busy) == ([SOME], [], True)
    bench.request_starts()
    assert bench.reaper.busy
    assert bench.reaper.died(PID, 0)
    assert (bench.closed, bench.reaper.busy) == ([], True)
    bench.roles_thread.work()
    assert (bench.closed, bench.reaper.busy) == ([SOME], True)
    bench.roles_thread.turn()
    assert not bench.reaper.busy
    assert caplog.messages == []


def test_a_finish_process_that_died_is_followed_by_one_without_user_code(caplog: pytest.LogCaptureFixture) -> None:
    """A callback may have killed the first process: the second one only records."""
    bench = Bench()
    bench.reap()
    bench.request_starts()
    bench.request_ends(FAILED)
    assert bench.left == [SOME, SOME._replace(plain=ALL)]
    assert (bench.closed, bench.reaper.busy) == ([], True)
    bench.request_starts(PID + 1)
    bench.request_ends(0, PID + 1)
    assert (bench.closed, bench.reaper.busy) == ([SOME._replace(plain=ALL)], False)
    assert caplog.messages == [f"finishing the jobs of {OWNER} failed; 2 jobs are recorded without own code"]


def test_there_is_no_third_finish_process(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.reap()
    for pid in (PID, PID + 1):
        bench.request_starts(pid)
        bench.request_ends(FAILED, pid)
    assert len(bench.left) == 2
    assert ([left.jobs for left in bench.closed], bench.reaper.busy) == ([JOBS], False)
    assert "recorded without callbacks and retries" in caplog.messages[-1]


def test_a_finish_process_without_user_code_is_not_repeated() -> None:
    """All its jobs were to be recorded without user code in the first place."""
    bench = Bench(SOME._replace(plain=ALL))
    bench.reap()
    bench.request_starts()
    bench.request_ends(FAILED)
    assert (len(bench.left), len(bench.closed), bench.reaper.busy) == (1, 1, False)


def test_callbacks_that_hung_before_are_left_out_too() -> None:
    """One callback did not end in an earlier process, and now another one does not: both are left out."""
    bench = Bench(SOME._replace(plain=frozenset({7})))
    bench.reap()
    bench.request_starts()
    bench.request_ends(FAILED)
    assert bench.left[1].plain == ALL


def test_only_the_job_at_fault_does_without_its_code(caplog: pytest.LogCaptureFixture) -> None:
    """The next process begins with it: those in front of it are recorded. The others have done nothing wrong."""
    bench = Bench(LeftForRQ(OWNER, "w", MANY))
    bench.reap()
    bench.request_starts()
    bench.at = 8
    bench.request_ends(FAILED)
    assert bench.left[1:] == [LeftForRQ(OWNER, "w", MANY[1:], plain=frozenset({8}))]
    assert caplog.messages == [f"finishing the jobs of {OWNER} failed; 1 job is recorded without own code"]
    bench.request_starts(PID + 1)
    bench.request_ends(0, PID + 1)
    assert (bench.closed, bench.reaper.busy) == (bench.left[1:], False)


@pytest.mark.parametrize(("at", "plain"), [((7, 8, 9), {7, 8}), ((7, 7, 8), {7})])
def test_not_every_job_may_end_one(at: tuple[int, ...], plain: set[int]) -> None:
    """Each may take a minute to do it: after the third, or where one dies without the job's code, all others do
    without."""
    bench = Bench(LeftForRQ(OWNER, "w", MANY))
    bench.reap()
    for n, bench.at in enumerate(at):
        bench.request_starts(PID + n)
        bench.request_ends(FAILED, PID + n)
    everything = {job.claim for job in MANY}
    assert [set(left.plain) for left in bench.left] == [
        set(),
        {7},
        plain | ({8} if 9 in at else everything),
        everything,
    ][: len(bench.left)]
    assert set(bench.left[-1].plain) == everything


def test_without_a_fork_server_the_final_rescue_ends_the_jobs(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.can_fork = False
    bench.reap()
    assert (bench.closed, bench.reaper.busy) == ([SOME], False)
    assert "recorded without callbacks and retries" in caplog.messages[-1]


def test_a_fork_server_that_died_between_two_attempts() -> None:
    bench = Bench()
    bench.reap()
    bench.request_starts()
    bench.can_fork = False
    bench.request_ends(FAILED)
    assert (len(bench.closed), bench.reaper.busy) == (1, False)


def test_a_finish_process_that_could_not_be_started() -> None:
    bench = Bench()
    bench.reap()
    assert not bench.reaper.unborn("w:1.1", "no memory")  # the pid of a child of ours, for example
    assert bench.reaper.busy
    assert bench.reaper.unborn(OWNER, "no memory")
    bench.roles_thread.settle()
    assert (bench.closed, bench.reaper.busy) == ([SOME], False)


def test_all_requests_end_when_the_fork_server_dies() -> None:
    """A request whose pid is not known yet ends too; a late report of its death does no harm."""
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


def test_jobs_left_by_another_tree_are_finished_once() -> None:
    """The tree's rescue is repeated until the final one: an owner has one finish process at a time."""
    bench = Bench()
    bench.reaper.finish_by_rq(SOME)
    bench.reaper.finish_by_rq(SOME)
    bench.request_starts()
    bench.reaper.finish_by_rq(SOME)
    assert len(bench.left) == 1
    bench.request_ends(0)
    bench.reaper.finish_by_rq(SOME)
    assert len(bench.left) == 2


def test_deaths_of_other_processes_are_ignored() -> None:
    bench = Bench()
    bench.reap()
    bench.request_starts()
    assert not bench.reaper.forked("w:1.1", PID + 1)
    assert not bench.reaper.died(PID + 1, 0)
    assert bench.reaper.busy


def test_a_stop_waits_for_other_requests_too() -> None:
    """The result arrives in the main loop, once."""
    bench = Bench()
    found: list[int] = []
    bench.reaper.ask(lambda: 42, found.append)
    bench.roles_thread.work()
    assert (found, bench.reaper.busy) == ([], True)
    bench.roles_thread.turn()
    assert (found, bench.reaper.busy) == ([42], False)
