"""Enqueue delayed jobs and the occurrences of stored schedules when they are due.

Any number of supervisors may do this: enqueueing a delayed job is one atomic step, and so is enqueueing an occurrence
together with writing the next time of its schedule. So there is no leader and no lock; where an RQ scheduler holds its
lock on a queue, the queue's delayed jobs are left to it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import redis

from jobqueue.protocol.protocol import Protocol
from jobqueue.schedules.timetable import Timetable
from jobqueue.store.error_texts import is_away
from jobqueue.workers.roles.schedule_ticker import LONGEST, ScheduleTicker
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)

AT_ONCE = 500  # delayed jobs that one request enqueues, per queue
RETRY = 10.0  # seconds between two looks at queues whose delayed jobs could not be enqueued


class Scheduler:
    """The scheduler role; runs in the roles thread."""

    def __init__(self, settings: Settings, client: redis.Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self.every = LONGEST
        self._queues = settings.queues
        self._protocol = Protocol(client)
        self._ticker = ScheduleTicker(Timetable(client), clock)
        self._move_at = 0.0
        self._retry_at = 0.0
        self._refused: set[str] = set()  # queues whose delayed jobs could not be enqueued; this was logged

    def step(self, now: float) -> int:
        """Enqueue due jobs and occurrences; return how many delayed jobs were among them."""
        moved = 0
        if now >= self._move_at:  # RQ's times of delayed jobs are whole seconds: asking more often finds nothing
            moved = self._move()
            self._try_again(now)
            self._move_at = now if moved >= AT_ONCE else now + LONGEST
        self.every = min(self._ticker.step(), self._move_at - now)
        return moved

    def _move(self) -> int:
        """Enqueue the due delayed jobs; return how many. One request does it for all queues, as a store may be far
        away. If that fails because of one queue's key, each queue gets its own request."""
        try:
            return self._due([queue for queue in self._queues if queue not in self._refused])
        except redis.ResponseError as e:
            if is_away(e):
                raise
        return sum(map(self._due_alone, self._queues))

    def _try_again(self, now: float) -> None:
        """Try again the queues whose delayed jobs could not be enqueued: their keys may have been repaired."""
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
        """Look at the delayed jobs in the next step."""
        self._move_at = 0.0
