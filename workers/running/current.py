"""What ``rq.get_current_job()`` returns inside a job: a real RQ job that is read from Redis when somebody looks at it.

Most jobs never look (reading one costs 43 us and a round trip), so it starts as an id and a connection. In RQ it is the
very object that the worker finishes afterwards: what a job sets on it (``result_ttl``, ``repeats_left``, ...) counts,
saved or not. Here ``settled_by_rq`` tells that something was set, and ``changes`` what.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import redis
from rq.job import Job, JobStatus

from jobqueue.protocol.hashes import check_written, readable
from jobqueue.workers.running.own_classes import on_top

# What RQ's finish looks at or writes down. Not meta: RQ does not save it with a success or a failure, on purpose.
_SETTLED = (
    *("result_ttl", "failure_ttl", "ttl", "description", "webhooks", "number_of_retries"),
    *("retries_left", "retry_intervals", "enqueue_at_front_on_retry", "repeats_left", "repeat_intervals"),
    *(f"_{when}_callback_{what}" for when in ("success", "failure", "stopped") for what in ("name", "timeout")),
)
# Ours, and a cache of RQ's: see CurrentJob.carried.
_NOT_CARRIED = {"_serializer_of", "_hydrated", "_as_read", "_runs_on", "_began", "_dependency"}


class CurrentJob(Job):
    """An RQ job that hydrates itself at the first attribute that is read or set, once."""

    # Whom RQ reads through this class (its dependencies, its dependents) is an ordinary job.
    fetch = Job.fetch
    fetch_many = Job.fetch_many
    create = Job.create

    def __init__(
        self, job_id: str, connection: redis.Redis, worker: str, serializer_of: Callable[[bytes], Any]
    ) -> None:
        """serializer_of: of a job's data, the format of its meta and results."""
        known = self.__dict__
        known.update(_id=job_id, connection=connection, _serializer_of=serializer_of, _hydrated=False, _as_read={})
        known.update(_runs_on=worker, _began=datetime.now(UTC))

    def changes(self) -> dict[str, Any]:
        """What the job set on itself, for RQ's finish; meta too, which RQ writes down with a retry."""
        if not self.__dict__["_as_read"]:
            return {}
        now = _settled(self)
        changed = {name: value for name, value in now.items() if value != self._as_read[name]}
        return {**changed, "meta": self.meta}

    def carried(self) -> dict[str, Any]:
        """What callbacks and handlers see of it, as in RQ, where theirs is the same object: the changes, attributes
        that the job or its class put on it, and its arguments and time limit as the job left them."""
        if not self.__dict__["_as_read"]:
            return {}
        rqs = vars(Job(self.id, connection=self.connection)).keys() - {"timeout", "_args", "_kwargs"}
        stays = rqs | _NOT_CARRIED
        return {name: value for name, value in self.__dict__.items() if name not in stays} | self.changes()

    @property
    def settled_by_rq(self) -> bool:
        """It set something on itself that RQ's finish looks at."""
        return self.changes().keys() > {"meta"}

    def get_status(self, refresh: bool = True) -> JobStatus:
        """Seen from inside, a job is running, also in its first 5 ms when that does not stand in Redis yet."""
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
        """As RQ's worker has prepared it: running, here and since now, also while the start is not marked yet and an
        earlier run stands in the store."""
        known = self.__dict__
        job_id, connection, worker, began = known["_id"], known["connection"], known["_runs_on"], known["_began"]
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
    """CurrentJob, with the attributes and methods of the user's job class."""
    if issubclass(CurrentJob, job_class):
        return CurrentJob
    readers = {name: getattr(job_class, name) for name in ("fetch", "fetch_many", "create")}
    return on_top(CurrentJob, job_class, **readers)


def _settled(job: Job) -> dict[str, Any]:
    """Lists are copied: a job may change them in place."""
    values = {name: getattr(job, name) for name in _SETTLED}
    return {name: list(value) if isinstance(value, list) else value for name, value in values.items()}
