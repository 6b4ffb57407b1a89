"""Run an executor: send jobs, remember their futures, cancel them, and close everything at the end.

    JobExecutor ──► Dispatcher ──┬── Queue: enqueue             (one per queue name)
                                 ├── WorkerGroups: own workers  (without them: running workers)
                                 └── Collector: the outcomes    (its thread closes everything when it ends)

It outlives its executor until its futures are done, as in the standard library's executors.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from jobqueue.errors import BrokenWorkers
from jobqueue.executor.collector import Collector
from jobqueue.executor.futures import JobFuture
from jobqueue.executor.references import Reference, refer
from jobqueue.executor.worker_group import Shape, WorkerGroups
from jobqueue.producing.batch import Arguments
from jobqueue.producing.catalog import Task
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.protocol.protocol import Protocol
from jobqueue.results.stalled import StallReporter, why_stalled
from jobqueue.store.connection import redis
from jobqueue.store.open import open_store

log = logging.getLogger(__name__)

CANCEL_AT_ONCE = 200  # jobs per script: a long script would block the store


@dataclass(frozen=True)
class Plan:
    """An executor's settings. shape: of its own workers; None uses running workers, which serve ``queue``."""

    queue: str
    url: str | None
    shape: Shape | None
    modules: tuple[str, ...]
    serializer: Any
    plugins: Sequence[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # options of every job


class Dispatcher:
    """The part of an executor that does the work. Any thread may call it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._store = open_store(plan.url)
        self._client = self._store.client(patient=True)
        self._protocol = Protocol(self._client)
        self._groups = WorkerGroups(self._store, plan.shape, plan.modules) if plan.shape else None
        self._queues: dict[str, Queue] = {}
        self._heard = False  # an outcome has come since the last check for workers
        self._silence = StallReporter(
            self._why_stalled, lambda reason: log.warning("Waiting for results, but %s.", reason)
        )
        self._pid = os.getpid()
        self._collector = Collector(
            self._store,
            self._client,
            plan.serializer.loads,
            on_settled=self._settled,
            on_turn=self._groups.check if self._groups else self._look_for_workers,
            on_end=self._close,
        )
        self._collector.thread.start()
        if self._groups:
            atexit.register(self.finish)

    # -- sending ---------------------------------------------------------------------------------------------------

    def submit(self, task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]) -> JobFuture:
        """Enqueue one call. Raises RuntimeError after close, BrokenWorkers, UsageErrors, StoreErrors."""
        with self._collector.open_for_more():
            reference = refer(task)
            with self._queue_for(reference) as queue:
                job = queue.enqueue_call(reference.name, args, dict(kwargs), **self._plan.options)
                (future,) = self._expect(queue, [job.id])
                return future

    def submit_all(self, task: Task, calls: Iterable[Arguments]) -> Iterator[list[JobFuture]]:
        """Enqueue many calls, up to 500 in one round trip, as far as the iterator is advanced."""
        with self._collector.open_for_more():
            reference = refer(task)
            with self._queue_for(reference) as queue:
                for batch in queue.sender(reference.name, **self._plan.options).send_all(calls):
                    yield self._expect(queue, batch.ids)

    @contextmanager
    def _queue_for(self, reference: Reference) -> Iterator[Queue]:
        name = self._groups.queue_for(reference.serves) if self._groups else self._plan.queue
        try:
            if name not in self._queues:
                plan = self._plan
                self._queues[name] = Queue(name, store=self._store, serializer=plan.serializer, plugins=plan.plugins)
            yield self._queues[name]
        finally:
            self._count(name, -1)  # outstanding jobs are counted one by one; this count only kept the workers

    def _expect(self, queue: Queue, ids: Iterable[str]) -> list[JobFuture]:
        futures = [JobFuture(job_id, queue.name, self) for job_id in ids]
        self._count(queue.name, len(futures))
        self._collector.add(futures)
        return futures

    def _count(self, queue: str, jobs: int) -> None:
        if self._groups:
            self._groups.count(queue, jobs)

    def _settled(self, future: JobFuture) -> None:
        self._heard = True
        if self._groups:
            self._groups.settled(future.queue)

    def _look_for_workers(self) -> None:
        """(collector's thread) Warn once when no worker serves the queue of a future."""
        heard, self._heard = self._heard, False
        self._silence.step(heard)

    def _why_stalled(self) -> str:
        pending = self._collector.pending()
        return why_stalled(self._client, pending[0].job_id) if pending else ""

    # -- what futures ask ------------------------------------------------------------------------------------------

    def cancel(self, futures: Sequence[JobFuture]) -> None:
        """Cancel those futures whose jobs still wait in their queue; the others stay as they are, and so do all when
        the store does not answer."""
        for queue in {future.queue for future in futures}:
            mine = [future for future in reversed(futures) if future.queue == queue and future.may_be_canceled]
            for at in range(0, len(mine), CANCEL_AT_ONCE):
                self._cancel_some(queue, mine[at : at + CANCEL_AT_ONCE])

    def _cancel_some(self, queue: str, futures: Sequence[JobFuture]) -> None:
        try:
            answers = self._protocol.cancel(queue, [future.job_id for future in futures])
        except redis.RedisError as e:  # if the script ran all the same, the collector sees that the jobs are canceled
            log.warning("The store did not answer (%s); %d jobs were probably not canceled.", e, len(futures))
            return
        # a future whose job started at this very moment is not touched: the collector sees that the job is canceled
        canceled = [future for future, answer in zip(futures, answers, strict=True) if answer]
        self._collector.forget([future for future in canceled if future.set_canceled()])

    def has_started(self, future: JobFuture) -> bool:
        """Return whether the store says that the job runs."""
        try:
            return self._client.hget(keys.job(future.job_id), "status") == b"started"
        except redis.RedisError:  # unknown while the store does not answer
            return False

    # -- the end ---------------------------------------------------------------------------------------------------

    @property
    def of_this_process(self) -> bool:
        """Return whether this process made it. A forked child has a copy without the thread: it must make its own, and
        leave its parent's alone."""
        return self._pid == os.getpid()

    def close(self, cancel: bool = False) -> None:
        """Accept no more jobs. Own workers stop when all futures are done."""
        if not self.of_this_process:
            return
        self._collector.close()
        if cancel:
            self.cancel(self._collector.pending())

    def join(self) -> None:
        """Wait until all futures are done and everything is closed."""
        if self.of_this_process and threading.current_thread() is not self._collector.thread:
            self._collector.join()

    def abort(self) -> None:
        """Cancel waiting jobs, interrupt what own workers run, and end. Jobs on a queue of other workers go on."""
        if not self.of_this_process:
            return
        self._collector.close()
        if self._groups:
            self.cancel(self._collector.pending())
            self._groups.halt()  # only halted: if their jobs were deleted, the collector would report them as gone
        self._collector.abandon(BrokenWorkers("The executor was interrupted before this job's result was there."))
        self.join()

    def finish(self) -> None:
        """(at exit) Wait for submitted jobs; after Ctrl-C interrupt them."""
        try:
            self.close()
            self.join()
        except KeyboardInterrupt:
            self.abort()
            raise

    def _close(self) -> None:
        if self._groups:
            self._groups.stop()
            atexit.unregister(self.finish)
        for queue in self._queues.values():
            queue.close()
        self._client.close()
        self._store.close()
