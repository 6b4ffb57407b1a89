"""Let ``asyncio.get_event_loop`` return in each job of a slot what it returned before the first one.

A job that calls ``asyncio.run``, or closes its loop, would otherwise leave the next job of the thread without a loop.
"""

from __future__ import annotations

import asyncio
from typing import Any

_NOTHING = object()


class EventLoopOfThread:
    """Make it in the slot's thread, before its first job."""

    def __init__(self) -> None:
        # Before Python 3.14: the thread's loop, and whether one was ever set. asyncio has no public way to unset them.
        events: Any = asyncio.events
        policy = getattr(events, "_get_event_loop_policy", events.get_event_loop_policy)()
        self._local: Any = getattr(policy, "_local", None)
        self._loop = getattr(self._local, "_loop", _NOTHING)
        self._was_set = getattr(self._local, "_set_called", _NOTHING)

    def put_back(self) -> None:
        """Undo what the last job set."""
        if self._loop is _NOTHING:  # the user has set another event loop policy
            return
        self._local._loop = self._loop
        if self._was_set is not _NOTHING:
            self._local._set_called = self._was_set
