"""Delayed jobs: moves what is due from RQ's scheduled registries into the queues, once a second."""

from __future__ import annotations

import redis

from jobqueue.protocol import Protocol
from workers.settings import Settings


class Scheduler:
    """Runs in the registrar's thread. Any number of supervisors may do this: the move is one atomic step, so there is
    no leader and no lock; where an RQ scheduler holds its lock on a queue, it is left to it."""

    every = 1.0

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self._queues = settings.queues
        self._protocol = Protocol(client)

    def step(self, _now: float) -> int:
        """Enqueue what is due; return how many jobs that were."""
        return sum(max(0, self._protocol.due(name)) for name in self._queues)

    def reconnected(self) -> None:
        """Nothing is remembered."""
