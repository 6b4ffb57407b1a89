"""The read side of schedules, and their end: stored ones, cron entries, delayed jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis

from jobqueue import keys
from jobqueue.errors import JobError, NoSuchJob
from jobqueue.job import Job
from jobqueue.protocol import queue_names
from jobqueue.serializers import JSON, decompress
from jobqueue.timing import Timing


@dataclass(frozen=True)
class ScheduleView:
    """A schedule, a cron entry or a delayed job. Times are aware datetimes (UTC)."""

    id: str
    kind: str  # every | cron | once
    queue: str
    description: str
    next: datetime | None  # None: an entry of a cron file that nobody serves now
    every: float | None = None
    cron: str | None = None
    tz: str | None = None
    name: str | None = None
    function: str | None = None  # None with args and kwargs: a pickle, which is not opened
    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None
    overlap: bool = True
    last: datetime | None = None
    last_job: str | None = None
    runs: int = 0
    skipped: int = 0
    source: str | None = None  # the cron file

    def pause(self, now: float, ahead: float) -> tuple[datetime, datetime] | None:
        """Return between which two times it pauses because the clocks are set back, if they are so soon; see Timing."""
        if self.next is None or not self.cron:
            return None
        found = Timing(cron=self.cron, tz=self.tz or "").pause(now, ahead)
        return (_time(found[0]), _time(found[1])) if found else None

    def when(self) -> str:
        return "once" if self.kind == "once" else Timing(self.every or 0.0, self.cron or "", self.tz or "").describe()


class Schedules:
    """Reads and deletes over one client."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def recurring(self) -> list[ScheduleView]:
        """Return the stored schedules and the entries of cron files, the next to come first."""
        with self._client.pipeline(transaction=False) as pipe:
            pipe.zrange(keys.SCHEDULES, 0, -1, withscores=True)
            pipe.zrange(keys.CRON_ENTRIES, 0, -1, withscores=True)
            pipe.exists(keys.CRON_LEADER)
            stored, entries, led = pipe.execute()
        found = [(schedule_id.decode(), score) for schedule_id, score in [*stored, *entries]]
        with self._client.pipeline(transaction=False) as pipe:
            for schedule_id, _ in found:
                pipe.hgetall(keys.schedule(schedule_id))
                pipe.hmget(keys.schedule_job(schedule_id), "data", "description")
            read = pipe.execute()
        views = [_view(*found[i], bool(led), read[2 * i], read[2 * i + 1]) for i in range(len(found)) if read[2 * i]]
        return sorted(views, key=lambda view: view.next or datetime.max.replace(tzinfo=UTC))

    def delayed(self, most: int, queue: str | None = None) -> tuple[list[ScheduleView], int]:
        """Return the delayed jobs that come next, ``most`` of them, and how many there are in all."""
        known: Any = self._client.smembers(keys.QUEUES)
        names = queue_names(known) if queue is None else [queue]
        with self._client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.zrange(keys.registry("scheduled", name), 0, most - 1, withscores=True)
                pipe.zcard(keys.registry("scheduled", name))
            read = pipe.execute()
        nearest = sorted(
            (score, job_id.decode(), name) for i, name in enumerate(names) for job_id, score in read[2 * i]
        )[:most]
        with self._client.pipeline(transaction=False) as pipe:
            for _, job_id, _ in nearest:
                pipe.hmget(keys.job(job_id), "data", "description")
            hashes = pipe.execute()
        views = [
            ScheduleView(job_id, "once", origin, _described(fields[1]), _time(score), **_called(fields[0]))
            for (score, job_id, origin), fields in zip(nearest, hashes, strict=True)
        ]
        return views, sum(read[1::2])

    def delete(self, schedule_id: str) -> str:
        """Delete a schedule, a cron entry that nobody serves, or a delayed job; return which it was. Jobs that it has
        made stay. Raises NoSuchJob, JobError."""
        with self._client.pipeline(transaction=False) as pipe:
            pipe.zscore(keys.SCHEDULES, schedule_id)
            pipe.zscore(keys.CRON_ENTRIES, schedule_id)
            pipe.exists(keys.CRON_LEADER)
            pipe.hget(keys.schedule(schedule_id), "source")
            stored, entry, led, source = pipe.execute()
        if stored is None and entry is None:
            return self._delete_delayed(schedule_id)
        if stored is None and led:
            raise JobError(f"{schedule_id} stands in the cron file {source.decode()}: take it out there.", schedule_id)
        with self._client.pipeline() as pipe:  # a tick that comes later finds that it is gone
            pipe.zrem(keys.SCHEDULES if stored is not None else keys.CRON_ENTRIES, schedule_id)
            pipe.delete(keys.schedule(schedule_id), keys.schedule_job(schedule_id))
            pipe.execute()
        return "schedule" if stored is not None else "cron entry"

    def _delete_delayed(self, job_id: str) -> str:
        gone = NoSuchJob(f"There is no schedule and no delayed job {job_id}; jobq schedule list has them.", job_id)
        with self._client.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(keys.job(job_id))  # whoever enqueues it meanwhile changes it
                    raw: Any = pipe.hgetall(keys.job(job_id))
                    if raw.get(b"status") != b"scheduled":
                        raise gone
                    job = Job(job_id, self._client, JSON)  # nothing is unpickled
                    job.restore({name: value for name, value in raw.items() if name != b"meta"})
                    pipe.multi()
                    job.delete(pipeline=pipe)
                    pipe.execute()
                    return "delayed job"
                except redis.WatchError:
                    continue


def _view(schedule_id: str, score: float, led: bool, raw: Mapping[bytes, bytes], fields: Any) -> ScheduleView:
    text = {name.decode(): value.decode() for name, value in raw.items()}
    source = text.get("source") or None
    last = text.get("last")
    return ScheduleView(
        id=schedule_id,
        kind="every" if text.get("every") else "cron",
        queue=text["queue"],
        description=_described(fields[1]),
        next=_time(score) if led or not source else None,
        every=float(text["every"]) if text.get("every") else None,
        cron=text.get("cron") or None,
        tz=text.get("tz") or None,
        name=text.get("name"),
        **_called(fields[0]),
        overlap=text.get("overlap") != "no",
        last=_time(float(last)) if last else None,
        last_job=text.get("last_job"),
        runs=int(text.get("runs", 0)),
        skipped=int(text.get("skipped", 0)),
        source=source,
    )


def _described(description: bytes | None) -> str:
    return (description or b"(gone)").decode(errors="replace")


def _called(data: bytes | None) -> dict[str, Any]:
    """Function, args and kwargs of JSON data; nothing of a pickle."""
    try:
        function, _, args, kwargs = json.loads(decompress(data)) if data else (None,) * 4
    except ValueError:
        return {}
    return {"function": function, "args": args, "kwargs": kwargs}


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
