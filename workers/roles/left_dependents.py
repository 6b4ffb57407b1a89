"""Enqueue the dependents that a process left which recorded the end of a job and died before it had enqueued them.

Whoever records an end sets a mark in the same step, and takes it off when the dependents are enqueued. Every rescuer
looks at these marks. Doing it twice, or at the same time as others, enqueues nothing twice.
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

AT_MOST = 0.5  # seconds in a row: the roles thread has more to do, and the rest has its turn later


class LeftDependents:
    """Used by the rescuer, in the roles thread."""

    def __init__(self, client: redis.Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._client = client
        self._protocol = Protocol(client)
        self._failed: set[str] = set()  # ids of jobs that could not be dealt with; each is logged once

    def enqueue_all(self) -> None:
        """Read the marks, and enqueue what they stand for."""
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
            except Exception as e:  # what stands there of one job must not keep us from the others, nor from the dead
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
