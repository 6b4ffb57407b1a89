"""A private queue of one worker of a comparison: submit jobs, wait for their end, delete everything.

The number of ended jobs is read from RQ's registries by two cheap commands: reading every result while the jobs run
would take the very cores whose speed is measured.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any

from jobqueue.executor import private_queue
from jobqueue.producing.queue import A_DAY, Queue
from jobqueue.protocol import keys
from jobqueue.store.open import Store

EVERY = 0.004  # seconds between two polls
LIMIT = 3600  # seconds; the time limit of the jobs, far beyond the deadline of a run
NO_KWARGS: Mapping[str, Any] = {}
OPTIONS = {"result_ttl": A_DAY, "failure_ttl": A_DAY}


class MeasuredQueue:
    """The producer's side of a private queue: its jobs, their states, times and results."""

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self.queue = Queue(name, store=store, default_timeout=LIMIT)
        self._pipe = private_queue.pipe_to(self.queue.connection)
        self.ids: list[str] = []
        self._workers: set[str] = set()

    def note_workers(self) -> None:
        """Remember the names of the workers that serve the queue. Call it before they stop, so that ``clean`` finds
        what they leave."""
        self._workers |= private_queue.workers_of(self._pipe, self.name)

    def submit(
        self, task: str, argses: Iterable[Sequence[Any]], kwargs: Mapping[str, Any] = NO_KWARGS, **options: Any
    ) -> list[str]:
        """Enqueue a job for each tuple of arguments and return their ids."""
        sender = self.queue.sender(task, **{**OPTIONS, **options})
        ids = [job_id for batch in sender.send_all((args, kwargs) for args in argses) for job_id in batch.ids]
        self.ids += ids
        return ids

    def ended(self) -> int:
        """Return how many jobs of this queue have finished or failed."""
        return sum(self._pipe(("zcard", keys.registry(kind, self.name)) for kind in ("finished", "failed")))

    def wait(
        self, jobs: int, deadline: float, alive: Callable[[], None], tell: Callable[[int], None] | None = None
    ) -> bool:
        """Wait until so many jobs have ended; return False at the deadline (monotonic).

        alive: called now and then, raises when waiting is in vain; tell: called with the number of jobs that have
        ended.
        """
        for n in itertools.count():
            ended = self.ended()
            if tell:
                tell(ended)
            if ended >= jobs:
                return True
            if time.monotonic() > deadline:
                return False
            if n % 25 == 0:
                alive()
            time.sleep(EVERY)
        raise AssertionError

    def statuses(self, ids: Sequence[str]) -> list[str]:
        found = self._pipe(("hget", keys.job(i), "status") for i in ids)
        return [status.decode() if status else "gone" for status in found]

    def durations(self, ids: Sequence[str]) -> list[float]:
        """Return the seconds from start to end of the jobs that succeeded, as their workers recorded them."""
        found = self._pipe(("hmget", keys.job(i), "status", "started_at", "ended_at") for i in ids)
        return [_time(ended) - _time(started) for status, started, ended in found if status == b"finished"]

    def started(self, job_id: str) -> float:
        """Return when the job started, as its worker recorded it, in seconds since the epoch."""
        (started,) = self._pipe([("hget", keys.job(job_id), "started_at")])
        return _time(started)

    def results(self, ids: Sequence[str], timeout: float = 5.0) -> Iterator[Any]:
        """Iterate over the values of jobs that have ended. Raises what Job.result() raises."""
        return (outcome.get() for outcome in self.queue.waiter().outcomes(ids, timeout))

    def why(self, job_id: str) -> str:
        """Return the error text of a job that failed."""
        (outcome,) = self.queue.waiter().outcomes([job_id], 5.0)
        text = str(outcome.error or "")
        return text.removeprefix(f"Job {job_id} failed: ")

    def forget_jobs(self) -> None:
        """Delete the jobs and their registry entries, so that the queue is as new."""
        private_queue.delete_jobs(self._pipe, self.ids)
        private_queue.delete(self._pipe, (keys.registry(kind, self.name) for kind in ("finished", "failed")))
        self.ids = []

    def clean(self) -> None:
        """Delete everything of the queue, also what an interrupted run left. No worker may serve the queue any more."""
        self.note_workers()
        private_queue.erase(self._pipe, [self.name], ids=self.ids, workers=self._workers)
        self.ids = []

    def close(self) -> None:
        self.queue.close()


def _time(text: bytes) -> float:
    return datetime.fromisoformat(text.decode()).timestamp()


@contextmanager
def measured_queue(store: Store, name: str) -> Iterator[MeasuredQueue]:
    """Make a MeasuredQueue; delete all of it at the end."""
    with closing(MeasuredQueue(store, name)) as made:
        try:
            yield made
        finally:
            try:
                made.clean()
            except KeyboardInterrupt:  # only the first signal raises it, and nothing may stay in the user's store
                made.clean()
                raise
