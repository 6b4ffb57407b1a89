"""Give jobs what ``rq.get_current_job()`` returns: an RQ job that is read from Redis at its first use.

Most jobs never use it, and reading it costs 43 us and a round trip: so it starts as an id and a connection. In RQ, the
worker finishes this same object afterwards, so what a job sets on it (``result_ttl``, ``repeats_left``, ...) counts
even if the job does not save it. Here ``settled_by_rq`` says whether something was set, and ``changes`` what.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import redis
from rq.job import Job, JobStatus

from jobqueue.clock import now
from jobqueue.protocol.hashes import check_written, readable
from jobqueue.workers.running.own_classes import on_top

# The attributes that RQ's finish reads or writes. Not meta: RQ deliberately does not save it with an outcome.
_SETTLED = (
    *("result_ttl", "failure_ttl", "ttl", "description", "webhooks", "number_of_retries"),
    *("retries_left", "retry_intervals", "enqueue_at_front_on_retry", "repeats_left", "repeat_intervals"),
    *(f"_{when}_callback_{what}" for when in ("success", "failure", "stopped") for what in ("name", "timeout")),
)
# Our own attributes, and one that RQ uses as a cache: see CurrentJob.carried.
_NOT_CARRIED = {"_serializer_of", "_hydrated", "_as_read", "_runs_on", "_began", "_dependency"}


class CurrentJob(Job):
    """An RQ job that reads itself from Redis, once, when its first attribute is read or set."""

    # RQ reads a job's dependencies and dependents through its class: these are ordinary jobs.
    fetch = Job.fetch
    fetch_many = Job.fetch_many
    create = Job.create

    def __init__(
        self, job_id: str, connection: redis.Redis, worker: str, serializer_of: Callable[[bytes], Any]
    ) -> None:
        """serializer_of: returns the serializer of meta and results for a job's data."""
        known = self.__dict__
        known.update(_id=job_id, connection=connection, _serializer_of=serializer_of, _hydrated=False, _as_read={})
        known.update(_runs_on=worker, _began=now())

    def changes(self) -> dict[str, Any]:
        """Return the attributes that the job set on itself, for RQ's finish; and meta, which RQ writes with a retry."""
        if not self.__dict__["_as_read"]:
            return {}
        settled = _settled(self)
        changed = {name: value for name, value in settled.items() if value != self._as_read[name]}
        return {**changed, "meta": self.meta}

    def carried(self) -> dict[str, Any]:
        """Return what callbacks and exception handlers see of this job, which get the same object in RQ: ``changes``,
        attributes that the job or its class added, and arguments and time limit as the job left them."""
        if not self.__dict__["_as_read"]:
            return {}
        rqs = vars(Job(self.id, connection=self.connection)).keys() - {"timeout", "_args", "_kwargs"}
        stays = rqs | _NOT_CARRIED
        return {name: value for name, value in self.__dict__.items() if name not in stays} | self.changes()

    @property
    def settled_by_rq(self) -> bool:
        """Whether the job set an attribute on itself that RQ's finish reads."""
        return self.changes().keys() > {"meta"}

    def get_status(self, refresh: bool = True) -> JobStatus:
        """Return STARTED also in the job's first 50 ms, when its hash still says that it is queued."""
        status = super().get_status(refresh)
        return JobStatus.STARTED if status is JobStatus.QUEUED else status

    def to_dict(self, *args: Any, **options: Any) -> dict[str, Any]:
        written: dict[str, Any] = super().to_dict(*args, **options)
        check_written(written)
        return written

    def _hydrate(self) -> None:
        self.__dict__["_hydrated"] = True
        self._read()
        self.__dict__["_as_read"] = _settled(self)

    def _read(self) -> None:
        """Read the job as RQ's worker has prepared it: started, here, at the time of this run. Before the start mark
        the store has no start, or that of an earlier run."""
        known = self.__dict__
        job_id, connection, worker = known["_id"], known["connection"], known["_runs_on"]
        began = datetime.fromtimestamp(known["_began"], UTC)
        raw = connection.hgetall(self.key_for(job_id))
        serializer = known["_serializer_of"](raw.get(b"data", b""))
        super().__init__(job_id, connection=connection, serializer=serializer)
        self.restore(readable(raw))
        marked = self._status is JobStatus.STARTED and self.worker_name == worker
        self._status, self.worker_name = JobStatus.STARTED, worker
        self.started_at = (marked and self.started_at) or began
        self.last_heartbeat = (marked and self.last_heartbeat) or began

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other.id == self._id

    def __hash__(self) -> int:
        return hash(self._id)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self.__dict__.get("_hydrated", True):
            raise AttributeError(name)
        self._hydrate()
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not self.__dict__["_hydrated"]:
            self._hydrate()
        super().__setattr__(name, value)


def current_of(job_class: type[Job]) -> type[CurrentJob]:
    """Return CurrentJob with the attributes and methods of the user's job class."""
    if issubclass(CurrentJob, job_class):
        return CurrentJob
    readers = {name: getattr(job_class, name) for name in ("fetch", "fetch_many", "create")}
    return on_top(CurrentJob, job_class, **readers)


def _settled(job: Job) -> dict[str, Any]:
    """Return the attributes that RQ's finish reads; lists are copied, as a job may change them in place."""
    values = {name: getattr(job, name) for name in _SETTLED}
    return {name: list(value) if isinstance(value, list) else value for name, value in values.items()}
