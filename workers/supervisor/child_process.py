"""Keep what the supervisor knows of one process that runs jobs: facts, its socket, and decisions about it.

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
    """A job that the supervisor ends: its verdict, its cause, and since when (monotonic seconds)."""

    verdict: Verdict  # FAIL or STOP
    cause: CauseOfDeath
    since: float
    what: int = JOB  # the code that did not react: the job itself, or one of its callbacks


class ControlSocket:
    """The supervisor's end of the socket to a child. ``send`` may be called from any thread, the rest from the main
    loop."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._reader: MessageReader[FromChild] = MessageReader(FromChild)

    def send(self, message: ToChild) -> None:
        """Send a message; do nothing if the child is dead: the fork server reports the death."""
        try:
            self.socket.send(encode(message))
        except OSError:
            pass

    def receive(self) -> list[FromChild] | None:
        """Return the messages that have arrived. None: the child's end is closed, or it has sent data that is no
        message, which only a job can have done."""
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
        """Wait until the child's end closes, which shows that its process is gone: nothing may be rescued from one that
        still runs. After ``timeout`` seconds continue all the same: the token in the store is the protection then."""
        self.socket.settimeout(timeout)
        try:
            while self.socket.recv(65536):
                pass
        except OSError:  # it was reset, or did not close in time
            pass


class ChildProcess:
    """The supervisor's facts about one process of a handle; the main loop owns it. A handle without a process has one
    without a control socket."""

    def __init__(self, control: ControlSocket | None = None, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.control = control
        self.pid = 0  # 0: the fork server has not reported it yet, or there is no process
        self.born = clock()  # monotonic seconds
        self.oom_kills = oom.kills() if control else 0  # kills for lack of memory that the kernel had counted before
        self.worked = False  # the process has had an answer to a claim
        self.retiring = False  # a successor starts; this process leaves when its jobs are done
        self.quiet_sent = False
        self.has_dropped = False  # it has reported which claimed jobs it will not run
        self.condemned: dict[int, Condemned] = {}  # by claim: the jobs that the supervisor ends
        self.killed = False  # killed by the supervisor, because of one of its jobs or for a reason outside of it
        self.failure = ""  # why it did not become ready: as it said itself, or as the supervisor found
        self.plugin = ""  # whose process_start was called last, while it did not run jobs yet
        self.plugin_since = 0.0  # monotonic seconds: when it was called
        self.closed_since = 0.0  # monotonic seconds since its end of the socket is closed; 0: it is open
