"""Start processes that die early again a few times, with backoff, then give up with the cause.

Without this, a module that calls ``os._exit``, crashes, or closes our descriptors would be imported again for ever,
while the worker looks as if it were starting.
"""

from __future__ import annotations

from jobqueue.errors import BootFailed
from jobqueue.network.backoff import Backoff

TRIES = 4
SOON = 1.0  # seconds: the longest pause after a kill from outside, as the next start may succeed
UNDER_KILLS = 60.0  # seconds for which processes that are killed from outside are started again
AFTER_WORK = 300.0  # seconds, likewise, once one has worked: a deploy may be replacing the modules' files


class Attempts:
    """The attempts to start one kind of process. The supervisor's main loop uses it."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._backoff = Backoff(first=0.4, most=5.0)
        self.not_before = 0.0  # monotonic seconds
        self._since = 0.0  # of the first failure
        self.has_worked = False

    def failed(self, cause: str, began: float, now: float, killed: bool = False) -> None:
        """Count a process that began at ``began`` and died before it was ready. Several that began together count as
        one attempt. ``killed``: by SIGKILL, which comes from outside and may stop. Raises BootFailed when there were
        too many."""
        if began < self.not_before:
            return
        if not self._backoff.failures:
            self._since = now
        self._backoff.failed()
        self.not_before = now + (min(self._backoff.delay, SOON) if killed else self._backoff.delay)
        patience = AFTER_WORK if self.has_worked else UNDER_KILLS if killed else 0.0
        if self._backoff.failures >= TRIES and now >= self._since + patience:
            raise BootFailed(f"{self._what} {cause} ({self._backoff.failures} attempts).")

    def worked(self) -> None:
        """Forget the failures: a process was ready."""
        self._backoff.reset()
        self.not_before = 0.0
        self.has_worked = True
