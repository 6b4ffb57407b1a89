"""RQ's maintenance, in its turn: what it does is user code in part, so a short-lived child does it.

    (roles thread) due? ──► (main loop) fork ──► child: workers/rq_finish/maintenance.py ──► gone

RQ's workers do this every ten minutes, and so does every supervisor; RQ's lock on each queue keeps them apart. After an
outage it waits for a minute: who was cut off renews first what it holds.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

from jobqueue.workers.shared.messages import MAINTENANCE

log = logging.getLogger(__name__)

SETTLING = 60.0  # seconds after the start, or an outage


class Maintenance:
    """``step`` runs in the roles thread, everything else in the main loop. ``interval`` 0: never."""

    every = 1.0

    def __init__(
        self, interval: float, burst: bool, post: Callable[[Callable[[], None]], None], fork: Callable[[], bool]
    ) -> None:
        self._interval = interval
        self._post = post
        self._fork = fork
        self._due = 0.0 if burst else time.monotonic() + self._settling()
        self._pid = 0
        self.running = False
        self.awaited = burst and interval > 0  # a burst does it once, as RQ's does, before it leaves

    def step(self, now: float) -> bool:
        """Have it done if it is due; tell whether it was."""
        if not self._interval or now < self._due:
            return False
        self._due = now + self._interval * random.uniform(0.9, 1.1)  # many were started together
        self._post(self._begin)
        return True

    def reconnected(self) -> None:
        self._due = time.monotonic() + self._settling()
        self.awaited = False

    def _settling(self) -> float:
        return min(self._interval, SETTLING) * random.uniform(1.0, 1.5)

    def _begin(self) -> None:
        self.awaited = False
        if not self.running:
            self.running = self._fork()

    def forked(self, name: str, pid: int) -> bool:
        """Was it ours?"""
        if name == MAINTENANCE:
            self._pid = pid
        return name == MAINTENANCE

    def unborn(self, name: str, why: str) -> bool:
        """Its process could not be started. Was it ours?"""
        if name == MAINTENANCE:
            self.all_died()
        return name == MAINTENANCE

    def died(self, pid: int, status: int) -> bool:
        """Was it ours?"""
        if not self._pid or pid != self._pid:
            return False
        if status != 0:
            log.warning("RQ's maintenance failed; it is tried again in %g s", self._interval)
        self.all_died()
        return True

    def all_died(self) -> None:
        """The fork server is gone."""
        self._pid, self.running = 0, False
