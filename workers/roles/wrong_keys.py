"""Log what stood in the store by mistake and was moved aside by a script. Each worker logs it once."""

from __future__ import annotations

import logging

import redis

from jobqueue.admin.aside import moved_aside

log = logging.getLogger(__name__)

BEFORE = 10.0  # seconds before the first step from which on it counts: children may have run before


class WrongKeys:
    """A role; runs in the roles thread."""

    every = 5.0

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._since = 0.0  # by the store's clock

    def step(self, now: float) -> int:
        """Log what is new; return how much that was."""
        if not self._since:
            self._since = float(self._client.time()[0]) - BEFORE
        found = moved_aside(self._client, self._since)
        for one in found:
            self._since = one.moved + 1
            log.warning("%s", one.describe())
        return len(found)

    def reconnected(self) -> None:
        """Do nothing: what was logged is not logged again."""
