"""The life of the fork server, with a client that starts no process: attempts, replacement, notices to its
requesters."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_children import Clock

from jobqueue.errors import BootFailed
from jobqueue.store.connection import Address
from jobqueue.workers.shared.attempts import TRIES
from jobqueue.workers.shared.deaths import LeftForRQ
from jobqueue.workers.shared.journal import PULSE
from jobqueue.workers.shared.messages import Died, Forked, FromForkServer, ImportBegun, Ready, Unborn
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.supervisor import forkserver_lifecycle
from jobqueue.workers.supervisor.child_handle import ChildHandle, make_handles
from jobqueue.workers.supervisor.forkserver_lifecycle import ForkServerLifecycle
from jobqueue.workers.supervisor.main_loop import MainLoop
from jobqueue.workers.supervisor.shutdown import Phase

LEFT = LeftForRQ("w:0.1", "w", [])


class FakeClient:
    """One process of the fork server: its next messages, and the requests that it received."""

    pid = 4711

    def __init__(self) -> None:
        self.control, self._theirs = socket.socketpair()
        self.says: list[FromForkServer] | None = None  # None: the process is gone
        self.asked: list[str] = []
        self.can_write = True
        self.was_killed_by_us = False
        self.closed: bool | None = None  # at once, or not

    def messages(self) -> list[FromForkServer] | None:
        self.control.recv(1)
        return self.says

    def say(self, *messages: FromForkServer) -> None:
        self.says = [*messages]
        self._theirs.send(b"!")

    def die(self) -> None:
        self.says = None
        self._theirs.send(b"!")

    def _request(self, what: str) -> socket.socket:
        if not self.can_write:
            raise TimeoutError("timed out")
        self.asked.append(what)
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours

    def fork(self, owner: str, child: int) -> socket.socket:
        return self._request(owner)

    def fork_finish_process(self, left: LeftForRQ, _page: int) -> socket.socket:
        return self._request(f"finish {left.owner}")

    def fork_maintenance(self, _plain: bool) -> socket.socket:
        return self._request("maintenance")

    def ping(self) -> None:
        self.asked.append("ping")

    def kill(self) -> None:
        self.was_killed_by_us = True

    def end(self) -> str:
        return "exited with status 9"

    def was_killed(self) -> bool:
        return False

    def close(self, at_once: bool = False) -> None:
        self.closed = at_once
        self.control.close()
        self._theirs.close()


class FakeStop:
    """A worker that runs until it fails."""

    def __init__(self) -> None:
        self.phase = Phase.RUNNING
        self.cause: BootFailed | None = None

    def fail(self, cause: BootFailed) -> None:
        self.cause = cause


class FakeRequester:
    """A requester that records its notices; every process with its name belongs to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.heard: list[Any] = []

    def _note(self, *what: Any, mine: bool) -> bool:
        self.heard.append(what)
        return mine

    def forked(self, owner: str, pid: int) -> bool:
        return self._note("forked", owner, pid, mine=owner == self.name)

    def unborn(self, owner: str, why: str) -> bool:
        return self._note("unborn", owner, why, mine=owner == self.name)

    def died(self, pid: int, status: int) -> bool:
        return self._note("died", pid, status, mine=str(pid) == self.name)

    def all_died(self) -> None:
        self._note("all died", mine=True)


class Bench:
    """A worker of one child whose fork server has been started."""

    def __init__(self) -> None:
        self.clock, self.loop, self.stop = Clock(), MainLoop(), FakeStop()
        self.clients: list[FakeClient] = []
        self.ready: list[Ready] = []
        page_file, self.handles = make_handles(1, 1)
        stop: Any = self.stop
        settings = Settings(Address(url=""), "w", ("default",), 1, 1)
        self.fork_server = ForkServerLifecycle(
            settings, self.loop, stop, page_file, self.handles, self.ready.append, self.clock
        )
        self.requesters = [FakeRequester("w:0.1"), FakeRequester("maintenance")]
        self.fork_server.requesters = self.requesters

    def make(self, *_: Any) -> FakeClient:
        self.clients.append(FakeClient())
        return self.clients[-1]

    @property
    def client(self) -> FakeClient:
        return self.clients[-1]

    @property
    def handle(self) -> ChildHandle:
        return self.handles[0]

    def turn(self, seconds: float = 0.05) -> None:
        self.clock.now += seconds
        self.loop.wait(0)
        self.fork_server.step(self.clock.now, 0.0)

    def become_ready(self, why_not_forked: str = "") -> None:
        self.client.say(Ready(why_not_forked))
        self.turn()

    def start_child(self) -> None:
        """Give the handle a process that is ready to run jobs."""
        ours, theirs = socket.socketpair()
        theirs.close()
        self.handle.attach(ours)
        self.handle.page.set(PULSE, 1)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench()
    monkeypatch.setattr(forkserver_lifecycle, "ForkServerClient", bench.make)
    bench.fork_server.start()
    yield bench
    bench.fork_server.close()
    if control := bench.handle.process.control:
        control.socket.close()


def test_a_ready_fork_server_forks(bench: Bench) -> None:
    bench.handle.next_owner("w")
    assert bench.fork_server.fork_child(bench.handle) is None
    bench.client.say(ImportBegun("shop.tasks"))
    bench.turn()
    assert bench.fork_server.importing.module == "shop.tasks"
    bench.become_ready()
    assert (bench.ready, bench.fork_server.importing.module) == ([Ready("")], "")
    control = bench.fork_server.fork_child(bench.handle)
    assert control is not None
    control.close()
    assert bench.fork_server.fork_finish_process(LEFT, 0)
    assert bench.fork_server.fork_maintenance(False)
    assert bench.client.asked == ["w:0.1", "finish w:0.1", "maintenance"]


def test_a_fork_server_that_cannot_fork_logs_why(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    bench.become_ready("started 2 threads")
    assert bench.ready == [Ready("started 2 threads")]
    assert "importing the served modules started 2 threads: forked children would not have" in caplog.text


def test_while_the_worker_stops_only_finish_processes_are_started(bench: Bench) -> None:
    """The jobs that dead children left still have to be ended."""
    bench.become_ready()
    bench.stop.phase = Phase.QUIET
    assert bench.fork_server.fork_child(bench.handle) is None
    assert not bench.fork_server.fork_maintenance(False)
    assert bench.fork_server.fork_finish_process(LEFT, 0)


def test_only_the_requester_hears_of_its_process(bench: Bench) -> None:
    bench.become_ready()
    bench.client.say(Forked("w:0.1", 5), Forked("maintenance", 6), Unborn("w:0.1", "no memory"), Died(6, 9))
    bench.turn()
    first, second = (requester.heard for requester in bench.requesters)
    assert first == [
        ("forked", "w:0.1", 5),
        ("forked", "maintenance", 6),
        ("unborn", "w:0.1", "no memory"),
        ("died", 6, 9),
    ]
    assert second == [("forked", "maintenance", 6), ("died", 6, 9)]


def test_when_a_fork_server_dies_all_requesters_hear_of_it_and_the_next_starts(bench: Bench) -> None:
    bench.become_ready()
    bench.start_child()
    bench.client.die()
    bench.turn()
    assert [requester.heard for requester in bench.requesters] == [[("all died",)]] * 2
    assert not bench.fork_server.is_ready
    bench.turn(10.0)
    assert (len(bench.clients), bench.stop.cause) == (2, None)


def test_fork_servers_that_never_become_ready_end_the_worker(bench: Bench) -> None:
    for _ in range(TRIES):
        assert bench.stop.cause is None
        bench.client.say(ImportBegun("shop.tasks"))
        bench.turn()
        bench.client.die()
        bench.turn()
        bench.turn(60.0)
    assert "exited with status 9 while it imported shop.tasks (4 attempts)" in str(bench.stop.cause)


def test_a_fork_server_whose_children_ran_jobs_counts_as_started(bench: Bench) -> None:
    for _ in range(2 * TRIES):
        bench.become_ready()
        bench.start_child()
        bench.client.die()
        bench.turn()
        bench.handle.release()
        bench.turn(60.0)
    assert bench.stop.cause is None


def test_while_the_worker_stops_no_fork_server_is_started(bench: Bench) -> None:
    bench.become_ready()
    bench.stop.phase = Phase.QUIET
    bench.client.die()
    bench.turn()
    bench.turn(60.0)
    assert len(bench.clients) == 1
    assert not bench.fork_server.fork_finish_process(LEFT, 0)


def refuse(client: FakeClient) -> None:
    client.can_write = False


@pytest.mark.parametrize("how", [refuse, None])
def test_jobs_are_not_blamed_when_their_fork_server_is_replaced(
    bench: Bench, caplog: pytest.LogCaptureFixture, how: Callable[[FakeClient], None] | None
) -> None:
    bench.become_ready()
    bench.start_child()
    if how is None:
        bench.fork_server.replace("does not react")
    else:
        how(bench.client)
        assert bench.fork_server.fork_child(bench.handle) is None
    assert bench.client.was_killed_by_us
    assert bench.handle.process.killed
    assert ("takes no requests (" if how else "does not react: it is killed, and a new one starts") in caplog.text
    bench.turn(60.0)
    assert len(bench.clients) == 1  # its death is not noticed yet


@pytest.mark.parametrize("ready", [True, False])
def test_a_stop_does_not_wait_for_a_fork_server_that_still_imports(bench: Bench, ready: bool) -> None:
    if ready:
        bench.become_ready()
    bench.fork_server.close()
    assert bench.client.closed is not ready
