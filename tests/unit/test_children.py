"""The lives of children, turn by turn, with a fork server that starts no process: start, retirement, giving up."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fake_children import NO_PID, Clock

from jobqueue.errors import BootFailed
from jobqueue.store.connection import Address
from jobqueue.workers.shared.attempts import TRIES
from jobqueue.workers.shared.deaths import FAILED, DeathReport
from jobqueue.workers.shared.journal import DONE, OUT_OF_WORK, PULSE
from jobqueue.workers.shared.messages import CannotBegin, Quiet, encode
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.supervisor.child_handle import ChildHandle, HandleState, make_handles
from jobqueue.workers.supervisor.children import Children
from jobqueue.workers.supervisor.main_loop import MainLoop
from jobqueue.workers.supervisor.shutdown import Phase

EXITED = FAILED << 8  # a wait status


class FakeStop:
    """A worker that runs until it fails."""

    def __init__(self) -> None:
        self.phase = Phase.RUNNING
        self.cause: BootFailed | None = None
        self.dropped: list[tuple[ChildHandle, Any]] = []

    def fail(self, cause: BootFailed) -> None:
        self.cause = cause


class Bench:
    """A worker of two children, neither of which has started."""

    def __init__(self, children: int = 2) -> None:
        self.clock = Clock()
        self.owners: list[tuple[str, Callable[[], object]]] = []  # on their way into the store
        self.reaped: list[DeathReport] = []
        self.stop = FakeStop()
        self.loop = MainLoop()
        self.theirs: dict[int, socket.socket] = {}  # by the number of the handle
        self.fork_server: Any = SimpleNamespace(is_ready=True, fork_child=self._fork)
        self.can_fork = True
        threads: Any = SimpleNamespace(add_owner=lambda owner, then: self.owners.append((owner, then)))
        reaper: Any = SimpleNamespace(reap=self.reaped.append)
        stop: Any = self.stop
        settings = Settings(Address(url=""), "w", ("default",), children, 1)
        _, self.handles = make_handles(children, 1, self.clock)
        self.children = Children(settings, self.handles, self.loop, threads, self.fork_server, reaper, stop, self.clock)

    def _fork(self, handle: ChildHandle) -> socket.socket | None:
        if not self.can_fork:
            return None
        self._hang_up(handle.number)
        ours, self.theirs[handle.number] = socket.socketpair()
        return ours

    def turn(self, seconds: float = 0.05) -> None:
        """Let this much time pass; then start the missing children."""
        self.clock.now += seconds
        self.children.start_missing(self.clock.now)

    def store_answers(self) -> None:
        """Store the owner names, after which the processes are requested."""
        names, self.owners = self.owners, []
        for _, then in names:
            then()

    def come(self, begun: bool = True) -> None:
        """Let the fork server start the requested processes. begun: they are ready to run jobs."""
        self.store_answers()
        for handle in self.children.used:
            if not handle.pid:
                assert self.children.forked(handle.owner, NO_PID + handle.number)
                handle.page.set(PULSE, int(begun))

    def die(self, number: int, status: int = signal.SIGKILL) -> None:
        assert self.children.died(NO_PID + number, status)
        self._hang_up(number)

    def _hang_up(self, number: int) -> None:
        """Close the socket of a child that is gone."""
        if theirs := self.theirs.pop(number, None):
            theirs.close()

    def states(self) -> list[str]:
        return [handle.state.value for handle in self.handles]

    def close(self) -> None:
        for number in [*self.theirs]:
            self._hang_up(number)
        for handle in self.children.used:
            handle.release()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture
def one_child() -> Iterator[Bench]:
    bench = Bench(1)
    yield bench
    bench.close()


def test_the_owner_name_is_stored_before_the_process_is_requested(bench: Bench) -> None:
    bench.turn()
    assert [owner for owner, _ in bench.owners] == ["w:0.1", "w:1.1"]
    assert (bench.states(), bench.theirs) == (["starting", "starting", "empty", "empty"], {})
    assert bench.children.are_starting
    bench.turn()
    assert len(bench.owners) == 2  # nobody is started twice
    bench.store_answers()
    assert bench.states() == ["in use", "in use", "empty", "empty"]
    assert sorted(bench.theirs) == [0, 1]


def test_without_a_fork_server_no_child_is_started(bench: Bench) -> None:
    bench.fork_server.is_ready = False
    bench.turn()
    assert bench.owners == []


def test_if_the_fork_server_is_gone_the_owner_name_is_struck_off_again(bench: Bench) -> None:
    """The owner name is struck off again, and the handle is free for the next child."""
    bench.turn()
    bench.can_fork = False
    bench.store_answers()
    assert bench.states() == ["empty"] * 4
    assert [report.owner for report in bench.reaped] == ["w:0.1", "w:1.1"]


def test_a_successor_starts_before_the_retired_child_ends(bench: Bench) -> None:
    bench.turn()
    bench.come()
    first = bench.handles[0]
    bench.children.retire(first, "it is old")
    bench.turn()
    assert [owner for owner, _ in bench.owners] == ["w:2.1"]
    assert not first.process.quiet_sent
    bench.come()
    assert first.process.quiet_sent
    assert bench.theirs[0].recv(100) == encode(Quiet())
    bench.die(0, 0)
    bench.turn()
    assert (bench.states(), bench.owners) == (["empty", "in use", "in use", "empty"], [])


def test_a_slow_store_does_not_cause_a_second_successor(bench: Bench) -> None:
    """While the store is slow with the next owner name, no second name is requested for the same child."""
    bench.turn()
    bench.come()
    bench.children.retire(bench.handles[0], "it is old")
    bench.turn()
    bench.come()
    bench.die(0, 0)
    bench.children.retire(bench.handles[1], "it is old")
    bench.turn(5.0)
    assert [owner for owner, _ in bench.owners] == ["w:0.2"]
    bench.turn(5.0)
    assert [owner for owner, _ in bench.owners] == ["w:0.2"]
    bench.come()
    bench.die(1, 0)
    bench.turn(5.0)
    assert bench.states() == ["in use", "empty", "in use", "empty"]


def test_what_a_dead_child_has_done_is_counted(bench: Bench) -> None:
    bench.turn()
    bench.come()
    bench.handles[0].page.set(DONE, 7)
    bench.die(0)
    assert bench.children.done == 7
    assert [report.owner for report in bench.reaped] == ["w:0.1"]
    assert bench.states()[0] == HandleState.EMPTY.value


def test_a_process_that_could_not_be_started_is_logged_and_frees_its_handle(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    bench.turn()
    bench.store_answers()
    assert bench.children.unborn("w:0.1", "no memory")
    assert not bench.children.unborn("somebody else's", "no memory")
    assert "child w:0.1 (pid 0) could not be started: no memory" in caplog.text
    assert bench.states()[:2] == ["empty", "in use"]


def test_the_reason_why_a_child_cannot_start_is_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    bench.turn()
    bench.come()
    bench.theirs[0].sendall(encode(CannotBegin("no such module")))
    bench.loop.wait(0)
    bench.die(0, EXITED)
    assert f"child w:0.1 (pid {NO_PID}) no such module" in caplog.text


@pytest.mark.parametrize("begun", [False, True])
def test_children_that_never_claim_a_job_end_the_worker(one_child: Bench, begun: bool) -> None:
    """Such children die before they are ready, or fail by themselves before they have claimed a job."""
    bench = one_child
    bench.turn()
    bench.come(begun)
    for _ in range(TRIES):
        assert bench.stop.cause is None
        bench.die(0, EXITED)
        bench.turn(60.0)
        bench.come(begun)
    assert "exited with status 1 (4 attempts)" in str(bench.stop.cause)


def test_the_worker_continues_while_another_child_works(bench: Bench) -> None:
    bench.turn()
    bench.come()
    bench.handles[0].page.set(OUT_OF_WORK, 1)
    for _ in range(2 * TRIES):
        bench.handles[0].look_whether_it_works()
        bench.turn(60.0)
        bench.come()
        bench.die(1, EXITED)
    assert bench.stop.cause is None


def test_a_child_that_became_ready_and_was_killed_resets_the_count(one_child: Bench) -> None:
    """The child lived between two turns of the main loop, which never saw it: in a storm of kills most children live no
    longer."""
    bench = one_child
    births = bench.children._births
    for begun in (False, False, True, False):
        bench.turn(60.0)
        bench.come(begun)
        bench.die(0)
        assert (births.not_before == 0.0) is begun
    assert births.not_before - bench.clock.now <= 0.4 + 1e-9, "the pause of a first failure"


def test_the_delay_after_a_crash_loop_holds_for_spare_handles_too(one_child: Bench) -> None:
    bench = one_child
    for _ in range(3):
        assert bench.owners == []
        bench.turn()
        bench.come()
        bench.die(0)
    assert bench.handles[0].not_before > bench.clock.now
    bench.turn(0.7)
    assert bench.owners == []
    bench.turn(0.2)
    assert [owner for owner, _ in bench.owners] == ["w:0.4"]
