"""Do RQ's maintenance by RQ's own code, in the main thread of a short-lived process: failure callbacks and exception
handlers run in it.

Jobs that a dead RQ worker ran are failed or retried, jobs that are ready go into their queues, expired entries leave
the registries, and jobs that RQ's workers lost between two lists are failed. Jobs that one of our processes holds, dead
or alive, are left out: a rescue knows which of them had started, and RQ does not.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import redis
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
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
from jobqueue.workers.rq_finish.webhooks import LimitedWebhooks
from jobqueue.workers.running.context import after_imports
from jobqueue.workers.running.own_classes import job_class_of, on_top, runner_for
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)

LOCKED = 899  # seconds, as in RQ


def held_by_us(store: redis.Redis) -> set[str]:
    """Return the ids of all jobs that a child of any tree holds; also a child that died and was not rescued yet."""
    owners: Any = store.smembers(keys.OWNERS)
    with store.pipeline(transaction=False) as pipe:
        for owner in owners:
            pipe.zrange(keys.own(owner.decode()), 0, -1)
        return {job_id.decode() for ids in pipe.execute() for job_id in ids}


def take_out_wrong_entries(store: redis.Redis, queue: str) -> None:
    """Remove the entries that RQ's code cannot read from the lists that its maintenance reads, and log them.

    RQ's code would fail at such an entry each time, and never reach those after it. An entry of the started jobs'
    registry is `JOB:EXECUTION`; an entry elsewhere is a job's id.
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


class MaintainedJob(LimitedWebhooks, ServedCallbacks):
    """A job in any format. If this worker does not accept the format, the job's meta is neither read nor changed."""

    accept: tuple[str, ...] = ("json",)
    own: Any = None  # the serializer of a worker that has one for all jobs

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


class PlainJob(LimitedWebhooks):
    """A job without any code of the user's: for a second round, after one in which such code ended its process."""

    failure_callback = None

    def restore(self, raw_data: Any) -> None:
        super().restore(readable({name: value for name, value in raw_data.items() if name != b"meta"}))


class Started(StartedJobRegistry):
    """RQ's registry of started jobs, without the jobs that our processes hold."""

    def get_expired_job_ids(self, timestamp: float | None = None) -> list[str]:
        expired: list[str] = super().get_expired_job_ids(timestamp)
        held = held_by_us(self.connection) if expired else ()
        return [job_id for job_id in expired if job_id not in held]


class Intermediate(IntermediateQueue):
    """RQ's list of jobs between queue and start, without the jobs that our processes hold."""

    def get_job_ids(self) -> list[str]:
        before = held_by_us(self.connection)  # asked again below: a job may be claimed or settled meanwhile
        ids: list[str] = super().get_job_ids()
        if not ids:
            return []
        held = before | held_by_us(self.connection)
        still = set(super().get_job_ids())  # a job that was claimed and settled between the two requests is in neither
        return [job_id for job_id in ids if job_id in still and job_id not in held]

    def cleanup(self, worker: BaseWorker, queue: Queue) -> None:
        """Do what RQ does, then delete RQ's note on each job that has left the list or was failed. RQ keeps the note
        for a day, and would take such a job for stuck as soon as it is in the list again."""
        seen = self.get_job_ids()
        super().cleanup(worker, queue)
        still = set(super().get_job_ids())
        if gone := [self.get_first_seen_key(job_id) for job_id in seen if job_id not in still]:
            self.connection.delete(*gone)


def _apart(serializer: Any) -> Any:
    """Return the serializer so wrapped that each call runs in its own context: no job's context variables are seen in
    it, and none that it sets are left behind."""
    dumps, loads = after_imports.apart(serializer.dumps), after_imports.apart(serializer.loads)
    return SimpleNamespace(dumps=dumps, loads=loads)


def lock_queue(queue: Queue, name: str | int, dead: str = "") -> bool:
    """Take RQ's lock on a queue's maintenance, as its acquire_maintenance_lock does, with a value that says whose it
    is; also from the round called ``dead``. Return whether it was taken."""
    key = queue.registry_cleaning_key
    if dead and queue.connection.get(key) == dead.encode():
        queue.connection.delete(key)
    return bool(queue.connection.set(key, name, nx=True, ex=LOCKED))


class MaintenanceRound:
    """One round of maintenance. The fork server starts it as it starts a ``Child``."""

    def __init__(
        self, settings: Settings, control: socket.socket, store: redis.Redis | None = None, plain: bool = False
    ) -> None:
        """plain: run no code of the user's, which has ended the round before this one."""
        self._control = control  # held open: when this process ends, it closes, and the supervisor reads that
        self._store = store or client(settings.address)
        job_class: type[Job] = PlainJob
        if not plain:
            runner = runner_for(settings)
            own = _apart(runner.reads) if settings.serializer else None
            fields = {"accept": settings.accept, "own": own, "resolve": staticmethod(runner.resolve)}
            job_class = on_top(MaintainedJob, job_class_of(settings), **fields)
        self._name = f"{settings.worker}:maintenance"  # a worker has one round at a time: an older one of it is dead
        self._worker = SimpleWorker(
            [Queue(name, connection=self._store, job_class=job_class) for name in settings.queues],
            name=settings.worker,
            connection=self._store,
            job_class=job_class,
            prepare_for_work=False,
            exception_handlers=[] if plain else handlers_of(settings),
            maintenance_interval=max(1, int(settings.maintenance_interval)),
        )
        self._worker.log = logging.getLogger("rq.worker")

    def run(self) -> None:
        """Maintain all queues, each under RQ's lock. An error in one queue is logged, and the others are maintained all
        the same; the last error is raised at the end."""
        problem: Exception | None = None
        for queue in self._worker.queues:
            if not lock_queue(queue, self._name, dead=self._name):
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
        """Do what RQ's ``clean_registries`` does, and what RQ's worker does after it. Also remove the deferred and
        canceled jobs whose hashes have expired, which RQ leaves in its registries."""
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
