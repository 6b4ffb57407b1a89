"""The job handle: RQ's Job, cheap to create, with a ``result()`` that waits.

A queue returns ``LightJob``s. One knows its id and what was sent; the first access to anything else turns it into a
full Job, loaded from what was sent or from the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import redis
import rq.job
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import JobStatus

from jobqueue.protocol import keys
from jobqueue.protocol.hashes import readable
from jobqueue.protocol.protocol import Protocol
from jobqueue.serializers import Auto
from jobqueue.store.connection import takes_bytes


class _JobType(type):
    """Makes ``isinstance(job, Job)`` true for RQ's jobs too: RQ's queues and registries tell a job from an id by
    ``isinstance(it, queue.job_class)``."""

    def __instancecheck__(cls, instance: object) -> bool:
        return super().__instancecheck__(instance) or (cls is Job and isinstance(instance, rq.job.Job))


class Job(rq.job.Job, metaclass=_JobType):
    """RQ's Job. ``Job.fetch(id, connection=...)`` reads JSON and pickle; ``on_crash`` is "retry", "fail" or None."""

    def __init__(self, id: str | None = None, connection: redis.Redis | None = None, serializer: Any = None) -> None:
        super().__init__(id, connection and takes_bytes(connection), serializer or Auto)
        self.on_crash: str | None = None
        self.crashes = 0
        self.redelivered = 0
        self.plugin_fields: dict[str, bytes] | None = None  # more fields for its hash; None: no plugin was asked

    def result(self, timeout: float | None = None) -> Any:  # replaces a property of RQ's that is deprecated
        """Wait for the job's end and return its value.

        timeout in seconds; None waits without limit. Raises JobFailed (with .traceback), JobCanceled, JobStopped,
        NoSuchJob or ResultTimeout.
        """
        from jobqueue.results.waiter import Waiter

        waiter = Waiter(self.connection, loads=self.serializer.loads, known=True)
        (outcome,) = waiter.outcomes([self.id], timeout)
        return outcome.get()

    def cancel(
        self, pipeline: Any = None, enqueue_dependents: bool = False, remove_from_dependencies: bool = False
    ) -> dict[str, list[str]]:
        """Cancel the job, like RQ's Job.cancel but in one step: whichever of the cancel and the job's end comes first
        counts. A job that runs goes on running, and its outcome is not recorded.

        Returns the dependents that were enqueued, by queue. Raises InvalidJobOperation for a job that has ended or is
        canceled already; NoSuchJobError. With ``pipeline`` RQ's own cancel runs in it.
        """
        if pipeline is not None:
            canceled: dict[str, list[str]] = super().cancel(pipeline, enqueue_dependents, remove_from_dependencies)
            return canceled
        protocol = Protocol(self.connection)
        flags = {"enqueue_dependents": enqueue_dependents, "forget": remove_from_dependencies}
        done, before = protocol.cancel_job(self.id, only_waiting=False, **flags)
        if not done and not before:
            raise NoSuchJobError(f"No such job: {keys.job(self.id)}")
        if not done:
            raise InvalidJobOperation(f"Cannot cancel job {self.id}: it is {before} already")
        self._status = JobStatus.CANCELED
        return _brought_on(protocol, self.id) if enqueue_dependents else {}

    def to_dict(self, include_meta: bool = True, include_result: bool = True) -> dict[str, Any]:
        fields: dict[str, Any] = super().to_dict(include_meta, include_result)
        if self.on_crash is not None:
            fields["jobq_on_crash"] = self.on_crash
        return {**fields, **self.plugin_fields} if self.plugin_fields else fields

    def restore(self, raw_data: Mapping[Any, Any]) -> None:
        fields = readable(raw_data)
        super().restore(fields)
        self.on_crash = fields[b"jobq_on_crash"].decode() if b"jobq_on_crash" in fields else None
        self.crashes = int(fields.get(b"jobq_crashes", 0))
        self.redelivered = int(fields.get(b"jobq_redelivered", 0))

    def __eq__(self, other: object) -> bool:  # RQ compares classes, and a LightJob equals the full Job
        return isinstance(other, rq.job.Job) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)


def _brought_on(protocol: Protocol, job_id: str) -> dict[str, list[str]]:
    """Enqueue the dependents of a job that was canceled. Should this process die on the way, a worker completes it."""
    by_queue: dict[str, list[str]] = {}
    more = True
    while more:
        more, moved = protocol.enqueue_dependents(job_id)
        for queue, dependent in moved:
            by_queue.setdefault(queue, []).append(dependent)
    return by_queue


class LightJob(Job):
    """A Job that knows only its id, its connection and, perhaps, the fields that were sent."""

    def __new__(cls, *args: Any, **kwargs: Any) -> LightJob:
        raise TypeError("LightJob.of() makes these")

    @classmethod
    def of(
        cls, job_id: str, connection: redis.Redis, serializer: Any, sent: Mapping[str, bytes] | None = None
    ) -> LightJob:
        """Make a handle without a command to the store and without RQ's constructor (which costs 15 µs)."""
        job: LightJob = object.__new__(cls)
        job.__dict__.update(_id=job_id, connection=connection, serializer=serializer, _sent=sent)
        return job

    def __getattr__(self, name: str) -> Any:  # called for attributes that the instance does not have
        if name.startswith("__") or "_sent" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._full(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._full(), name, value)

    def __repr__(self) -> str:
        return f"Job({self._id!r})"

    def refresh(self) -> None:
        self.__dict__["_sent"] = None  # the store may have other fields by now than those that were sent
        self._full()

    def _full(self) -> Job:
        known = self.__dict__
        fields = known["_sent"] or self.connection.hgetall(keys.job(known["_id"]))
        if not fields:
            raise NoSuchJobError(f"No such job: {keys.job(known['_id'])}")
        object.__setattr__(self, "__class__", Job)  # from here on attribute access costs nothing extra
        known.pop("_sent")
        Job.__init__(self, known["_id"], known["connection"], known["serializer"])
        Job.restore(self, fields)
        return self
