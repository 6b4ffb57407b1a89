"""Limit the user's code in a process whose only thread of interest is the main one, without a child watchdog."""

from __future__ import annotations

import faulthandler
import os
import signal

from jobqueue.workers.running.limits import Interruptible, time_limit_error
from jobqueue.workers.shared.endings import HARD, SUBJECTS


class AlarmSlot(Interruptible):
    """Nobody looks after a finish process: what is limited is interrupted by a timer, and what does not react ends the
    process, by a thread that needs no GIL."""

    def __init__(self) -> None:
        super().__init__()
        self._nowhere = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives

    def enter(self, target: int, limit: float) -> None:
        super().enter(target, limit)
        if limit > 0:
            self._pending = time_limit_error(limit, SUBJECTS[self.what])
            faulthandler.dump_traceback_later(limit + HARD, exit=True, file=self._nowhere)
            signal.setitimer(signal.ITIMER_REAL, limit)

    def leave(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        self._pending = None
        super().leave()
