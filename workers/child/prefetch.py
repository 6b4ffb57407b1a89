"""Decide how many jobs a child claims ahead: enough that no slot waits for Redis, too few to keep work from others."""

from __future__ import annotations

AHEAD = 0.020  # seconds of work that may wait in the buffer, per slot
LONG = 0.030  # seconds; no other job waits in the buffer behind one that takes longer
SHORT = 0.002  # where a slot ends a job less often than this, an outcome waits for no other
MOST_PER_CYCLE = 128
MOST_FINISHED = 192  # outcomes that wait for the next claim to go along with; the journal has room for about 600
MOST_PER_SLOT = 256


class Prefetch:
    """Learn from how long jobs take and how many the queues have. The consumer's lock guards it."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._mean = 0.0  # seconds per job, exponentially weighted
        self._last = 0.0
        self._reach = 1  # jobs per slot to have ahead; doubles while the queues give
        self.most_ahead = MOST_PER_SLOT  # per slot; 0: claim one at a time, when there is nothing else to run

    def ended(self, seconds: float) -> None:
        """Note how many seconds a job took."""
        self._last = seconds
        self._mean += (seconds - self._mean) * (0.2 if self._mean else 1.0)
        if seconds > LONG:
            self._reach = 1

    def gave_all(self) -> None:
        """Note that the queues had as many jobs as were requested."""
        self._reach = min(2 * self._reach, MOST_PER_SLOT)

    def jammed(self) -> None:
        """Note that jobs had to be given back because those before them took long."""
        self._reach = 1
        self._mean = max(self._mean, LONG)

    @property
    def settles_at_once(self) -> bool:
        """Whether jobs are so long that an outcome is sent at once, and does not wait for that of another slot."""
        return self._last > min(LONG, SHORT * self._slots)

    @property
    def ahead(self) -> int:
        """Return how many jobs may wait in the buffer: about 20 ms of work per slot, none when jobs are long."""
        most = min(self._slots * min(self._reach, self.most_ahead), 2 * MOST_PER_CYCLE)
        if self._mean > LONG:
            return 0
        return min(most, int(self._slots * AHEAD / self._mean)) if self._mean > 0 else most
