"""Have RQ's maintenance done every ten minutes, in a short-lived process, because it calls user code.

    (roles thread) is it due? ──► (main loop) fork ──► process: workers/rq_finish/maintenance.py ──► ends

RQ's workers do the same; RQ's lock on each queue keeps them all apart. After an outage it waits for a minute, so that
workers which were cut off renew first what they hold.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

from jobqueue.workers.shared.messages import MAINTENANCE

log = logging.getLogger(__name__)

SETTLING = 60.0  # seconds at most to wait after the start, or after an outage


class Maintenance:
    """A role, and a Requester of the fork server's: ``step`` runs in the roles thread, everything else in the main
    loop. ``interval`` 0: never. ``fork`` starts the process, False: it cannot be started now."""

    every = 1.0

    def __init__(
        self,
        interval: float,
        burst: bool,
        post: Callable[[Callable[[], None]], None],
        fork: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = interval
        self._post = post
        self._fork = fork
        self._clock = clock
        self._due = 0.0 if burst else self._clock() + self._settling()
        self._pid = 0  # of its process; 0: there is none, or it is not known yet
        self.running = False  # its process was asked for, and has not ended
        self.awaited = burst and interval > 0  # a burst does it once, as RQ's does, before it leaves

    def step(self, now: float) -> bool:
        """Have it done if it is due; return whether it was."""
        if not self._interval or now < self._due:
            return False
        self._due = now + self._interval * random.uniform(0.9, 1.1)  # many were started together
        self._post(self._begin)
        return True

    def reconnected(self) -> None:
        """Wait for a while, and let a burst end without it."""
        self._due = self._clock() + self._settling()
        self.awaited = False

    def _settling(self) -> float:
        return min(self._interval, SETTLING) * random.uniform(1.0, 1.5)

    def _begin(self) -> None:
        self.awaited = False
        if not self.running:
            self.running = self._fork()

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
        if status != 0:
            log.warning("RQ's maintenance failed; it is tried again in %g s", self._interval)
        self.all_died()
        return True

    def all_died(self) -> None:
        """Note that the fork server is gone, and with it the process."""
        self._pid, self.running = 0, False
