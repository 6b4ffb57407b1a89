"""Enqueue jobs: RQ's Queue with an enqueue of one round trip, bulk in chunks, and no job lost or doubled on the way.

    enqueue ──► a pipeline, a synchronous queue, a subclass with its own Job? ──► RQ's own code
        ├─────► job_id, depends_on, rate_limit, unique, a time? ──► a job of RQ's ──► PUT
        └─────► SharedFields (of the whole chunk) + EncodedCall (id, data, description) ──► Enqueuer ──► SUBMIT

Each is one request in one write. If its reply is lost, the next request invalidates it and skips jobs that exist.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

import rq.queue
from rq.job import JobStatus

from jobqueue.errors import UsageError
from jobqueue.job import Job, LightJob
from jobqueue.plugins.plugin import NewJob
from jobqueue.plugins.producer import announce
from jobqueue.producing.batch import Batch, Sender
from jobqueue.producing.catalog import Task, name_or_callable
from jobqueue.producing.connected_queue import ConnectedQueue
from jobqueue.producing.encoding import (
    EncodedCall,
    SharedFields,
    as_description,
    as_retry,
    decoded_call,
    description_of,
    encode_call,
    not_too_large,
    on_crash_field,
    option_fields,
    rq_now,
)
from jobqueue.producing.enqueue import AlreadyThere, Enqueuer, RqAtWork, Submit
from jobqueue.producing.put import IfThere, check_made_by_hand, due, put_job, put_schedule
from jobqueue.protocol import bounds, keys, names
from jobqueue.schedules.timetable import Schedule
from jobqueue.schedules.timing import Timing, local_zone

if TYPE_CHECKING:
    from jobqueue.results.waiter import Waiter

A_DAY = 86_400
_OPTIONS = frozenset(rq.queue.EnqueueArgs._fields) - {"func", "timeout"} | {"job_timeout"}  # options of enqueue()
_CREATE = inspect.signature(rq.queue.Queue.create_job)
_OPTIONS_IN_ORDER = tuple(inspect.signature(rq.queue.Queue.enqueue_call).parameters)[4:]


class Queue(ConnectedQueue):
    """A queue to put jobs into. Takes RQ's arguments; without a connection it opens the store that ``url`` (or the
    environment, see ``open_store``) names, at the first use, and closes it at close() or at exit.

    JSON by default: ``serializer="pickle"`` is RQ's. Raises StoreUnreachable, StoreRefused and UsageErrors.
    """

    def __enter__(self) -> Queue:
        return self

    @property
    def _is_ours(self) -> bool:
        """Return whether jobs go by PUT and SUBMIT; not if a subclass has other keys or another class of jobs."""
        return self._is_async and self.job_class is Job and self.key == keys.queue(self.name)

    # -- one job -----------------------------------------------------------------------------------------------

    def enqueue(self, f: Task, *args: Any, on_crash: str | None = None, **kwargs: Any) -> Job:
        """Enqueue one call of ``f`` and return its job. RQ's options, and ``on_crash="retry"|"fail"``.

        f is a function of a module, "module:function", "module.function" or a built-in name. Raises TaskNotFound,
        NotSerializable, DuplicateJob (unique=True), StoreUnreachable. When it returns, the job is in the store.
        """
        task = name_or_callable(f, self.serializer)
        is_plain = on_crash is None and _OPTIONS.isdisjoint(kwargs) and self._is_ours
        if is_plain and isinstance(task, str):
            return self._send_one(self._plain, self.pack(os.urandom(16).hex(), task, args, kwargs))
        return self._submit(rq.queue.Queue.parse_args(task, *args, **kwargs), on_crash)

    def enqueue_call(self, func: Task, args: Any = None, kwargs: Any = None, *in_order: Any, **options: Any) -> Job:
        """Enqueue like ``enqueue``, with the function's arguments separate from RQ's options (``timeout`` among
        them)."""
        options |= zip(_OPTIONS_IN_ORDER, in_order, strict=False)  # `rq enqueue` passes them by position
        on_crash = options.pop("on_crash", None)
        if "timeout" in options:
            options["job_timeout"] = options.pop("timeout")
        spec = rq.queue.Queue.parse_args(
            name_or_callable(func, self.serializer), args=() if args is None else args, kwargs=kwargs or {}, **options
        )
        return self._submit(spec, on_crash)

    def enqueue_at(self, datetime: datetime, f: Task, *args: Any, on_crash: str | None = None, **kwargs: Any) -> Job:
        """Schedule a call for a time (without a zone: local time). Raises BadValue, and what enqueue raises."""
        bounds.moment("The time", datetime)
        spec = rq.queue.Queue.parse_args(name_or_callable(f, self.serializer), *args, **kwargs)
        if spec.unique and spec.job_id is None:  # RQ asks the job, which has an id once plugins have seen it
            raise ValueError("unique=True requires an explicit job_id")
        with self._rq_at_work():
            job = self._job_by_rq(spec, on_crash, JobStatus.SCHEDULED)
            self._announce(job)
            if spec.at_front:
                job.enqueue_at_front = True
            if spec.job_id and spec.pipeline is None and not spec.unique and self._puts(job):
                return cast(Job, self._put(job, due(bounds.moment("The time", datetime)), "replace"))
            return cast(Job, self.schedule_job(job, datetime, pipeline=spec.pipeline, unique=spec.unique))

    def enqueue_in(self, time_delta: timedelta, func: Task, *args: Any, **kwargs: Any) -> Job:
        """Schedule a call for a time from now. Raises what enqueue_at raises."""
        return self.enqueue_at(datetime.now(UTC) + bounds.span("time_delta", time_delta), func, *args, **kwargs)

    def enqueue_job(
        self, job: rq.job.Job, pipeline: Any = None, at_front: bool = False, unique: bool = False
    ) -> rq.job.Job:
        """Enqueue a job that was made by hand, as in RQ but in one request. Raises BadValue, DuplicateJob."""
        check_made_by_hand(job, unique)
        self._announce(job)
        if pipeline is not None or not self._puts(job):
            return super().enqueue_job(job, pipeline=pipeline, at_front=at_front, unique=unique)
        if unique and job._dependency_ids:
            raise ValueError("unique=True is not supported with job dependencies")
        if unique and job.has_rate_limit:
            raise ValueError("unique=True is not supported with rate-limited jobs")
        job.enqueued_at = datetime.now(UTC)
        return self._put(job, "L" if at_front else "R", "refuse" if unique else "")

    def schedule_job(
        self, job: rq.job.Job, datetime: datetime, pipeline: Any = None, unique: bool = False
    ) -> rq.job.Job:
        """Schedule a job that was made by hand, as in RQ but in one request. Raises BadValue, DuplicateJob."""
        check_made_by_hand(job, unique)
        self._announce(job)
        moment = bounds.moment("The time", datetime)
        if pipeline is not None or not self._puts(job):
            return super().schedule_job(job, moment, pipeline, unique)
        return self._put(job, due(moment), "refuse" if unique else "")

    def _puts(self, job: rq.job.Job) -> bool:
        return self._is_ours and job.key == keys.job(job.id)

    def _put(self, job: rq.job.Job, how: str | int, if_there: IfThere) -> rq.job.Job:
        job.origin, job.timeout = self.name, self._default_timeout if job.timeout is None else job.timeout
        return put_job(Submit(self.connection, lambda: self._store), job, how, if_there)

    # -- again and again ---------------------------------------------------------------------------------------

    def schedule(
        self,
        f: Task,
        *args: Any,
        every: float = 0.0,
        cron: str = "",
        tz: str | None = None,
        first: datetime | None = None,
        schedule_id: str = "",
        replace: bool = True,
        **options: Any,
    ) -> str:
        """Enqueue a call of ``f`` every so many seconds, or when ``cron`` says so; return the schedule's id.

        Any worker enqueues it when it is due; ``overlap=False`` skips an occurrence while the last one's job has not
        ended. The first time is ``first``, else now, or with ``cron`` the expression's next time; the expression is in
        the time zone ``tz``, by default this machine's. An existing schedule of this id is replaced; its next time
        stays if the timing is the same. Options are enqueue's. Raises BadSchedule, DuplicateJob (replace=False) and
        what enqueue raises.
        """
        every = bounds.EVERY.check_float("every", every) if every else 0.0
        zone = (local_zone() if tz is None else tz) if cron else ""
        schedule_id = schedule_id or os.urandom(8).hex()
        names.job_id(schedule_id)
        if first is not None:
            bounds.moment("The first time", first)
        plan = self.plan(f, *args, timing=Timing(every, cron, zone).check(), schedule_id=schedule_id, **options)
        mode = "unique" if not replace else "keep" if first is None else "first"
        put_schedule(Submit(self.connection, lambda: self._store), plan, first, mode)
        return schedule_id

    def plan(
        self,
        f: Task,
        *args: Any,
        timing: Timing,
        schedule_id: str,
        name: str = "",
        overlap: bool = True,
        on_crash: str | None = None,
        **options: Any,
    ) -> Schedule:
        """Make a schedule without storing it. Raises UsageError for options that its jobs cannot have."""
        if name:
            names.schedule_name(name)
        spec = rq.queue.Queue.parse_args(name_or_callable(f, self.serializer), *args, **options)
        own = spec.job_id or spec.depends_on or spec.rate_limit or spec.unique or spec.pipeline is not None
        if own or not isinstance(spec.func, str):
            raise UsageError("A schedule takes functions of modules, without job_id, depends_on, rate_limit, unique.")
        shared = self._shared(spec, on_crash)
        call = self.pack(schedule_id, spec.func, spec.args or (), spec.kwargs or {})
        if spec.description:
            call = call._replace(description=as_description(spec.description))
        fields = shared.all_fields(call, rq_now())
        front, ttl = shared.at_front, shared.ttl
        return Schedule(schedule_id, timing, self.name, fields, name, overlap=overlap, front=front, ttl=ttl)

    def _submit(self, spec: rq.queue.EnqueueArgs, on_crash: str | None) -> Job:
        own = spec.depends_on or spec.rate_limit or spec.unique or spec.pipeline is not None
        if own or spec.job_id is not None or not self._is_ours:
            return self._submit_by_rq(spec, on_crash)
        if not isinstance(spec.func, str):
            return self._submit_by_rq(spec, on_crash)  # a method or a callable object, which only pickle can carry
        args = () if spec.args is None else spec.args
        call = self.pack(os.urandom(16).hex(), spec.func, args, spec.kwargs or {})
        if spec.description:
            call = call._replace(description=as_description(spec.description))
        return self._send_one(self._shared(spec, on_crash), call)

    def _send_one(self, shared: SharedFields, call: EncodedCall) -> Job:
        stamp = self.transmit(shared, [call])
        return LightJob.of(call.id, self.connection, self.serializer, shared.all_fields(call, stamp))

    def _submit_by_rq(self, spec: rq.queue.EnqueueArgs, on_crash: str | None) -> Job:
        if spec.unique and spec.job_id is None:
            raise ValueError("unique=True requires an explicit job_id")
        with self._rq_at_work():
            job = self._job_by_rq(spec, on_crash, JobStatus.QUEUED)
            self._announce(job)
            if spec.job_id and spec.pipeline is None and not spec.unique and self._puts(job):
                job.enqueued_at = datetime.now(UTC)
                return cast(Job, self._put(job, "L" if spec.at_front else "R", "replace"))
            return cast(Job, self.enqueue_job(job, pipeline=spec.pipeline, at_front=spec.at_front, unique=spec.unique))

    def _job_by_rq(self, spec: rq.queue.EnqueueArgs, on_crash: str | None, status: JobStatus) -> Job:
        if spec.job_id is not None:
            names.job_id(spec.job_id)
        checked = bounds.of_options(spec)._asdict()
        options = {name: value for name, value in checked.items() if name not in ("pipeline", "unique", "at_front")}
        options["retry"] = as_retry(options["retry"])
        if options["description"] is not None:
            options["description"] = as_description(options["description"]).decode()
        elif isinstance(spec.func, str):  # RQ's description has the arguments' repr in it, which may raise anything
            options["description"] = description_of(spec.func, spec.args or (), spec.kwargs or {}).decode()
        job = cast(Job, self.create_job(**options, status=status))
        if on_crash is not None:
            job.on_crash = on_crash_field(on_crash).decode()
        not_too_large(job.data)  # reading job.data encodes it: an error is raised before anything is sent
        return job

    def create_job(self, func: Any, *args: Any, **kwargs: Any) -> rq.job.Job:
        """Make a job, as in RQ; names and numbers are accepted and checked as by enqueue."""
        given = _CREATE.bind(self, name_or_callable(func, self.serializer), *args, **kwargs).arguments
        of_seconds = {name: bounds.of_option(name, given[name]) for name in bounds.IN_SECONDS if name in given}
        bounds.of_objects({name: given.get(name) for name in bounds.OBJECTS})
        return super().create_job(**{name: value for name, value in (given | of_seconds).items() if name != "self"})

    # -- many jobs ---------------------------------------------------------------------------------------------

    def enqueue_many(  # type: ignore[override]  # takes RQ's arguments and more
        self, f: Any = None, *iterables: Any, **options: Any
    ) -> Any:
        """Enqueue ``f`` once per element of the iterables (zipped, like map) and return the Batch of the jobs.

        It streams: memory does not grow with the number of jobs. Options are enqueue's. With RQ's form, an iterable of
        prepare_data()s first, it is RQ's enqueue_many and returns a list.
        """
        if f is None or not (isinstance(f, str) or callable(f)):
            datas = [bounds.of_options(data) for data in (options.pop("job_datas") if f is None else f)]
            with self._rq_at_work():
                return super().enqueue_many(datas, *iterables, **options)
        sender = self.sender(f, **options)
        for _ in sender.send_all((args, {}) for args in zip(*iterables, strict=False)):
            pass
        return sender.batch()

    def map(self, f: Task, *iterables: Any, timeout: float | None = None, **options: Any) -> Iterator[Any]:
        """Run ``f`` over the iterables and iterate over the results in order, streaming, like Executor.map.

        At most a chunk and a window of jobs are under way. timeout: in seconds, from now, for all. Raises what
        Job.result() raises, at the failed job's place. Results are kept for a day unless result_ttl says otherwise.
        """
        timeout = bounds.wait(timeout)
        sender = self.sender(f, **{"result_ttl": A_DAY, **options})
        batches = sender.send_all((args, {}) for args in zip(*iterables, strict=False))
        first = next(batches, None)  # now: like Executor.map, it starts before the first result is requested

        def ids() -> Iterator[str]:
            if first is not None:
                yield from first.ids
                for batch in batches:
                    yield from batch.ids

        return (outcome.get() for outcome in self.waiter().outcomes(ids(), timeout))

    def sender(self, f: Task, *, on_crash: str | None = None, **options: Any) -> Sender:
        """Return a Sender of many calls of ``f`` with the same options. Raises UsageError for options that are one
        job's own."""
        spec = rq.queue.Queue.parse_args(name_or_callable(f, self.serializer), **options)
        alone = spec.job_id or spec.depends_on or spec.rate_limit or spec.unique or spec.pipeline is not None
        if not self._is_ours:
            raise UsageError(
                "Many jobs at once are of jobqueue's own Job class and run by workers; use enqueue for each."
            )
        if alone or spec.kwargs or not isinstance(spec.func, str):
            raise UsageError("Many jobs at once take options that all share; use enqueue for each of these.")
        return Sender(self, spec.func, self._shared(spec, on_crash), spec.description)

    def waiter(self, say: Callable[[str], None] | None = None) -> Waiter:
        """Return a Waiter for this queue's results. say: called once with the reason when no result comes."""
        from jobqueue.results.waiter import Waiter

        return Waiter(self.connection, loads=self.serializer.loads, known=True, say=say)

    # -- what is sent ------------------------------------------------------------------------------------------

    def pack(self, job_id: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> EncodedCall:
        """Encode a job's own part. Raises NotSerializable."""
        return encode_call(self.serializer, job_id, name, args, kwargs)

    @cached_property
    def _plain(self) -> SharedFields:
        return self._shared(rq.queue.Queue.parse_args(""), None)

    def _shared(self, spec: rq.queue.EnqueueArgs, on_crash: str | None) -> SharedFields:
        spec = bounds.of_options(spec)
        timeout = self._default_timeout if spec.timeout is None else spec.timeout
        fields = {"origin": self.name.encode(), "timeout": b"%d" % cast(int, timeout)}
        fields |= option_fields(spec, on_crash, self.serializer)
        if spec.on_success or spec.on_failure or spec.on_stopped or spec.repeat or spec.webhooks:
            fields = self._fields_by_rq(spec) | fields
        return SharedFields(fields, spec.at_front, spec.ttl)

    def _fields_by_rq(self, spec: rq.queue.EnqueueArgs) -> dict[str, bytes]:
        """Return the fields for callbacks, webhooks and repeats as RQ writes them, without RQ's empty texts."""
        fields = self._job_by_rq(spec, None, JobStatus.QUEUED).to_dict()
        for own in ("data", "description", "created_at", "enqueued_at"):
            fields.pop(own, None)
        return {
            name: value if isinstance(value, bytes) else str(value).encode()
            for name, value in fields.items()
            if value not in ("", None)
        }

    # -- sending -----------------------------------------------------------------------------------------------

    def transmit(self, shared: SharedFields, calls: Sequence[EncodedCall]) -> bytes:
        """Put the jobs into the queue in one transaction; return the time of enqueueing that was written into them.

        A lost reply neither loses nor doubles any. Raises StoreUnreachable, StoreRefused.
        """
        client = self.connection  # opens the store
        if (plugins := self._producer_plugins.listening()) is not None:
            shared = shared.with_fields(announce(plugins, self._new_jobs(calls), shared.fields))
        return Enqueuer(self.name, client, self._store).send(shared, calls)

    def _new_jobs(self, calls: Sequence[EncodedCall]) -> Iterator[NewJob]:
        """Iterate over what plugins see of jobs that one request sends."""
        fields: dict[str, bytes] = {}
        state: dict[Any, Any] = {}
        for call in calls:
            decode = partial(decoded_call, self.serializer, call)
            yield NewJob(call.id, self.name, decode, fields, state, len(calls))

    def _announce(self, job: rq.job.Job) -> None:
        """Tell plugins of a job that is sent as RQ's object, once. Only our own job class has a place for fields."""
        plugins = self._producer_plugins.listening()
        if plugins is None or getattr(job, "plugin_fields", None) is not None:
            return
        new = NewJob(job.id, self.name, lambda: (job.func_name or "", job.args or (), job.kwargs or {}))
        job.plugin_fields = announce(plugins, [new], {})  # type: ignore[attr-defined]

    def _rq_at_work(self) -> RqAtWork:
        return RqAtWork(lambda: self._store)


__all__ = ["A_DAY", "AlreadyThere", "Batch", "Queue"]
