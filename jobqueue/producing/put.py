"""Store a job that was made as an object, or a schedule, in one request that may be repeated."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime
from typing import Literal

import rq.job
from rq.job import JobStatus

from jobqueue.producing.enqueue import AlreadyThere, Submit
from jobqueue.protocol import bounds
from jobqueue.protocol.protocol import Protocol
from jobqueue.schedules.timetable import Schedule, Timetable

IfThere = Literal["refuse", "replace", ""]


def put_job(submit: Submit, job: rq.job.Job, how: str | int, if_there: IfThere) -> rq.job.Job:
    """Store a job and its place, and return it with its new status. Raises AlreadyThere.

    how: "L" or "R", the end of the queue, or the time when it is due, in seconds since the epoch. if_there: what to do
    about an existing job with its id; "" if there is none to check for (it is this job, or RQ's own code checks).
    """
    fields = {name: value for name, value in job.to_dict().items() if value is not None}
    flat = [part if isinstance(part, bytes) else str(part) for pair in fields.items() for part in pair]
    others = list(job._dependency_ids)
    ttl, lenient = "" if job.ttl is None else job.ttl, "1" if job.allow_dependency_failures else ""
    protocol = Protocol(submit.client)
    args = (job.origin, how, if_there, ttl, lenient, len(others), *others, *flat)
    status = submit.retry_request(lambda number: protocol.put(submit.mark, number, job.id, *args))
    if status == "there":
        raise AlreadyThere(f"Job with ID '{job.id}' already exists.")
    if status == "held":
        raise AlreadyThere(f"A worker runs job {job.id} now: enqueue it when that has ended, or under another id.")
    job._status = JobStatus(status)
    return job


def put_schedule(submit: Submit, plan: Schedule, first: datetime | None, mode: str) -> None:
    """Store a schedule; see ``Timetable.put`` for the modes. first: its first time, None for the timing's own."""
    timetable = Timetable(submit.client)

    def attempt(number: int) -> None:
        begin = plan.timing.first(timetable.now()) if first is None else first.timestamp()
        timetable.put(plan, begin, mode, submit.mark, number)

    submit.retry_request(attempt)


def due(moment: datetime) -> int:
    """Return the second of the epoch in which a job for this time is due."""
    return calendar.timegm(moment.astimezone(UTC).utctimetuple())


def check_made_by_hand(job: rq.job.Job, unique: bool) -> None:
    """Raise BadValue for fields that no worker could accept; ValueError for unique without an id."""
    if unique and not job._id:  # reading job.id would give it one
        raise ValueError("unique=True requires an explicit job_id")
    bounds.of_job(job)
