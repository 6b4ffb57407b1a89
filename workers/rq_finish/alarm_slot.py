"""Limit the user's code that runs in a process's main thread, without a child watchdog."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from collections.abc import Iterator

from jobqueue.workers.running.limits import Interruptible, time_limit_error
from jobqueue.workers.shared.endings import HARD, SUBJECTS


class AlarmSlot(Interruptible):
    """What is limited is interrupted by a timer. What does not react ends the process, by a thread that needs no GIL,
    unless ``exits`` is False: in a process that is the whole worker."""

    def __init__(self, exits: bool = True) -> None:
        super().__init__()
        self._nowhere = open(os.devnull, "w") if exits else None  # noqa: SIM115 - for as long as the process lives

    def enter(self, target: int, limit: float) -> None:
        super().enter(target, limit)
        if limit > 0:
            self._pending = time_limit_error(limit, SUBJECTS[self.what])
            if self._nowhere:
                faulthandler.dump_traceback_later(limit + HARD, exit=True, file=self._nowhere)
            signal.setitimer(signal.ITIMER_REAL, limit)

    def leave(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self._nowhere:
            faulthandler.cancel_dump_traceback_later()
        self._pending = None
        super().leave()

    @contextlib.contextmanager
    def bound(self) -> Iterator[None]:
        """Have SIGALRM while inside, then give it back."""
        before = signal.getsignal(signal.SIGALRM)
        self.bind()
        try:
            yield
        finally:
            signal.signal(signal.SIGALRM, before)
