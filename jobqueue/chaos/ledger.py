"""Read and clean the store for a storm: how many jobs have ended, which trees have owners, what became of each job.

Everything that a run writes is under queues, ids and a record of its own, and ``clean`` deletes all of it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from jobqueue.admin.inspector import Inspector
from jobqueue.chaos import task
from jobqueue.chaos.count import ENDED, ChaosCounts, Fact, runs, tally
from jobqueue.errors import StoreError
from jobqueue.executor import private_queue
from jobqueue.producing.queue import A_DAY, Queue
from jobqueue.protocol import keys
from jobqueue.store.connection import explain, redis
from jobqueue.store.open import Store

T = TypeVar("T")

PAGE = 500
STORE_LIMIT = 20.0  # seconds to wait for a store that was killed


class Ledger:
    """The jobs of one mode, over a connection of its own. Its commands are safe to repeat, and are repeated after an
    outage."""

    def __init__(self, store: Store, queues: int) -> None:
        run = secrets.token_hex(4)
        self.queues = [f"chaos-{run}-{n + 1}" for n in range(queues)]
        self.record = keys.chaos(run)
        self.ids: list[str] = []
        self.workers: dict[int, str] = {}  # the supervisor's pid → the worker's name
        self._store = store
        self._client = store.client()
        self._pipe = private_queue.pipe_to(self._client, self.retry_request)

    def retry_request(self, do: Callable[[], T]) -> T:
        """Call ``do``, again while the store is being restarted. Raises StoreUnreachable or StoreRefused."""
        deadline = time.monotonic() + STORE_LIMIT
        while True:
            try:
                return do()
            except (redis.ConnectionError, redis.TimeoutError) as e:
                if time.monotonic() > deadline:
                    raise explain(e, self._store.address) from e
                time.sleep(0.05)
                with suppress(StoreError):
                    self._store.ensure()

    # -- before and during the storm -------------------------------------------------------------------------------

    def submit(self, durations: Sequence[float]) -> None:
        """Enqueue a job per duration, in turn into each queue."""
        for n, name in enumerate(self.queues):
            mine = durations[n :: len(self.queues)]
            with Queue(name, store=self._store) as queue:
                options = {"result_ttl": A_DAY, "failure_ttl": A_DAY}
                for start in range(0, len(mine), PAGE):
                    some = mine[start : start + PAGE]
                    batch = queue.enqueue_many(f"{task.__name__}:work", [self.record] * len(some), some, **options)
                    self.ids += batch.ids

    def ended(self) -> int:
        """Return how many jobs have an outcome, by RQ's registries."""
        return sum(self._pipe(("zcard", keys.registry(kind, name)) for name in self.queues for kind in ENDED))

    def note_workers(self) -> None:
        """Remember the names of the trees that have registered since the last call."""
        for name in private_queue.workers_of(self._pipe, self.queues[0]):
            if name not in self.workers.values():
                pid: Any = self.retry_request(lambda name=name: self._client.hget(keys.worker(name), "pid"))  # type: ignore[misc]
                if pid:
                    self.workers[int(pid)] = name

    def owners(self) -> set[str]:
        """Return the names of the trees that have owners in the store."""
        members: Any = self.retry_request(lambda: self._client.smembers(keys.OWNERS))
        return {member.decode().rpartition(":")[0] for member in members}

    # -- afterwards ------------------------------------------------------------------------------------------------

    def tally(self) -> ChaosCounts:
        """Count what became of the jobs. Call it only when no worker runs any more."""
        statuses = self._pipe(("hget", keys.job(i), "status") for i in self.ids)
        outcomes = self._pipe(("xlen", keys.results(i)) for i in self.ids)
        record: Any = self.retry_request(lambda: self._client.hgetall(self.record))
        begun, done = runs(record)
        waiting = self._still_waiting()
        facts = [
            Fact(status.decode() if status else None, n, begun[i], done[i], i in waiting)
            for i, status, n in zip(self.ids, statuses, outcomes, strict=True)
        ]
        return tally(facts, self._errors())

    def _still_waiting(self) -> set[str]:
        """Return the ids in all lists and sorted sets from which a worker would take them again."""
        kinds = [kind for kind in private_queue.REGISTRIES if kind not in ENDED]
        pages = [page for name in self.queues for page in private_queue.listed(self._pipe, name, kinds)]
        owners: Any = self.retry_request(lambda: self._client.smembers(keys.OWNERS))
        for owner in owners:
            pages += private_queue.members(self._pipe, "zrange", keys.own(owner.decode()))
        return {job_id for page in pages for job_id in page}

    def _errors(self) -> Iterator[str]:
        inspector = Inspector(self._client)
        for name in self.queues:
            failed = self.retry_request(lambda name=name: inspector.failed(name, len(self.ids)))  # type: ignore[misc]
            yield from (job.error for job in failed)

    def clean(self) -> None:
        """Delete all that this run wrote, also what is left of workers that nobody has rescued."""
        self.note_workers()
        private_queue.erase(self._pipe, self.queues, ids=self.ids, workers=self.workers.values())
        private_queue.delete(self._pipe, [self.record])

    def close(self) -> None:
        self._client.close()
