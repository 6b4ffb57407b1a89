"""Processes that die before they can do anything: tried again a few times with backoff, then given up with the cause.

A module that calls ``os._exit``, crashes, or closes what it did not open would otherwise be imported again for ever,
while the worker looks as if it were starting.
"""

from __future__ import annotations

from jobqueue.errors import BootFailed
from jobqueue.network.backoff import Backoff

TRIES = 4
SOON = 1.0  # seconds of pause at most after a kill from outside: each start is a chance to get through
UNDER_KILLS = 60.0  # seconds for which processes that somebody kills are tried again


class Attempts:
    """Of one kind of process. Owned by the supervisor's main loop."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._backoff = Backoff(first=0.4, most=5.0)
        self.not_before = 0.0  # monotonic seconds
        self._since = 0.0  # of the first failure

    def failed(self, cause: str, began: float, now: float, killed: bool = False) -> None:
        """One that began at ``began`` died before it was ready. Several that began together count as one attempt.
        ``killed``: by SIGKILL, which comes from outside and may stop coming. Raises BootFailed when that has happened
        too often."""
        if began < self.not_before:
            return
        if not self._backoff.failures:
            self._since = now
        self._backoff.failed()
        self.not_before = now + (min(self._backoff.delay, SOON) if killed else self._backoff.delay)
        if self._backoff.failures >= TRIES and not (killed and now < self._since + UNDER_KILLS):
            raise BootFailed(f"{self._what} {cause} ({self._backoff.failures} attempts).")

    def worked(self) -> None:
        """One of them was ready."""
        self._backoff.reset()
        self.not_before = 0.0
