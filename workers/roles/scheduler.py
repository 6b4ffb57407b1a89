"""Delayed jobs and stored schedules: moves and enqueues what is due.

Runs in the roles thread. Any number of supervisors may do this: a move is one atomic step, and so is an
occurrence with the next time of its schedule. So there is no leader and no lock; where an RQ scheduler holds its lock
on a queue, the queue's delayed jobs are left to it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import redis

from jobqueue.protocol.protocol import Protocol
from jobqueue.schedules.timetable import Timetable
from jobqueue.store.error_texts import is_away
from jobqueue.workers.roles.schedule_ticker import LONGEST, ScheduleTicker
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)

AT_ONCE = 500
RETRY = 10.0  # seconds between two looks at queues whose delayed jobs could not be enqueued


class Scheduler:
    """A role of the supervisor."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self.every = LONGEST
        self._queues = settings.queues
        self._protocol = Protocol(client)
        self._ticker = ScheduleTicker(Timetable(client))
        self._move_at = 0.0
        self._retry_at = 0.0
        self._refused: set[str] = set()  # queues of which that was said

    def step(self, now: float) -> int:
        """Enqueue what is due; return how many delayed jobs that were."""
        moved = 0
        if now >= self._move_at:  # RQ's times of delayed jobs are whole seconds: asking more often finds nothing
            moved = self._move()
            self._try_again(now)
            self._move_at = now if moved >= AT_ONCE else now + LONGEST
        self.every = min(self._ticker.step(), self._move_at - now)
        return moved

    def _move(self) -> int:
        """All queues in one request: a store may be far away. What stands in the place of one queue's delayed jobs
        keeps nobody from the other queues, nor from the schedules."""
        try:
            return self._due([queue for queue in self._queues if queue not in self._refused])
        except redis.ResponseError as e:
            if is_away(e):
                raise
        return sum(map(self._due_alone, self._queues))

    def _try_again(self, now: float) -> None:
        """Somebody may have mended what was in the way."""
        if self._refused and now >= self._retry_at:
            self._retry_at = now + RETRY
            for queue in [*self._refused]:
                self._due_alone(queue)

    def _due(self, queues: Sequence[str]) -> int:
        return sum(max(0, moved) for moved in self._protocol.due(queues, AT_ONCE)) if queues else 0

    def _due_alone(self, queue: str) -> int:
        try:
            moved = self._due([queue])
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
