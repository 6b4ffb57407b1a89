"""Names what stood in the store by mistake, and what a script did about it. Each worker says it once.

Runs in the roles thread.
"""

from __future__ import annotations

import logging

import redis

from jobqueue.admin.aside import moved_aside

log = logging.getLogger(__name__)

BEFORE = 10.0  # seconds before the first look: the children may have been faster


class WrongKeys:
    """A role of the supervisor."""

    every = 5.0

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._since = 0.0  # by the store's clock

    def step(self, now: float) -> int:
        """Say what is new; return how much that was."""
        if not self._since:
            self._since = float(self._client.time()[0]) - BEFORE
        found = moved_aside(self._client, self._since)
        for one in found:
            self._since = one.moved + 1
            log.warning("%s", one.describe())
        return len(found)

    def reconnected(self) -> None:
        """What was said stays said."""
