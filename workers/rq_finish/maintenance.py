"""RQ's maintenance by RQ's own code, in the main thread of a child: failure callbacks and handlers run in it.

What a dead RQ worker ran is failed or retried, what stands ready goes into its queue, expired entries leave their
registries, and what RQ's workers lost between two lists is failed. Jobs that one of our processes holds, be it dead or
alive, are not RQ's to judge: a rescue knows what ran, and RQ does not.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import redis
from rq.intermediate_queue import IntermediateQueue
from rq.queue import Queue
from rq.rate_limit import RateLimitRegistry
from rq.registry import (
    BaseRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ReadyJobRegistry,
    StartedJobRegistry,
)
from rq.serializers import resolve_serializer
from rq.worker import BaseWorker, SimpleWorker
from rq.worker_registration import clean_worker_registry

from jobqueue.protocol import keys
from jobqueue.protocol.hashes import readable
from jobqueue.protocol.protocol import Protocol
from jobqueue.serializers import decompress, format_of
from jobqueue.store.connection import client
from jobqueue.workers.rq_finish.callbacks import ServedCallbacks, handlers_of
from jobqueue.workers.running.context import after_imports
from jobqueue.workers.running.own_classes import job_class_of, on_top, runner_for
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)


def held_by_us(store: redis.Redis) -> set[str]:
    """The ids that any child of any tree holds, also one that died and was not rescued yet."""
    owners: Any = store.smembers(keys.OWNERS)
    with store.pipeline(transaction=False) as pipe:
        for owner in owners:
            pipe.zrange(keys.own(owner.decode()), 0, -1)
        return {job_id.decode() for ids in pipe.execute() for job_id in ids}


def take_out_wrong_entries(store: redis.Redis, queue: str) -> None:
    """Take what RQ's code cannot read out of the lists that it goes through, and name it.

    RQ stops at such an entry each time, and never comes to those behind it. Among the jobs that run, an entry is
    `JOB:EXECUTION`; elsewhere it is the id of a job.
    """
    for kind, parts in (("wip", 2), ("ready", 1)):
        key = keys.registry(kind, queue)
        wrong = [entry for entry, _ in store.zscan_iter(key) if not _is_id(entry, parts)]
        if wrong:
            store.zrem(key, *wrong)
            _name(key, wrong)
    key = keys.intermediate(queue)
    ids: Any = store.lrange(key, 0, -1)
    if wrong := [entry for entry in ids if not _is_id(entry, 1)]:
        for entry in wrong:
            store.lrem(key, 0, entry)
        _name(key, wrong)


def _is_id(entry: bytes, parts: int) -> bool:
    try:
        return entry.decode().count(":") + 1 == parts
    except UnicodeDecodeError:
        return False


def _name(key: str, wrong: list[bytes]) -> None:
    shown = ", ".join(ascii(entry[:40])[1:] for entry in wrong[:3])
    log.warning("%s: %d entries that are no ids of jobs are taken out: %s", key, len(wrong), shown)


class MaintainedJob(ServedCallbacks):
    """A job of any format. The meta of a format that this worker was not told to accept stays unread, as it is."""

    accept: tuple[str, ...] = ("json",)
    own: Any = None  # a serializer of the worker's own, for all jobs

    def restore(self, raw_data: Any) -> None:
        raw: Mapping[bytes, bytes] = raw_data
        if self.own is not None:
            self.serializer = self.own
        elif b"data" in raw:
            kind = format_of(decompress(raw[b"data"]))
            self.serializer = resolve_serializer(kind)
            if kind not in self.accept:
                raw = {name: value for name, value in raw.items() if name != b"meta"}
        super().restore(readable(raw))


class Started(StartedJobRegistry):
    """Knows what is not RQ's to judge."""

    def get_expired_job_ids(self, timestamp: float | None = None) -> list[str]:
        expired: list[str] = super().get_expired_job_ids(timestamp)
        held = held_by_us(self.connection) if expired else ()
        return [job_id for job_id in expired if job_id not in held]


class Intermediate(IntermediateQueue):
    """Likewise."""

    def get_job_ids(self) -> list[str]:
        before = held_by_us(self.connection)  # and after: it may be claimed, or settled, while we look
        ids: list[str] = super().get_job_ids()
        if not ids:
            return []
        held = before | held_by_us(self.connection)
        still = set(super().get_job_ids())  # else what was claimed and settled between the two looks was nobody's
        return [job_id for job_id in ids if job_id in still and job_id not in held]

    def cleanup(self, worker: BaseWorker, queue: Queue) -> None:
        """RQ's, which notes for a day whom it has seen here: not who has left meanwhile, to be taken for stuck when he
        comes again, nor who was failed."""
        seen = self.get_job_ids()
        super().cleanup(worker, queue)
        still = set(super().get_job_ids())
        if gone := [self.get_first_seen_key(job_id) for job_id in seen if job_id not in still]:
            self.connection.delete(*gone)


def _apart(serializer: Any) -> Any:
    """A serializer that sees no job's context variables, and leaves none to the next."""
    dumps, loads = after_imports.apart(serializer.dumps), after_imports.apart(serializer.loads)
    return SimpleNamespace(dumps=dumps, loads=loads)


class Chores:
    """One round; looks like a Child to whoever starts it."""

    def __init__(self, settings: Settings, control: socket.socket, store: redis.Redis | None = None) -> None:
        self._control = control  # held open: its end tells the supervisor that we are gone
        self._store = store or client(settings.address)
        runner = runner_for(settings)
        own = _apart(runner.reads) if settings.serializer else None
        fields = {"accept": settings.accept, "own": own, "resolve": staticmethod(runner.resolve)}
        job_class = on_top(MaintainedJob, job_class_of(settings), **fields)
        self._worker = SimpleWorker(
            [Queue(name, connection=self._store, job_class=job_class) for name in settings.queues],
            name=settings.worker,
            connection=self._store,
            job_class=job_class,
            prepare_for_work=False,
            exception_handlers=handlers_of(settings),
            maintenance_interval=max(1, int(settings.maintenance_interval)),
        )
        self._worker.log = logging.getLogger("rq.worker")

    def run(self) -> None:
        """All queues, each under RQ's lock; one that fails does not keep the others from it. Raises the last error."""
        problem: Exception | None = None
        for queue in self._worker.queues:
            if not queue.acquire_maintenance_lock():
                continue
            try:
                self._clean(queue)
            except Exception as e:
                log.exception("queue %s: RQ's maintenance failed", queue.name)
                problem = e
            finally:
                queue.release_maintenance_lock()
        self._worker.clean_group_registries()
        if problem is not None:
            raise problem

    def _clean(self, queue: Queue) -> None:
        """RQ's clean_registries, and what its worker does after it. RQ lets the names of deferred and canceled jobs
        stand whose hashes have expired."""
        take_out_wrong_entries(self._store, queue.name)
        protocol = Protocol(self._store)
        for kind in ("deferred", "canceled"):
            protocol.forget_gone(kind, queue.name)
        self._registry(FinishedJobRegistry, queue).cleanup()
        self._registry(Started, queue).cleanup(exception_handlers=self._worker._exc_handlers)
        self._registry(FailedJobRegistry, queue).cleanup()
        self._registry(ReadyJobRegistry, queue).cleanup()
        for limit in RateLimitRegistry.all(queue.connection):
            limit.cleanup()
        clean_worker_registry(queue)
        Intermediate(queue.key, queue.connection).cleanup(self._worker, queue)

    def _registry(self, kind: type[BaseRegistry], queue: Queue) -> Any:
        return kind(
            name=queue.name, connection=queue.connection, job_class=queue.job_class, serializer=queue.serializer
        )
