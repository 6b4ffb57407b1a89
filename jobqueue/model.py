"""The values that the read side returns: frozen, named as on the command line. Times are aware datetimes (UTC)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from jobqueue.errors import JobError


@dataclass(frozen=True)
class Outcome:
    """How a job ended: its value, or the error that says why there is none."""

    job_id: str
    value: Any = None
    error: JobError | None = None

    def get(self) -> Any:
        """Return the value or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


@dataclass(frozen=True)
class JobView:
    """All that is known of a job. Nothing here was unpickled: what only a pickle could tell is None."""

    id: str
    status: str
    queue: str
    description: str
    format: str  # json, pickle, or unknown: written by a serializer of the user's own
    function: str | None
    args: list[Any] | None
    kwargs: dict[str, Any] | None
    position: int | None  # in the queue, 0 is next; None: not waiting in it
    worker: str | None
    created_at: datetime | None
    enqueued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    last_heartbeat: datetime | None
    scheduled_for: datetime | None
    expires_in: float | None  # seconds until the store forgets the job; None: never
    timeout: int | None
    ttl: int | None
    result_ttl: int | None
    failure_ttl: int | None
    retries_left: int | None
    on_crash: str | None
    crashes: int
    redelivered: int
    depends_on: list[str] = field(default_factory=list)
    allow_failure: bool = False  # the job runs even if one that it depends on has failed
    # For a deferred job: each job that it depends on → that job's status.
    waits_for: dict[str, str] = field(default_factory=dict)
    meta: Any = None
    has_result: bool = False
    result: Any = None
    traceback: str | None = None


@dataclass(frozen=True)
class QueueView:
    """A queue and its numbers of jobs by state. ``claimed``: held by a worker and not marked as started."""

    name: str
    queued: int
    claimed: int
    started: int
    finished: int
    failed: int
    scheduled: int
    deferred: int
    canceled: int
    paused: bool


@dataclass(frozen=True)
class WorkerView:
    """A worker as it registered itself. heartbeat_age: seconds by this machine's clock."""

    name: str
    state: str
    queues: list[str]
    hostname: str | None
    pid: int | None
    running: int
    done: int
    failed: int
    working_time: float
    heartbeat_age: float | None
    slots: int | None = None  # jobs that it can run at a time; None: it does not say


@dataclass(frozen=True)
class Overview:
    """All queues and workers at one moment."""

    queues: list[QueueView]
    workers: list[WorkerView]
    suspended: bool
    paused: list[str]


@dataclass(frozen=True)
class WaitingJob:
    """A job that waits in a queue; position 0 is next."""

    id: str
    queue: str
    position: int
    enqueued_at: datetime | None
    description: str


@dataclass(frozen=True)
class FailedJob:
    """A line of the list of failed jobs."""

    id: str
    queue: str
    description: str
    ended_at: datetime | None
    error: str
