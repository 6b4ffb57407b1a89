"""List and delete schedules: stored ones, cron entries, delayed jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import redis

from jobqueue.errors import JobError, NoSuchJob
from jobqueue.job import Job
from jobqueue.protocol import keys
from jobqueue.protocol.protocol import queue_names
from jobqueue.schedules.view import ScheduleView, delayed_view, view_of
from jobqueue.serializers import JSON

__all__ = ["ScheduleView", "Schedules"]


class Schedules:
    """Reads and deletes schedules over one client."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def recurring(self) -> list[ScheduleView]:
        """Return the stored schedules and the entries of cron files, the next one first; at the end those with a
        problem, which no worker enqueues."""
        with self._client.pipeline(transaction=False) as pipe:
            pipe.zrange(keys.SCHEDULES, 0, -1, withscores=True)
            pipe.zrange(keys.CRON_ENTRIES, 0, -1, withscores=True)
            pipe.exists(keys.CRON_LEADER)
            stored, entries, led = pipe.execute()
        found = [(_text(schedule_id), score) for schedule_id, score in [*stored, *entries]]
        with self._client.pipeline(transaction=False) as pipe:
            for schedule_id, _ in found:
                pipe.hgetall(_raw(keys.schedule(schedule_id)))
                pipe.hmget(_raw(keys.schedule_job(schedule_id)), "data", "description")
            read: list[Any] = pipe.execute(raise_on_error=False)
        views = [view_of(*found[i], bool(led), read[2 * i], read[2 * i + 1]) for i in range(len(found))]
        return sorted(views, key=lambda view: view.next or datetime.max.replace(tzinfo=UTC))

    def delayed(self, most: int, queue: str | None = None) -> tuple[list[ScheduleView], int]:
        """Return the ``most`` delayed jobs that come next, and how many there are in all."""
        known: Any = self._client.smembers(keys.QUEUES)
        names = queue_names(known) if queue is None else [queue]
        with self._client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.zrange(keys.registry("scheduled", name), 0, most - 1, withscores=True)
                pipe.zcard(keys.registry("scheduled", name))
            read: list[Any] = _without_errors(pipe.execute(raise_on_error=False))
        nearest = sorted(
            (score, _text(job_id), name) for i, name in enumerate(names) for job_id, score in read[2 * i] or ()
        )
        nearest = nearest[:most]
        with self._client.pipeline(transaction=False) as pipe:
            for _, job_id, _ in nearest:
                pipe.hmget(_raw(keys.job(job_id)), "data", "description")
            hashes = pipe.execute(raise_on_error=False)
        views = [
            delayed_view(job_id, origin, score, fields)
            for (score, job_id, origin), fields in zip(nearest, hashes, strict=True)
        ]
        return views, sum(count or 0 for count in read[1::2])

    def delete(self, schedule_id: str) -> str:
        """Delete a schedule, a cron entry that no worker serves, or a delayed job; return which of these it was. Jobs
        that it has enqueued stay. Raises NoSuchJob, JobError."""
        with self._client.pipeline(transaction=False) as pipe:
            pipe.zscore(keys.SCHEDULES, _raw(schedule_id))
            pipe.zscore(keys.CRON_ENTRIES, _raw(schedule_id))
            pipe.exists(keys.CRON_LEADER)
            pipe.hmget(_raw(keys.schedule(schedule_id)), "source", "name")
            stored, entry, led, fields = _without_errors(pipe.execute(raise_on_error=False))
        if stored is None and entry is None:
            return self._delete_delayed(schedule_id)
        source, name = fields or (None, None)
        if stored is None and led and source is not None:
            raise JobError(f"{schedule_id} stands in the cron file {_text(source)}: take it out there.", schedule_id)
        name = _raw(schedule_id) if name is None else name  # as in TICK
        shared = self._is_shared(name, _raw(schedule_id))
        with self._client.pipeline() as pipe:  # a TICK that comes later finds no schedule
            pipe.zrem(keys.SCHEDULES if stored is not None else keys.CRON_ENTRIES, _raw(schedule_id))
            pipe.delete(_raw(keys.schedule(schedule_id)), _raw(keys.schedule_job(schedule_id)))
            if not shared:  # RQ's keys about it would stay for a year
                pipe.zrem(keys.CRON_NAMES, name)
                pipe.delete(_raw(keys.cron_history(_text(name))))
            pipe.execute(raise_on_error=False)  # a key of another type is not part of it; the rest is deleted
        return "schedule" if stored is not None else "cron entry"

    def _is_shared(self, name: bytes, schedule_id: bytes) -> bool:
        """Return whether another schedule has this name. A schedule without a given name has its id as its name, which
        is unique."""
        if name == schedule_id:
            return False
        with self._client.pipeline(transaction=False) as pipe:
            pipe.zrange(keys.SCHEDULES, 0, -1)
            pipe.zrange(keys.CRON_ENTRIES, 0, -1)
            others = {one for ids in _without_errors(pipe.execute(raise_on_error=False)) for one in ids or ()}
        with self._client.pipeline(transaction=False) as pipe:
            for one in others - {schedule_id}:
                pipe.hget(_raw(keys.schedule(_text(one))), "name")
            return name in pipe.execute(raise_on_error=False)

    def _delete_delayed(self, job_id: str) -> str:
        gone = NoSuchJob(f"There is no schedule and no delayed job {job_id}; jobq schedule list has them.", job_id)
        kind: Any = self._client.type(_raw(keys.job(job_id)))
        if kind not in (b"hash", b"none") and self._forget_delayed(job_id):
            return "delayed job"
        with self._client.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(keys.job(job_id))  # a worker that enqueues it meanwhile changes it
                    raw: Any = pipe.hgetall(keys.job(job_id))
                    if raw.get(b"status") != b"scheduled":
                        raise gone
                    job = Job(job_id, self._client, JSON)  # JSON, so that nothing is unpickled
                    job.restore({name: value for name, value in raw.items() if name != b"meta"})
                    pipe.multi()
                    job.delete(pipeline=pipe)
                    pipe.execute()
                    return "delayed job"
                except redis.WatchError:
                    continue

    def _forget_delayed(self, job_id: str) -> bool:
        """Remove an id from RQ's registries when no job exists for it; return whether it was there."""
        known: Any = self._client.smembers(keys.QUEUES)
        with self._client.pipeline(transaction=False) as pipe:
            for name in queue_names(known):
                pipe.zrem(keys.registry("scheduled", name), _raw(job_id))
            return any(reply == 1 for reply in pipe.execute(raise_on_error=False))


def _text(name: bytes) -> str:
    """Return any bytes as text, from which ``_raw`` restores them."""
    return name.decode(errors="surrogateescape")


def _raw(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def _without_errors(replies: list[Any]) -> list[Any]:
    """Return the replies with None in the place of errors from keys of another type."""
    return [None if isinstance(reply, redis.ResponseError) else reply for reply in replies]
