"""What the supervisor knows of one process that runs jobs: facts, its socket, and what is decided about it.

A new object is made for each process, so that nothing of one that has died holds for the next.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import NamedTuple

from jobqueue.errors import CauseOfDeath
from jobqueue.protocol.rescue import Verdict
from jobqueue.workers.shared import oom
from jobqueue.workers.shared.endings import JOB
from jobqueue.workers.shared.messages import FromChild, MessageReader, NotAMessage, ToChild, encode


class Condemned(NamedTuple):
    """A job that the supervisor ends: by what verdict, with what cause, since when (monotonic seconds)."""

    verdict: Verdict  # FAIL or STOP
    cause: CauseOfDeath
    since: float
    what: int = JOB  # what did not react: the job itself, or one of its callbacks


class ControlSocket:
    """The supervisor's end of the socket to a child. ``send`` may be called from any thread, the rest from the main
    loop."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._reader: MessageReader[FromChild] = MessageReader(FromChild)

    def send(self, message: ToChild) -> None:
        """Send a message. Where the child is dead nothing happens: the fork server reports the death."""
        try:
            self.socket.send(encode(message))
        except OSError:
            pass

    def receive(self) -> list[FromChild] | None:
        """Return the messages that have arrived. None: the child's end is closed, or something has written there what
        is no message, which only a job can have done."""
        try:
            data = self.socket.recv(65536)
        except OSError:
            data = b""
        if not data:
            return None
        try:
            return self._reader.read(data)
        except NotAMessage:
            return None

    def last_words(self) -> list[FromChild]:
        """Return what a process that has died had sent, without waiting for more."""
        self.socket.setblocking(False)
        return self.receive() or []

    def await_end(self, timeout: float = 5.0) -> None:
        """Wait until the child's end closes, which happens when its process is gone: nothing may be rescued from one
        that still runs. After ``timeout`` seconds go on all the same: the token in the store has to do then."""
        self.socket.settimeout(timeout)
        try:
            while self.socket.recv(65536):
                pass
        except OSError:  # reset, or not closed in time
            pass


class ChildProcess:
    """What the supervisor knows of one process of a handle. Owned by the main loop. One without a control socket stands
    in a handle that has no process."""

    def __init__(self, control: ControlSocket | None = None, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.control = control
        self.pid = 0  # 0: the fork server has not reported it yet, or there is no process
        self.born = clock()  # monotonic seconds
        self.oom_kills = oom.kills() if control else 0  # that the kernel had counted before
        self.worked = False  # it has had an answer to a claim
        self.retiring = False  # a successor takes over; it leaves when its jobs are done
        self.quiet_sent = False
        self.has_dropped = False  # it has said which claimed jobs it will not run
        self.condemned: dict[int, Condemned] = {}  # by claim: the jobs that the supervisor ends
        self.killed = False  # by the supervisor, because of one of its jobs or through no fault of its own
        self.failure = ""  # why it did not come as far as to run jobs: as it said itself, or as the supervisor found
        self.plugin = ""  # whose process_start was called last, while it did not run jobs yet
        self.closed_since = 0.0  # monotonic seconds since its end of the socket is closed; 0: it is open
