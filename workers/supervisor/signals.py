"""Signals as data: a handler only puts, the loop acts, the old handlers come back."""

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
    """Collects signals; ``fd`` becomes readable when there are any."""

    def __init__(self) -> None:
        self.fd, self._write = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write, False)
        self._got: list[int] = []

    @contextmanager
    def caught(self, numbers: Iterable[int]) -> Iterator[None]:
        """While inside, these signals are put here (main thread only); one that came before and was lost, see ASKED,
        is put here too. Who ignores SIGHUP goes on to do so (nohup)."""
        ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
        old = {number: signal.signal(number, self._put) for number in {*numbers} - ignored}
        old_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._got += {number for handler in old.values() if (number := getattr(handler, ASKED, 0))}
        if self._got:  # also what came before the line above
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
        """The signals that came since the last call, in order."""
        try:
            os.read(self.fd, 4096)
        except BlockingIOError:
            pass
        got, self._got = self._got, []
        return got


def suspend(children: Iterable[int], lease: float) -> None:
    """Ctrl-Z: stop with all children and what their jobs run, until somebody lets this process go on."""
    log.warning("suspended, with all that runs; after %g s other workers take this one for dead", lease)
    groups = list(children)
    _send(groups, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)
    _send(groups, signal.SIGCONT)
    log.warning("going on")


def _send(groups: Iterable[int], number: int) -> None:
    for pid in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)
