"""What ``asyncio.get_event_loop`` gives in the thread of a slot: for each job what it gave before the first.

A job that calls ``asyncio.run``, or closes the loop that it got, would otherwise leave the next one without a loop.
"""

from __future__ import annotations

import asyncio
from typing import Any

_NOTHING = object()


class EventLoopOfThread:
    """Made in the slot's thread, before its first job."""

    def __init__(self) -> None:
        # Before Python 3.14 the thread's loop and whether one was ever set; asyncio has no other way to unset them.
        events: Any = asyncio.events
        policy = getattr(events, "_get_event_loop_policy", events.get_event_loop_policy)()
        self._local: Any = getattr(policy, "_local", None)
        self._loop = getattr(self._local, "_loop", _NOTHING)
        self._was_set = getattr(self._local, "_set_called", _NOTHING)

    def put_back(self) -> None:
        """Forget what the last job set."""
        if self._loop is _NOTHING:  # a policy of the user's own
            return
        self._local._loop = self._loop
        if self._was_set is not _NOTHING:
            self._local._set_called = self._was_set
