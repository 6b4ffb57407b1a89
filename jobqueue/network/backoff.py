"""Retry with backoff: how long every loop that repeats something waits before the next attempt."""

from __future__ import annotations

from jobqueue.own_random import own_random


class Backoff:
    """Doubles the pause with each failure, from ``first`` to ``most`` seconds.

    Not locked: use it from one thread, or under its owner's lock. Pauses are shortened by up to half at random, so that
    many clients that failed together do not come back together; ``delay`` is the pause without that.
    """

    def __init__(self, first: float = 0.05, most: float = 2.0, *, free: int = 0) -> None:
        """free: number of failures in a row that cost no pause."""
        self._first = first
        self._most = most
        self._free = free
        self._delay = 0.0
        self.failures = 0  # in a row

    @property
    def delay(self) -> float:
        """Return the seconds before the random part; 0.0 while there was no failure, or not more than ``free``."""
        return self._delay

    def failed(self) -> float:
        """Count a failure; return the seconds to wait before the next attempt."""
        self.failures += 1
        if self.failures > self._free:  # doubled step by step: 2 ** failures would overflow a float
            self._delay = min(self._most, 2 * self._delay or self._first)
        return self.pause()

    def pause(self) -> float:
        """Return the seconds to wait now, without counting anything."""
        return self._delay * own_random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start over after a success."""
        self._delay, self.failures = 0.0, 0
