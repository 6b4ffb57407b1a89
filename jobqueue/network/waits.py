"""Waits of bounded length: what is computed from a job, an option or the store may be any number, and Python's waits
(``select``, ``Condition.wait``, ``join``, ``queue.get``, socket timeouts) raise OverflowError for a long one. Who
waits here looks again when the time is over: all of them stand in a loop."""

from __future__ import annotations

LONGEST_WAIT = 3600.0  # seconds


def bounded(seconds: float) -> float:
    """Return seconds that any wait can take: not negative, not too long; 0.0 for no number at all."""
    return min(LONGEST_WAIT, seconds) if seconds > 0 else 0.0
