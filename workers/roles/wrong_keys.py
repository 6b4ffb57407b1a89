"""Log the wrong keys that scripts found in the store and moved aside. Each worker logs each key once."""

from __future__ import annotations

import logging

import redis

from jobqueue.admin.aside import moved_aside

log = logging.getLogger(__name__)

BEFORE = 10.0  # seconds before the first step that still count, as children may have run before it


class WrongKeys:
    """The role that logs wrong keys; runs in the roles thread."""

    every = 5.0

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._since = 0.0  # by the store's clock

    def step(self, now: float) -> int:
        """Log new keys; return how many."""
        if not self._since:
            self._since = float(self._client.time()[0]) - BEFORE
        found = moved_aside(self._client, self._since)
        for one in found:
            self._since = one.moved + 1
            log.warning("%s", one.describe())
        return len(found)

    def reconnected(self) -> None:
        """Do nothing: logged keys are not logged again."""
