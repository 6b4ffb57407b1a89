"""Have RQ's maintenance done every ten minutes, in a short-lived process, because it calls user code.

    (roles thread) is it due? ──► (main loop) fork ──► process: workers/rq_finish/maintenance.py ──► ends
                                                                       └─► died, or took too long: another, plain

A callback may end or keep the process that calls it, and would do so in each round, before what stands behind its job
is maintained. So a round that died is done again at once, without any code of the user's (plain).

RQ's workers do the same; RQ's lock on each queue keeps them all apart. After an outage it waits for a minute, so that
workers which were cut off renew first what they hold.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable

from jobqueue.own_random import own_random
from jobqueue.workers.shared.finish_watch import STOPPED_FOR
from jobqueue.workers.shared.messages import MAINTENANCE
from jobqueue.workers.shared.process_state import is_stopped

log = logging.getLogger(__name__)

SETTLING = 60.0  # seconds at most to wait after the start, or after an outage
LONGEST = 600.0  # seconds that one round may take: RQ's interval


class Maintenance:
    """A role, and a Requester of the fork server's: ``step`` runs in the roles thread, everything else in the main
    loop. ``interval`` 0: never. ``fork`` starts the process, told whether it
    is plain; False: it cannot be started now."""

    every = 1.0

    def __init__(
        self,
        interval: float,
        burst: bool,
        post: Callable[[Callable[[], None]], None],
        fork: Callable[[bool], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = interval
        self._post = post
        self._fork = fork
        self._clock = clock
        self._due = 0.0 if burst else self._clock() + self._settling()
        self._pid = 0  # of its process; 0: there is none, or it is not known yet
        self._plain = False  # the process runs no code of the user's
        self._ends_by = 0.0  # monotonic seconds
        self._stopped = 0.0  # since when its process is stopped (monotonic seconds); 0: it is not
        self.running = False  # a process was requested, and has not ended
        self.awaited = burst and interval > 0  # a burst has one round before it ends, as RQ's has

    def step(self, now: float) -> bool:
        """Start a round if one is due; return whether it was. Have a process killed that takes too long."""
        if self.running and (now > self._ends_by or self._is_stopped(now)):
            self._post(self._kill)
        if not self._interval or now < self._due:
            return False
        self._due = now + self._interval * own_random.uniform(0.9, 1.1)  # many workers were started together
        self._post(self._begin)
        return True

    def _is_stopped(self, now: float) -> bool:
        """Return whether the process has been stopped (SIGSTOP) for some seconds, by a callback or from outside."""
        stopped = self._pid and is_stopped(self._pid)
        self._stopped = (self._stopped or now) if stopped else 0.0
        return bool(stopped) and now - self._stopped >= STOPPED_FOR

    def reconnected(self) -> None:
        """Delay the next round, and let a burst end without it."""
        self._due = self._clock() + self._settling()
        self.awaited = False

    def _settling(self) -> float:
        return min(self._interval, SETTLING) * own_random.uniform(1.0, 1.5)

    def _begin(self) -> None:
        self.awaited = False
        if not self.running:
            self._start(plain=False)

    def _start(self, plain: bool) -> None:
        self._plain, self._ends_by = plain, self._clock() + LONGEST
        self.running = self._fork(plain)

    def _kill(self) -> None:
        if self._pid:  # the fork server has not collected it: it would have reported that
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def forked(self, name: str, pid: int) -> bool:
        """Note the pid of a process that runs, if it is ours."""
        if name == MAINTENANCE:
            self._pid = pid
        return name == MAINTENANCE

    def unborn(self, name: str, why: str) -> bool:
        """Note that a process could not be started, if it was ours: the next turn comes when it is due."""
        if name == MAINTENANCE:
            self.all_died()
        return name == MAINTENANCE

    def died(self, pid: int, status: int) -> bool:
        """Note that a process has ended, if it was ours."""
        if not self._pid or pid != self._pid:
            return False
        failed_plain = status != 0 and self._plain
        self.all_died()
        if failed_plain:
            log.warning("RQ's maintenance failed; it is tried again in %g s", self._interval)
        elif status != 0:
            log.warning("RQ's maintenance failed; it is done again without callbacks and exception handlers")
            self._start(plain=True)
        return True

    def all_died(self) -> None:
        """Note that the fork server is gone, and with it the process."""
        self._pid, self.running = 0, False
