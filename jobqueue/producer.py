"""The write side: RQ's Queue, with an enqueue of one round trip, bulk in chunks, and no job twice or lost on the way.

enqueue ──► options RQ must handle (depends_on, rate_limit, unique, pipeline, synchronous)? ──► RQ's own code
    └─────► Shared (fields of the whole chunk) + Call (id, data, description)
              └─► transmit: one MULTI in one write ──► reply lost? ──► ENQUEUE script, skips what is there already
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import redis
import rq.queue
from rq.exceptions import DuplicateJobError
from rq.job import JobStatus, Retry, validate_job_id
from rq.timeouts import UnixSignalDeathPenalty
from rq.utils import parse_timeout

from jobqueue import catalog, keys, wire
from jobqueue.batch import Batch, Sender
from jobqueue.connection import Store, explain, open_store
from jobqueue.errors import DuplicateJob, NotSerializable, StoreRefused, StoreUnreachable, UsageError
from jobqueue.job import Job, LightJob
from jobqueue.serializers import JSON, compress, refuse_what_json_changes

if TYPE_CHECKING:
    from jobqueue.results import Waiter

log = logging.getLogger(__name__)

A_DAY = 86_400
REPEAT_FOR = 5.0  # seconds during which an enqueue that got no reply is repeated
_LONGEST_ARGUMENT = 75  # characters of an argument in a description, as in RQ
_OPTIONS = frozenset(rq.queue.EnqueueArgs._fields) - {"func", "timeout"} | {"job_timeout"}  # that enqueue() takes
_DISTURBED = (redis.ConnectionError, redis.TimeoutError)


class AlreadyThere(DuplicateJob, DuplicateJobError):
    """DuplicateJob, for those who catch RQ's exception too."""


class Call(NamedTuple):
    """What is a job's own in a chunk: its id, its data as it is stored, its description."""

    id: str
    data: bytes
    description: bytes


@dataclass(frozen=True)
class Shared:
    """What jobs with the same options have in common: hash fields, place in the queue, time to wait in it."""

    fields: Mapping[str, bytes]
    at_front: bool = False
    ttl: int | None = None
    replaces: bool = False  # the id was chosen by the caller: an earlier job of this id makes way, as in RQ

    @cached_property
    def packed(self) -> bytes:
        return wire.strings(part for name, value in self.fields.items() for part in (name.encode(), value))

    def all_fields(self, call: Call, stamp: bytes) -> dict[str, bytes]:
        """A job's whole hash."""
        own = {"created_at": stamp, "enqueued_at": stamp, "data": call.data, "description": call.description}
        return {**self.fields, **own}


class Queue(rq.queue.Queue):
    """A queue to put jobs into. Takes RQ's arguments; without a connection it opens the store that ``url`` (or the
    environment, see ``open_store``) names, at the first use, and closes it at close() or at exit.

    JSON by default: ``serializer="pickle"`` is RQ's. Raises StoreUnreachable, StoreRefused and UsageErrors.
    """

    job_class = Job

    def __init__(
        self,
        name: str = "default",
        connection: redis.Redis | None = None,
        default_timeout: int | None = None,
        is_async: bool = True,
        job_class: str | type[rq.job.Job] | None = None,
        serializer: Any = None,
        death_penalty_class: Any = UnixSignalDeathPenalty,
        *,
        url: str | None = None,
        store: Store | None = None,
        **kwargs: Any,
    ) -> None:
        self._url = url
        self._store = store
        self._opened_store = False
        self._client: redis.Redis | None = None
        later = cast(redis.Redis, self)  # RQ wants something true here; the property below knows better
        super().__init__(
            name,
            connection or later,
            default_timeout,
            is_async,
            job_class,
            serializer or JSON,
            death_penalty_class,
            **kwargs,
        )

    # -- the store ---------------------------------------------------------------------------------------------

    @property
    def connection(self) -> redis.Redis:
        """The client; opens the store at the first use."""
        if self._client is None:
            if self._store is None:
                self._store, self._opened_store = open_store(self._url), True
                weakref.finalize(self, self._store.close)
            self._client = self._store.client()
        return self._client

    @connection.setter
    def connection(self, client: redis.Redis) -> None:
        self._client = None if cast(object, client) is self else client

    def close(self) -> None:
        """Close the connection, and the store if this queue opened it. Safe to repeat."""
        if self._store is not None and self._client is not None:  # a connection that was passed in is its owner's
            self._client.close()
            self._client = None
        if self._store is not None and self._opened_store:
            self._store.close()
            self._store, self._opened_store = None, False

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- one job -----------------------------------------------------------------------------------------------

    def enqueue(self, f: catalog.Task, *args: Any, on_crash: str | None = None, **kwargs: Any) -> Job:
        """Enqueue one call of ``f`` and return its job. RQ's options, and ``on_crash="retry"|"fail"``.

        f is a function of a module, "module:function", "module.function" or a built-in name. Raises TaskNotFound,
        NotSerializable, DuplicateJob (unique=True), StoreUnreachable. When it returns, the job is in the store.
        """
        task = _checked(f)
        if isinstance(task, str) and on_crash is None and _OPTIONS.isdisjoint(kwargs) and self._is_async:
            return self._send_one(self._plain, self.pack(os.urandom(16).hex(), task, args, kwargs))
        return self._submit(rq.queue.Queue.parse_args(task, *args, **kwargs), on_crash)

    def enqueue_call(  # type: ignore[override]  # the options by keyword, as everybody gives them
        self, func: catalog.Task, args: Any = None, kwargs: Any = None, **options: Any
    ) -> Job:
        """Do what enqueue does, with the function's arguments apart from RQ's options (``timeout`` among them)."""
        on_crash = options.pop("on_crash", None)
        if "timeout" in options:
            options["job_timeout"] = options.pop("timeout")
        spec = rq.queue.Queue.parse_args(_checked(func), args=args or (), kwargs=kwargs or {}, **options)
        return self._submit(spec, on_crash)

    def enqueue_at(
        self, datetime: datetime, f: catalog.Task, *args: Any, on_crash: str | None = None, **kwargs: Any
    ) -> Job:
        """Schedule a call for a time (without a zone: local time)."""
        spec = rq.queue.Queue.parse_args(_checked(f), *args, **kwargs)
        with self._rq_at_work():
            job = self._job_by_rq(spec, on_crash, JobStatus.SCHEDULED)
            if spec.at_front:
                job.enqueue_at_front = True
            return cast(Job, self.schedule_job(job, datetime, pipeline=spec.pipeline, unique=spec.unique))

    def _submit(self, spec: rq.queue.EnqueueArgs, on_crash: str | None) -> Job:
        if spec.depends_on or spec.rate_limit or spec.pipeline is not None or spec.unique or not self._is_async:
            return self._submit_by_rq(spec, on_crash)
        if not isinstance(spec.func, str):
            return self._submit_by_rq(spec, on_crash)  # a method or an object: only pickle carries it
        if spec.job_id:
            validate_job_id(spec.job_id)
        call = self.pack(spec.job_id or os.urandom(16).hex(), spec.func, spec.args or (), spec.kwargs or {})
        if spec.description:
            call = call._replace(description=spec.description.encode())
        return self._send_one(self._shared(spec, on_crash), call)

    def _send_one(self, shared: Shared, call: Call) -> Job:
        stamp = self.transmit(shared, [call])
        return LightJob.of(call.id, self.connection, self.serializer, shared.all_fields(call, stamp))

    def _submit_by_rq(self, spec: rq.queue.EnqueueArgs, on_crash: str | None) -> Job:
        if spec.unique and not spec.job_id:
            raise ValueError("unique=True requires an explicit job_id")
        with self._rq_at_work():
            job = self._job_by_rq(spec, on_crash, JobStatus.QUEUED)
            return cast(Job, self.enqueue_job(job, spec.pipeline, spec.at_front, spec.unique))

    def _job_by_rq(self, spec: rq.queue.EnqueueArgs, on_crash: str | None, status: JobStatus) -> Job:
        options = {
            name: value for name, value in spec._asdict().items() if name not in ("pipeline", "unique", "at_front")
        }
        options["retry"] = _retry(options["retry"])
        job = cast(Job, self.create_job(**options, status=status))
        if on_crash is not None:
            job.on_crash = _on_crash(on_crash).decode()
        _ = job.data  # refuses what the format cannot carry before anything is sent
        return job

    def create_job(self, func: Any, *args: Any, **kwargs: Any) -> rq.job.Job:
        """As in RQ; names are taken as enqueue takes them."""
        return super().create_job(_checked(func), *args, **kwargs)

    # -- many jobs ---------------------------------------------------------------------------------------------

    def enqueue_many(  # type: ignore[override]  # takes RQ's arguments and more
        self, f: Any = None, *iterables: Any, **options: Any
    ) -> Any:
        """Enqueue ``f`` once per element of the iterables (zipped, like map) and return the Batch of the jobs.

        Streams: memory does not grow with the number of jobs. Options are enqueue's. With RQ's form, an iterable of
        prepare_data()s first, it is RQ's enqueue_many and returns a list.
        """
        if f is None or not (isinstance(f, str) or callable(f)):
            datas = options.pop("job_datas") if f is None else f
            with self._rq_at_work():
                return super().enqueue_many(datas, *iterables, **options)
        sender = self.sender(f, **options)
        for _ in sender.send_all((args, {}) for args in zip(*iterables, strict=False)):
            pass
        return sender.batch()

    def map(self, f: catalog.Task, *iterables: Any, timeout: float | None = None, **options: Any) -> Iterator[Any]:
        """Run ``f`` over the iterables and iterate over the results in order, streaming, like Executor.map.

        At most a chunk and a window of jobs are on their way. timeout in seconds, from now, for all. Raises what
        Job.result() raises, at the failed job's place. Results are kept for a day unless result_ttl says otherwise.
        """
        sender = self.sender(f, **{"result_ttl": A_DAY, **options})
        batches = sender.send_all((args, {}) for args in zip(*iterables, strict=False))
        first = next(batches, None)  # now: like Executor.map, it starts before the first result is asked for

        def ids() -> Iterator[str]:
            if first is not None:
                yield from first.ids
                for batch in batches:
                    yield from batch.ids

        return (outcome.get() for outcome in self.waiter().outcomes(ids(), timeout))

    def sender(self, f: catalog.Task, *, on_crash: str | None = None, **options: Any) -> Sender:
        """Return what sends many calls of ``f`` with the same options."""
        spec = rq.queue.Queue.parse_args(_checked(f), **options)
        alone = spec.job_id or spec.depends_on or spec.rate_limit or spec.unique or spec.pipeline is not None
        if alone or spec.kwargs or not self._is_async or not isinstance(spec.func, str):
            raise UsageError("Many jobs at once take options that all share; use enqueue for each of these.")
        return Sender(self, spec.func, self._shared(spec, on_crash), spec.description)

    def waiter(self) -> Waiter:
        """Return a Waiter that reads this queue's results."""
        from jobqueue.results import Waiter

        return Waiter(self.connection, loads=self.serializer.loads, known=True)

    # -- what is sent ------------------------------------------------------------------------------------------

    def pack(self, job_id: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """Make the part of a job that is its own. Raises NotSerializable."""
        try:
            data = self.serializer.dumps((name, None, args, kwargs))
        except NotSerializable:
            refuse_what_json_changes(list(args), "args")  # says it again, with a path that the caller knows
            refuse_what_json_changes(kwargs, "kwargs")
            raise
        return Call(job_id, compress(data), _description(name, args, kwargs))

    @cached_property
    def _plain(self) -> Shared:
        return self._shared(rq.queue.Queue.parse_args(""), None)

    def _shared(self, spec: rq.queue.EnqueueArgs, on_crash: str | None) -> Shared:
        ttl = parse_timeout(spec.ttl)
        if ttl is not None and ttl <= 0:
            raise ValueError("Job ttl must be greater than 0")
        fields = {
            "origin": self.name.encode(),
            "status": b"queued",
            "timeout": b"%d" % self._seconds_to_run(spec.timeout),
        }
        for name, seconds in (("result_ttl", spec.result_ttl), ("failure_ttl", spec.failure_ttl), ("ttl", ttl)):
            if seconds is not None:
                fields[name] = b"%d" % (parse_timeout(seconds) or 0)
        if spec.meta:
            fields["meta"] = self.serializer.dumps(spec.meta)
        if spec.retry:
            fields |= _retry_fields(_retry(spec.retry))
        if on_crash is not None:
            fields["jobq_on_crash"] = _on_crash(on_crash)
        if spec.on_success or spec.on_failure or spec.on_stopped or spec.repeat or spec.webhooks:
            fields = self._fields_by_rq(spec) | fields
        return Shared(fields, spec.at_front, ttl, replaces=bool(spec.job_id))

    def _seconds_to_run(self, timeout: Any) -> int:
        seconds = self._default_timeout if timeout is None else parse_timeout(timeout)
        if seconds == 0:
            raise ValueError("0 timeout is not allowed. Use -1 for infinite timeout")
        return cast(int, seconds)

    def _fields_by_rq(self, spec: rq.queue.EnqueueArgs) -> dict[str, bytes]:
        """Callbacks, webhooks and repeats as RQ writes them; the empty texts that it writes too are not needed."""
        fields = self._job_by_rq(spec, None, JobStatus.QUEUED).to_dict()
        for own in ("data", "description", "created_at", "enqueued_at"):
            fields.pop(own, None)
        return {
            name: value if isinstance(value, bytes) else str(value).encode()
            for name, value in fields.items()
            if value not in ("", None)
        }

    # -- sending -----------------------------------------------------------------------------------------------

    def transmit(self, shared: Shared, calls: Sequence[Call]) -> bytes:
        """Put the jobs into the queue in one transaction; return the time that they bear.

        A lost reply neither loses nor doubles any. Raises StoreUnreachable, StoreRefused.
        """
        stamp = _now()
        try:
            wire.transact(self.connection, _commands(self.name, shared, stamp, calls))
        except redis.RedisError as e:
            self._raise_unless_disturbed(e)
            self._repeat(shared, stamp, calls, e)
        return stamp

    def _repeat(self, shared: Shared, stamp: bytes, calls: Sequence[Call], cause: redis.RedisError) -> None:
        """Enqueue what may or may not have arrived, until the store answers; skips what is there."""
        log.warning("The store did not answer (%s); enqueueing again, no job will be there twice.", cause)
        deadline, pause = time.monotonic() + REPEAT_FOR, 0.05
        while time.monotonic() + pause < deadline:
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
            try:
                return self._enqueue_missing(shared, stamp, calls)
            except redis.RedisError as e:
                self._raise_unless_disturbed(e)
                cause = e
        raise self._explained(cause) from cause

    def _enqueue_missing(self, shared: Shared, stamp: bytes, calls: Sequence[Call]) -> None:
        from jobqueue.protocol import Protocol

        if self._store is not None:
            self._store.ensure()
        jobs = [(call.id, shared.all_fields(call, stamp)) for call in calls]
        new = Protocol(self.connection).enqueue(self.name, jobs, at_front=shared.at_front, ttl=shared.ttl)
        if shared.replaces and not new[0] and self.connection.hget(keys.job(calls[0].id), "created_at") != stamp:
            wire.transact(self.connection, _commands(self.name, shared, stamp, calls))  # it is an earlier job's hash

    def _raise_unless_disturbed(self, error: redis.RedisError) -> None:
        if isinstance(error, redis.AuthenticationError) or not isinstance(error, _DISTURBED):
            raise self._explained(error) from error

    def _rq_at_work(self) -> _RqAtWork:
        return _RqAtWork(self._explained)

    def _explained(self, error: Exception) -> Exception:
        if self._store is not None:
            return explain(error, self._store.address)
        if isinstance(error, _DISTURBED) and not isinstance(error, redis.AuthenticationError):
            return StoreUnreachable(f"The store does not answer: {error}")
        return StoreRefused(f"The store refuses: {error}")


class _RqAtWork:
    """Turns what RQ and redis-py raise into our errors; RQ's own path sends more than once and repeats nothing."""

    def __init__(self, explained: Callable[[Exception], Exception]) -> None:
        self._explained = explained

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, DuplicateJobError):
            raise AlreadyThere(f"{error}.") from None
        if isinstance(error, redis.RedisError):
            raise self._explained(error) from error


def _checked(f: Any) -> Any:
    """Names for texts and functions; methods and callable objects go on to RQ, which needs pickle for them."""
    return catalog.dotted_name(f) if isinstance(f, str) or inspect.isfunction(f) or inspect.isbuiltin(f) else f


def _retry(retry: Any) -> Any:
    return Retry(max=retry) if isinstance(retry, int) else retry


def _retry_fields(retry: Retry) -> dict[str, bytes]:
    fields = {"retries_left": b"%d" % retry.max, "retry_intervals": json.dumps(retry.intervals).encode()}
    return fields | {"enqueue_at_front_on_retry": b"1"} if retry.enqueue_at_front else fields


def _on_crash(what: str) -> bytes:
    if what not in ("retry", "fail"):
        raise UsageError(f"on_crash is 'retry' or 'fail', not {what!r}.")
    return what.encode()


def _description(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """The call as text, as RQ writes it."""
    texts = [_short(repr(value)) for value in args]
    if kwargs:
        texts += sorted(f"{key}={_short(repr(value))}" for key, value in kwargs.items())
    return f"{name}({', '.join(texts)})".encode(errors="backslashreplace")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_ARGUMENT else text[:_LONGEST_ARGUMENT] + "..."


def _now() -> bytes:
    """The time as RQ writes it."""
    return b"%bZ" % datetime.now(UTC).isoformat(timespec="microseconds")[:26].encode()


_HSET = (  # a job's own part of the command; the fields that all share follow, packed once
    b"*%d\r\n$4\r\nHSET\r\n$%d\r\n%b\r\n$4\r\ndata\r\n$%d\r\n%b\r\n$11\r\ndescription\r\n$%d\r\n%b\r\n%b"
)


def _commands(queue: str, shared: Shared, stamp: bytes, calls: Sequence[Call]) -> list[bytes]:
    """SADD queues, per job HSET (EXPIRE), one push: hashes first, so that whoever sees an id can read its job."""
    key, strings = keys.queue(queue).encode(), 2 + 2 * (4 + len(shared.fields))
    tail = wire.strings((b"created_at", stamp, b"enqueued_at", stamp)) + shared.packed
    commands = [wire.command(b"SADD", keys.QUEUES.encode(), key)]
    for job_id, data, text in calls:
        job = keys.job(job_id).encode()
        if shared.replaces:
            commands.append(wire.command(b"DEL", job, keys.results(job_id).encode()))
        commands.append(_HSET % (strings, len(job), job, len(data), data, len(text), text, tail))
        if shared.ttl is not None:
            commands.append(wire.command(b"EXPIRE", job, b"%d" % shared.ttl))
    push = b"LPUSH" if shared.at_front else b"RPUSH"
    commands.append(wire.command(push, key, *[call.id.encode() for call in calls]))
    return commands


__all__ = ["A_DAY", "AlreadyThere", "Batch", "Call", "Queue", "Shared"]
