"""Let the child watchdog sleep in ``select`` until a duty is due, the supervisor sends a message, or a slot starts a
job."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import NamedTuple

from jobqueue.clock import monotonic
from jobqueue.workers.shared.polling import readable

BRIEF = 0.01  # seconds; a shorter sleep does not have to be ended early
SHORT = 0.05  # seconds; of the shorter sleeps one is ended early in this time: a sample of the jobs is enough


class Woken(NamedTuple):
    """Why a sleep ended."""

    by_socket: bool  # the socket that was given has something to read, or is closed
    late: float  # seconds by which the sleep ended late; 0.0: it ended early


class WakePipe:
    """A pipe that is read by the thread that sleeps, and written to by those that wake it."""

    def __init__(self) -> None:
        self._ends = os.pipe()
        for end in self._ends:
            os.set_blocking(end, False)
        self._is_awake = True
        self._next = 0.0  # from when on a short sleep may be ended early (monotonic seconds)

    def stir(self) -> None:
        """Wake the watchdog. A slot calls this when it starts a job or a callback, as there is something to look after
        from then on."""
        if not self._is_awake:
            self._is_awake = True
            try:
                os.write(self._ends[1], b"!")
            except OSError:  # it is full already; or a job has closed it, which ends the thread that reads it
                pass

    def sleep(self, due_in: Callable[[], float | None], socket_fd: int) -> Woken:
        """Sleep until a thread calls ``stir``, this socket has something to read, or for as many seconds as ``due_in``
        returns; None: without an end. ``due_in`` is called a second time as soon as ``stir`` would wake us: a job that
        started just before did not."""
        timeout, began = due_in(), monotonic()
        if timeout is None or timeout > SHORT or (timeout > BRIEF and began >= self._next):
            self._is_awake, self._next = False, began + SHORT
            timeout, began = due_in(), monotonic()
        ready = readable([socket_fd, self._ends[0]], timeout)
        self._is_awake = True
        if self._ends[0] in ready:
            os.read(self._ends[0], 4096)
        late = monotonic() - began - timeout if timeout is not None and not ready else 0.0
        return Woken(socket_fd in ready, late)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            for end in self._ends:
                os.close(end)
