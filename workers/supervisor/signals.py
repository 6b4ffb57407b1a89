"""Collect signals for the main loop: a handler only notes its signal, and the loop acts; the old handlers are
restored."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from jobqueue.errors import ASKED

log = logging.getLogger(__name__)


class Signals:
    """The signals that have come; ``fd`` becomes readable when there are any."""

    def __init__(self) -> None:
        self.fd, self._write = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write, False)
        self._got: list[int] = []

    @contextmanager
    def caught(self, numbers: Iterable[int]) -> Iterator[None]:
        """Note these signals within the block, and one that came before there were handlers (see ASKED). Main thread
        only. A process that ignores SIGHUP (nohup) continues to do so."""
        ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
        old = {number: signal.signal(number, self._put) for number in {*numbers} - ignored}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, old)  # whoever started this process may have blocked them
        old_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._got += {number for handler in old.values() if (number := getattr(handler, ASKED, 0))}
        if self._got:  # readable also after a signal that came before set_wakeup_fd
            os.write(self._write, b"\0")
        try:
            yield
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, handler in old.items():
                signal.signal(number, handler)
            os.close(self.fd)
            os.close(self._write)

    def _put(self, number: int, _frame: FrameType | None) -> None:
        self._got.append(number)

    def take(self) -> list[int]:
        """Return the signals that came since the last call, in order."""
        try:
            os.read(self.fd, 4096)
        except BlockingIOError:
            pass
        got, self._got = self._got, []
        return got


def suspend(children: Iterable[int], lease: float) -> None:
    """Stop (Ctrl-Z) together with all children and the processes of their jobs, until this process is continued."""
    log.warning("suspended, and all running jobs too; after %g s other workers count this one as dead", lease)
    groups = list(children)
    _send(groups, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)
    _send(groups, signal.SIGCONT)
    log.warning("continued")


def _send(groups: Iterable[int], number: int) -> None:
    for pid in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)
