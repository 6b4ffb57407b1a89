"""Enqueue the dependents of an ended job if the process that recorded the end died before it had enqueued them.

A process that records an end sets a mark in the same step, and deletes it when the dependents are enqueued. Every
rescuer looks at these marks. To do this twice, or at the same time as others, enqueues no job twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

import redis

from jobqueue.protocol import keys
from jobqueue.protocol.arguments import text_of
from jobqueue.protocol.protocol import Protocol
from jobqueue.store.error_texts import is_away
from jobqueue.workers.shared.retry import replies_of

log = logging.getLogger(__name__)

AT_MOST = 0.5  # seconds in a row: the roles thread has other duties, and the rest follows in a later step


class LeftDependents:
    """Finds and enqueues such dependents. The rescuer uses it, in the roles thread."""

    def __init__(self, client: redis.Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._client = client
        self._protocol = Protocol(client)
        self._failed: set[str] = set()  # ids of jobs whose dependents could not be enqueued; each is logged once

    def enqueue_all(self) -> None:
        """Read the marks, and enqueue the dependents of their jobs."""
        with self._client.pipeline(transaction=False) as pipe:
            pipe.hkeys(keys.ENDED)
            (ended,) = replies_of(pipe)
        self.enqueue([] if isinstance(ended, Exception) else ended)

    def enqueue(self, ended: Iterable[bytes | str]) -> None:
        """Enqueue the dependents of the jobs with these ids, whose end is recorded."""
        deadline = self._clock() + AT_MOST
        for job_id in map(text_of, ended):
            try:
                self._enqueue_of(job_id, deadline)
            except Exception as e:  # an error with one job must not hold up the other jobs, or the rescues
                if is_away(e):
                    raise
                if job_id not in self._failed:
                    log.error("the dependents of job %s cannot be enqueued: %s", ascii(job_id), e)
                self._failed.add(job_id)

    def _enqueue_of(self, job_id: str, deadline: float) -> None:
        more = True
        while more and self._clock() < deadline:
            more, moved = self._protocol.enqueue_dependents(job_id)
            if moved:
                log.info("job %s had ended, and %d of its dependents were still to be enqueued", job_id, len(moved))
