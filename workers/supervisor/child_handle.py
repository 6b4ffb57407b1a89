"""Keep the supervisor's record of one child: one process after the other, each under a new owner name.

EMPTY ──► STARTING: its next owner name is on the way into the store ──► IN_USE: a process was asked for, or runs
  ▲                                                                        │
  └────────────────────────── release, when it is gone ────────────────────┘
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from enum import Enum

from jobqueue.network.backoff import Backoff
from jobqueue.workers.shared.faults import Faults
from jobqueue.workers.shared.journal import BUFFERED, DONE, OUT_OF_WORK, PULSE, UNSETTLED, SharedPage, make_file
from jobqueue.workers.shared.messages import Quiet, ToChild
from jobqueue.workers.supervisor.child_process import ChildProcess, ControlSocket

YOUNG = 1.0  # seconds; a process that ends younger and has done nothing counts as a short life


class HandleState(Enum):
    """The state of a handle."""

    EMPTY = "empty"
    STARTING = "starting"
    IN_USE = "in use"


class ChildHandle:
    """A child handle. The supervisor's main loop owns it; any thread may call ``tell``."""

    def __init__(self, number: int, page: SharedPage, clock: Callable[[], float] = time.monotonic) -> None:
        self.number = number
        self.page = page
        self.faults = Faults()
        self.state = HandleState.EMPTY
        self.owner = ""
        self.process = ChildProcess()
        self.not_before = 0.0  # monotonic seconds: when the next process may start
        self._clock = clock
        self._incarnation = 0
        self._short_lives = Backoff(first=0.8, most=5.0, free=2)

    @property
    def pid(self) -> int:
        """The pid of its process; 0 while there is none, or while the fork server has not reported it."""
        return self.process.pid

    @property
    def is_used(self) -> bool:
        """Whether a process was asked for, or runs."""
        return self.state is HandleState.IN_USE

    def next_owner(self, worker: str) -> str:
        """Reserve the handle for a new process; return the name under which it will own jobs."""
        self.state = HandleState.STARTING
        self._incarnation += 1
        self.owner = f"{worker}:{self.number}.{self._incarnation}"
        return self.owner

    def attach(self, control: socket.socket) -> None:
        """Attach a process that was requested; ``control`` is our end of its control socket."""
        self.state = HandleState.IN_USE
        self.process = ChildProcess(ControlSocket(control), self._clock)

    def release(self) -> None:
        """Free the handle for the next process, as this one is gone or was never started. After three in a row that
        lived less than 1 s and did nothing, delay the next start (0.8 s, doubling, at most 5 s). A process that died of
        a job did start, so its successor may start at once."""
        now, process = self._clock(), self.process
        if process.control is not None:
            process.control.socket.close()
        if now - process.born < YOUNG and self.page.get(DONE) == 0 and not self.page.running():
            self._short_lives.failed()
        else:
            self._short_lives.reset()
        self.not_before = now + self._short_lives.delay
        self.process, self.state = ChildProcess(), HandleState.EMPTY

    def tell(self, message: ToChild) -> None:
        """Send the process a message; do nothing if there is no process. Any thread may call this."""
        if control := self.process.control:
            control.send(message)

    def quiet(self) -> None:
        """Tell the process to claim nothing more and to leave when its jobs are done. May be called twice."""
        if not self.process.quiet_sent:
            self.process.quiet_sent = True
            self.tell(Quiet())

    def kill(self) -> None:
        """Kill the process, if there is one. The fork server reports its death."""
        if self.pid:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    @property
    def has_begun(self) -> bool:
        """Whether its process is ready to run jobs."""
        return bool(self.page.get(PULSE))

    def look_whether_it_works(self) -> bool:
        """Return whether its process has had an answer to a claim: it has jobs, or found none. Once true it stays true
        for this process."""
        page, process = self.page, self.process
        process.worked = (
            process.worked or any(map(page.get, (OUT_OF_WORK, BUFFERED, DONE, UNSETTLED))) or bool(page.running())
        )
        return process.worked


def make_handles(
    children: int, slots: int, clock: Callable[[], float] = time.monotonic
) -> tuple[int, list[ChildHandle]]:
    """Return the file of the shared pages and the handles of a worker: two for each child, so that a successor can
    start before a retiring process has left."""
    number = 2 * children
    file = make_file(number, slots)
    return file, [ChildHandle(n, SharedPage(file, n, slots), clock) for n in range(number)]
