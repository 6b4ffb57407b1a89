"""Watch a process that this one has forked: what the supervisor needs of ``subprocess.Popen``, for a pid."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

POLL = 0.005  # seconds


@contextlib.contextmanager
def blocked(*numbers: signal.Signals) -> Iterator[None]:
    """Block these signals within the block; a process that is started there begins with them blocked."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


class ForkedProcess:
    """A forked child of this process, and our end of its control socket. Used by one thread."""

    def __init__(self, pid: int, control: socket.socket) -> None:
        self.pid = pid
        self.control = control
        self.returncode: int | None = None  # as in Popen: minus the signal's number if one ended it

    def poll(self) -> int | None:
        """Return the exit code; None: it runs."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # SIGCHLD is ignored here, so the kernel has collected it; as in Popen
                self.returncode = 0
                return 0
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, for about ``timeout`` seconds at most. Raises TimeoutExpired."""
        looks = itertools.count() if timeout is None else range(int(timeout / POLL) + 1)
        for _ in looks:
            if (code := self.poll()) is not None:
                return code
            time.sleep(POLL)
        raise subprocess.TimeoutExpired("the fork server", timeout or 0.0)

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended: another process may have its pid by now."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def end(self) -> None:
        """Kill it if it runs, and collect it. May be called twice."""
        self.control.close()
        self.send_signal(signal.SIGKILL)
        self.wait()
