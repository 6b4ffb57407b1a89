"""Delayed jobs and stored schedules: moves and enqueues what is due.

Runs in the registrar's thread. Any number of supervisors may do this: a move is one atomic step, and so is an
occurrence with the next time of its schedule. So there is no leader and no lock; where an RQ scheduler holds its lock
on a queue, the queue's delayed jobs are left to it.
"""

from __future__ import annotations

import logging

import redis

from jobqueue.protocol import Protocol
from jobqueue.timetable import Timetable
from jobqueue.trouble import is_away
from workers.settings import Settings
from workers.ticker import LONGEST, Ticker

log = logging.getLogger(__name__)

AT_ONCE = 500


class Scheduler:
    """A role of the supervisor."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self.every = LONGEST
        self._queues = settings.queues
        self._protocol = Protocol(client)
        self._ticker = Ticker(Timetable(client))
        self._move_at = 0.0
        self._refused: set[str] = set()  # queues of which that was said

    def step(self, now: float) -> int:
        """Enqueue what is due; return how many delayed jobs that were."""
        moved = 0
        if now >= self._move_at:  # RQ's times of delayed jobs are whole seconds: asking more often finds nothing
            counts = [self._due(name) for name in self._queues]
            moved = sum(counts)
            self._move_at = now if max(counts) == AT_ONCE else now + LONGEST
        self.every = min(self._ticker.step(), self._move_at - now)
        return moved

    def _due(self, queue: str) -> int:
        """What stands in the place of one queue's delayed jobs keeps nobody from the other queues, nor from the
        schedules."""
        try:
            moved = max(0, self._protocol.due(queue, AT_ONCE))
        except redis.ResponseError as e:
            if is_away(e):
                raise
            if queue not in self._refused:
                log.error("delayed jobs of queue %s cannot be enqueued: %s", queue, e)
            self._refused.add(queue)
            return 0
        self._refused.discard(queue)
        return moved

    def reconnected(self) -> None:
        """Nothing is remembered."""
        self._move_at = 0.0
