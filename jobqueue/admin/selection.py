"""Choose jobs by queue, task, error and age. What a choice finds comes page by page: memory does not grow with it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from jobqueue.admin.fields import call_of, time_of, traceback_of
from jobqueue.admin.inspector import PAGE, Inspector
from jobqueue.pages import pages
from jobqueue.protocol import keys
from jobqueue.results.waiter import last_line
from jobqueue.store.connection import redis

_FIELDS = ("status", "description", "data", "ended_at", "enqueued_at", "created_at", "exc_info")


@dataclass(frozen=True)
class Selection:
    """Which jobs are meant: all to which everything applies that is given."""

    queue: str | None = None
    task: str = ""  # the path of the function, or its end: "shop.tasks.resize", "shop.tasks:resize" or "resize"
    error: str = ""  # a part of the last line of the traceback (class and text), in upper or lower case
    older_than: float | None = None  # seconds since a failed job has ended, since another one was enqueued
    newer_than: float | None = None  # seconds

    @property
    def reads_jobs(self) -> bool:
        """Whether a job has to be read to know whether it is meant."""
        return bool(self.task or self.error) or self.older_than is not None or self.newer_than is not None

    def meets(self, job: Chosen, now: float) -> bool:
        """Return whether the job is meant. now: seconds since the epoch."""
        if self.task and not _names(job.task, self.task.replace(":", ".")):
            return False
        if self.error and self.error.casefold() not in job.error.casefold():
            return False
        if self.older_than is None and self.newer_than is None:
            return True
        age = now - job.moment.timestamp() if job.moment else None
        if age is None:
            return False
        return (self.older_than is None or age > self.older_than) and (self.newer_than is None or age < self.newer_than)


class Chosen(NamedTuple):
    """A job as it is chosen by."""

    id: str
    queue: str
    description: str
    task: str
    error: str  # the last line of its traceback; "" for a job that has none
    moment: datetime | None  # when it ended, or was enqueued


class FoundPage(NamedTuple):
    """A page of jobs: how many were looked at, and which of them are meant."""

    seen: int
    ids: list[str]


def failed(client: redis.Redis, selection: Selection) -> Iterator[FoundPage]:
    """Iterate over the failed jobs that are meant, in no order. They may be requeued or deleted meanwhile."""
    pairs = Inspector(client).failed_ids(selection.queue)
    for page in pages(pairs, PAGE):
        yield _found(client, selection, page)


def waiting(client: redis.Redis, selection: Selection) -> Iterator[FoundPage]:
    """Iterate over the jobs that are meant and wait in a queue, for a time, or for other jobs: queue by queue, the last
    one first. They may be canceled meanwhile."""
    inspector = Inspector(client)
    for name in [selection.queue] if selection.queue is not None else inspector.queue_names():
        for page in pages(((name, job_id) for job_id in _waiting_ids(client, name)), PAGE):
            yield _found(client, selection, page)


def count(client: redis.Redis, selection: Selection, *, of_failed: bool) -> int:
    """Return among how many jobs a choice looks."""
    views = Inspector(client).overview().queues
    mine = [view for view in views if selection.queue in (None, view.name)]
    return sum(view.failed if of_failed else view.queued + view.scheduled + view.deferred for view in mine)


def read(client: redis.Redis, pairs: Sequence[tuple[str, str]]) -> list[Chosen]:
    """Read jobs, given as (queue, id); those that are gone are left out. Nothing is unpickled."""
    with client.pipeline(transaction=False) as pipe:
        for _, job_id in pairs:
            pipe.hmget(keys.job(job_id), *_FIELDS)
            pipe.xrevrange(keys.results(job_id), count=1)
        replies = pipe.execute(raise_on_error=False)  # a key of another type is no job
    jobs = []
    for (queue, job_id), fields, entries in zip(pairs, replies[::2], replies[1::2], strict=True):
        if isinstance(fields, list) and fields[0] is not None:
            jobs.append(_chosen(queue, job_id, fields, entries if isinstance(entries, list) else []))
    return jobs


def _chosen(queue: str, job_id: str, fields: Sequence[bytes | None], entries: Sequence[Any]) -> Chosen:
    status, description, data, ended_at, enqueued_at, created_at, exc_info = fields
    has_failed = status in (b"failed", b"stopped")
    text = (description or b"").decode(errors="replace")
    return Chosen(
        job_id,
        queue,
        text,
        str(call_of(data or b"")[0] or text.partition("(")[0]),
        last_line(traceback_of(exc_info, entries) or "") if has_failed else "",
        time_of(ended_at) if has_failed else time_of(enqueued_at) or time_of(created_at),
    )


def _names(path: str, task: str) -> bool:
    path = path.replace(":", ".")
    return path == task or path.endswith("." + task)


def _found(client: redis.Redis, selection: Selection, page: Sequence[tuple[str, str]]) -> FoundPage:
    if not selection.reads_jobs:
        return FoundPage(len(page), [job_id for _, job_id in page])
    now = time.time()
    return FoundPage(len(page), [job.id for job in read(client, page) if selection.meets(job, now)])


def _waiting_ids(client: redis.Redis, queue: str) -> Iterator[str]:
    """Read the queue from its end: what is canceled behind a place does not move the place. A job that workers push
    in front moves it by one, and may hide one job; one that they take shows one twice."""
    end: Any = _length(client, queue)
    while end > 0:
        first = max(0, end - PAGE)
        ids: Any = client.lrange(keys.queue(queue), first, end - 1)
        yield from (job_id.decode(errors="replace") for job_id in reversed(ids))
        end = first
    for kind in ("scheduled", "deferred"):
        if client.type(keys.registry(kind, queue)) == b"zset":
            for job_id, _ in client.zscan_iter(keys.registry(kind, queue), count=PAGE):
                yield job_id.decode(errors="replace")


def _length(client: redis.Redis, queue: str) -> Any:
    return client.llen(keys.queue(queue)) if client.type(keys.queue(queue)) == b"list" else 0
