"""Queues from the settings, whose jobs are sent when the transaction in which they were enqueued is committed.

    enqueue ──► in a transaction? ──► transaction.on_commit ──► (at the commit) sent
        └─────► sent at once

What is wrong with a job (its name, its arguments) is raised at the call. A rolled back transaction sends nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from copy import copy
from datetime import datetime
from functools import partial
from typing import Any, Self

import redis
import rq.job
import rq.queue
from django.db import transaction
from django.utils.module_loading import import_string

from jobqueue.django.addresses import identity
from jobqueue.django.settings import BadSettings, QueueSettings, commit_mode, queue_settings
from jobqueue.django.stores import shared_store
from jobqueue.errors import UsageError
from jobqueue.job import Job, LightJob
from jobqueue.producing.catalog import Task
from jobqueue.producing.encoding import EncodedCall, SharedFields, rq_now
from jobqueue.producing.put import IfThere
from jobqueue.producing.queue import Queue
from jobqueue.schedules.timing import Timing
from jobqueue.store.config import resolve_url
from jobqueue.store.connection import Address, client


class DjangoQueue(Queue):
    """A jobqueue.Queue of a Django project. Queues of one store share its client, which stays open.

    on_commit: send jobs when the transaction of the database "default", or of the one that is named, is committed.
    default_result_ttl: seconds to keep results of jobs that do not say how long. Other arguments are those of Queue.
    """

    def __init__(
        self, *args: Any, on_commit: bool | str = True, default_result_ttl: int | None = None, **kwargs: Any
    ) -> None:
        self._on_commit = on_commit
        self._result_ttl = default_result_ttl
        super().__init__(*args, **kwargs)

    @property
    def connection(self) -> redis.Redis:
        """The client; opens the store at the first use."""
        if self._client is None:
            self._store, self._client = shared_store(self._url)
        return self._client

    @connection.setter
    def connection(self, client: redis.Redis) -> None:
        Queue.connection.fset(self, client)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Do nothing: other queues use the client too."""

    def sent_at_once(self) -> Self:
        """Return the same queue without the wait for the commit."""
        queue = copy(self)
        queue._on_commit = False
        return queue

    def _waits_for_commit(self) -> bool:
        if not self._on_commit:
            return False
        in_transaction: bool = transaction.get_connection(self._database).in_atomic_block
        return in_transaction

    @property
    def _database(self) -> str | None:
        return self._on_commit if isinstance(self._on_commit, str) else None

    def _at_commit(self, method: str, *args: Any, **kwargs: Any) -> None:
        """Call the method of this queue, without another wait, at the commit."""
        transaction.on_commit(partial(getattr(self.sent_at_once(), method), *args, **kwargs), using=self._database)

    # -- what sends ----------------------------------------------------------------------------------------------------

    def transmit(self, shared: SharedFields, calls: Sequence[EncodedCall]) -> bytes:
        if not self._waits_for_commit():
            return super().transmit(shared, calls)
        self._at_commit("transmit", shared, calls)
        return rq_now()

    def enqueue_job(
        self, job: rq.job.Job, pipeline: Any = None, at_front: bool = False, unique: bool = False
    ) -> rq.job.Job:
        if pipeline is not None or not self._waits_for_commit():
            return super().enqueue_job(job, pipeline=pipeline, at_front=at_front, unique=unique)
        self._at_commit("enqueue_job", job, None, at_front, unique)
        return job

    def schedule_job(
        self, job: rq.job.Job, datetime: datetime, pipeline: Any = None, unique: bool = False
    ) -> rq.job.Job:
        if pipeline is not None or not self._waits_for_commit():
            return super().schedule_job(job, datetime, pipeline=pipeline, unique=unique)
        self._at_commit("schedule_job", job, datetime, None, unique)
        return job

    def _put(self, job: rq.job.Job, how: str | int, if_there: IfThere) -> rq.job.Job:
        if not self._waits_for_commit():
            return super()._put(job, how, if_there)
        self._at_commit("_put", job, how, if_there)
        return job

    def schedule(self, f: Task, *args: Any, schedule_id: str = "", **options: Any) -> str:
        if not self._waits_for_commit():
            return super().schedule(f, *args, schedule_id=schedule_id, **options)
        schedule_id = schedule_id or os.urandom(8).hex()
        plan = {name: value for name, value in options.items() if name not in _OF_TIME}
        timing = Timing(options.get("every", 0.0), options.get("cron", ""), options.get("tz") or "UTC")
        self.plan(f, *args, timing=timing.check(), schedule_id=schedule_id, **plan)  # raises what is wrong now
        self._at_commit("schedule", f, *args, schedule_id=schedule_id, **options)
        return schedule_id

    def enqueue_many(self, f: Any = None, *iterables: Any, **options: Any) -> Any:  # type: ignore[override]
        of_rq = f is None or not (isinstance(f, str) or callable(f))
        if not of_rq or not self._waits_for_commit():
            return super().enqueue_many(f, *iterables, **options)
        datas = options.pop("job_datas") if f is None else f
        named = [data if data.job_id else data._replace(job_id=os.urandom(16).hex()) for data in datas]
        self._at_commit("enqueue_many", named, *iterables, **options)
        return [LightJob.of(data.job_id, self.connection, self.serializer) for data in named]

    def map(self, f: Task, *iterables: Any, timeout: float | None = None, **options: Any) -> Iterator[Any]:
        if self._waits_for_commit():
            raise UsageError(
                "map() waits for results, and in a transaction jobs are sent at its commit: call it behind the "
                "transaction, or use get_queue(..., on_commit=False)."
            )
        return super().map(f, *iterables, timeout=timeout, **options)

    # -- the default of the settings -----------------------------------------------------------------------------------

    def _shared(self, spec: rq.queue.EnqueueArgs, on_crash: str | None) -> SharedFields:
        return super()._shared(self._with_ttl(spec), on_crash)

    def _job_by_rq(self, spec: rq.queue.EnqueueArgs, on_crash: str | None, status: Any) -> Job:
        return super()._job_by_rq(self._with_ttl(spec), on_crash, status)

    def _with_ttl(self, spec: rq.queue.EnqueueArgs) -> rq.queue.EnqueueArgs:
        if self._result_ttl is None or spec.result_ttl is not None:
            return spec
        return spec._replace(result_ttl=self._result_ttl)


_OF_TIME = frozenset({"every", "cron", "tz", "first", "replace"})


def get_queue(
    name: str = "default",
    default_timeout: int | None = None,
    is_async: bool | None = None,
    autocommit: bool | None = None,
    commit_mode: str | None = None,
    connection: redis.Redis | None = None,
    queue_class: Any = None,
    job_class: Any = None,
    serializer: Any = None,
    **options: Any,
) -> Any:
    """Return the queue of this name, as the settings describe it; arguments override them. It connects at its first
    use. More options of DjangoQueue: ``on_commit=False`` sends jobs at once, also in a transaction.

    The other arguments are those of django-rq's get_queue. Raises BadSettings.
    """
    said = queue_settings(name)
    if commit_mode or autocommit is not None:
        options.setdefault("on_commit", _commit_mode(commit_mode, autocommit))
    given = {"default_timeout": default_timeout, "is_async": is_async, "job_class": job_class, "serializer": serializer}
    return make_queue(said, name, connection, queue_class, given, options)


_commit_mode = commit_mode


def make_queue(
    said: QueueSettings,
    name: str,
    connection: redis.Redis | None = None,
    queue_class: Any = None,
    given: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
) -> Any:
    """Make a queue with these settings; what is ``given`` and not None overrides them."""
    arguments = {
        "default_timeout": said.timeout,
        "is_async": said.is_async,
        "job_class": said.job_class,
        "serializer": said.serializer,
    }
    arguments |= {name: value for name, value in (given or {}).items() if value is not None}
    kind = queue_class or said.queue_class or DjangoQueue
    kind = import_string(kind) if isinstance(kind, str) else kind
    arguments |= options or {}
    if issubclass(kind, DjangoQueue):
        arguments = {"on_commit": said.on_commit, "default_result_ttl": said.result_ttl, **arguments}
        if connection is None:
            arguments["url"] = said.url
        return kind(name, connection=connection, **arguments)
    if connection is None:
        connection = connection_of(said)
    return kind(name, connection=connection, **arguments)


def get_queues(*names: str, **options: Any) -> list[Any]:
    """Return several queues, "default" without a name. Raises BadSettings if they are not in one store."""
    queues = [get_queue(name, **options) for name in names or ("default",)]
    if len({identity(queue_settings(name).url) for name in names}) > 1:
        raise BadSettings(f"The queues {', '.join(names)} are in different stores.")
    return queues


def get_connection(name: str = "default", use_strict_redis: bool = False) -> redis.Redis:
    """Return a client of the store that this queue is in; it connects at its first use. (``use_strict_redis`` is
    django-rq's and means nothing any more.) Raises BadSettings."""
    return connection_of(queue_settings(name))


def connection_of(said: QueueSettings) -> redis.Redis:
    """Return a client of the queue's store."""
    url, _ = resolve_url(said.url)
    return shared_store(None)[1] if url is None else client(Address(url=url), patient=True)


def enqueue(func: Task, *args: Any, **kwargs: Any) -> Any:
    """Enqueue one call in the queue "default"; see DjangoQueue.enqueue."""
    return get_queue().enqueue(func, *args, **kwargs)
