"""Provide children without a process, for the parts of the supervisor that only read pages and write to sockets."""

from __future__ import annotations

import os
import signal
import socket
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from jobqueue.errors import CauseOfDeath
from jobqueue.workers.shared.journal import OUT_OF_WORK, PULSE, SharedPage, make_file
from jobqueue.workers.shared.messages import MessageReader, ToChild
from jobqueue.workers.supervisor.child_handle import ChildHandle

NO_PID = 5_000_000  # Linux gives none as high: a signal that got past the fakes would reach nobody


@dataclass(frozen=True)
class Because(CauseOfDeath):
    """A cause with any text."""

    name = ""
    text: str

    @property
    def recorded(self) -> str:
        return self.text


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Kills(list[tuple[int, signal.Signals]]):
    """Stand in for ``os.kill``: keep the signals that were sent, in order, as (number of the child, signal)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        monkeypatch.setattr(os, "kill", lambda pid, number: self.append((pid - NO_PID, signal.Signals(number))))


class FakeChild:
    """Hold a child handle, and the child's end of its socket. The handle is empty until ``come`` is called."""

    def __init__(self, number: int = 0, slots: int = 1) -> None:
        pages = make_file(1, slots)
        self.page = SharedPage(pages, 0, slots)
        self.handle = ChildHandle(number, self.page)
        weakref.finalize(self, _close, pages, self.handle.faults.fd)  # a worker keeps them for as long as it lives
        self._theirs: socket.socket | None = None
        self._reader: MessageReader[ToChild] = MessageReader(ToChild)

    def come(self, begun: bool = True) -> FakeChild:
        """Attach a process to the handle. begun: the process is ready to run jobs."""
        ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)
        self.handle.next_owner("w")
        self.handle.attach(ours)
        self.handle.process.pid = NO_PID + self.handle.number
        self.page.set(PULSE, int(begun))
        return self

    def run(self, claim: int, slot: int = 0, since: float = 1000.0, limit: float = 0.0) -> FakeChild:
        self.page.begin(slot, claim, since, limit)
        return self

    def rest(self) -> FakeChild:
        """Write into the page that the child has found the queues empty."""
        self.page.set(OUT_OF_WORK, 1)
        return self

    def leave(self) -> None:
        """Release the handle, as the supervisor does when the process has ended."""
        self.handle.release()

    def heard(self) -> list[ToChild]:
        """Return the messages that were sent to the child since the last call."""
        assert self._theirs is not None
        try:
            return self._reader.read(self._theirs.recv(4096))
        except BlockingIOError:
            return []

    def close(self) -> None:
        if self._theirs is not None:
            self._theirs.close()
        if control := self.handle.process.control:
            control.socket.close()


def _close(*files: int) -> None:
    for file in files:
        os.close(file)


class FakeRolesThread:
    """Stand in for the roles thread and the main loop: keep requests and events until a test runs them."""

    def __init__(self) -> None:
        self.requests: list[Callable[[], object]] = []
        self.events: list[Callable[[], object]] = []

    def do(self, request: Callable[[], object]) -> None:
        self.requests.append(request)

    def post(self, event: Callable[[], object]) -> None:
        self.events.append(event)

    def work(self) -> None:
        """Run the requests that were made, as the roles thread does; events that they post wait for ``turn``."""
        self._all(self.requests)

    def turn(self) -> None:
        """Run the events that were posted, as the main loop does in one turn."""
        self._all(self.events)

    def settle(self) -> None:
        """Run requests and events until none is left."""
        while self.requests or self.events:
            self.work()
            self.turn()

    def _all(self, waiting: list[Callable[[], object]]) -> None:
        some = waiting[:]
        waiting.clear()
        for one in some:
            one()
