"""The clocks of this machine, out of reach of what a job puts in the place of Python's.

A job may replace ``time.monotonic`` and forget to put it back (``freezegun.freeze_time(...).start()``, which does so in
each module that has a name for it): a time limit that is judged by that clock would never be over, for any later job.
What runs in a process beside user code asks these functions, which keep Python's own as values of their parameters.
"""

from __future__ import annotations

import time
from collections.abc import Callable


def monotonic(_clock: Callable[[], float] = time.monotonic) -> float:
    """Return seconds of the clock that never goes back, as ``time.monotonic``."""
    return _clock()


def now(_clock: Callable[[], float] = time.time) -> float:
    """Return seconds since the epoch, as ``time.time``."""
    return _clock()
