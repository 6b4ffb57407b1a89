"""Keep waits short enough for Python.

A duration that comes from a job, an option or the store may be any number, and Python's waits (``select``,
``Condition.wait``, ``join``, ``queue.get``, socket timeouts) raise OverflowError for a long one. All callers wait in a
loop, so a shorter wait is harmless.
"""

from __future__ import annotations

LONGEST_WAIT = 3600.0  # seconds


def bounded(seconds: float) -> float:
    """Return seconds that any wait accepts: not negative, not too long; 0.0 for NaN."""
    return min(LONGEST_WAIT, seconds) if seconds > 0 else 0.0
