"""Read queues, workers and jobs without changing anything.

RQ's own ``count`` and ``rq info`` clean registries up while they read, which moves jobs. Here nothing is written, and
nothing is unpickled: a pickled job shows its description and its format.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from jobqueue.admin.fields import counts, job_view, text_of, time_of, traceback_of, waiting_job, worker_view
from jobqueue.errors import NoSuchJob
from jobqueue.model import FailedJob, JobView, Overview, QueueView, WaitingJob, WorkerView
from jobqueue.protocol import keys
from jobqueue.protocol.protocol import queue_names
from jobqueue.results.waiter import last_line
from jobqueue.store.connection import redis

PAGE = 500  # jobs read per round trip
_EXPIRING = ("finished", "failed")  # registries whose members have an expiry as their score; RQ cleans them up late


class Inspector:
    """Reads jobs, queues and workers over one client."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    # -- one job ---------------------------------------------------------------------------------------------------

    def job(self, job_id: str) -> JobView:
        """Return all that is known of a job. Raises NoSuchJob."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.hgetall(keys.job(job_id))
            pipe.pttl(keys.job(job_id))
            pipe.xrevrange(keys.results(job_id), count=1)
            fields, ttl, entries = pipe.execute(raise_on_error=False)
        if isinstance(fields, Exception) and "WRONGTYPE" in str(fields):
            raise NoSuchJob(f"There is no job {job_id}: its key holds something else, which no queue wrote.", job_id)
        for reply in (fields, ttl):
            if isinstance(reply, Exception):
                raise reply
        if b"data" not in fields:
            raise NoSuchJob(f"There is no job {job_id}: never enqueued, deleted, or expired.", job_id)
        queue, status = text_of(fields, b"origin") or "", text_of(fields, b"status") or "created"
        with self._client.pipeline(transaction=False) as pipe:
            pipe.lpos(keys.queue(queue), job_id)
            pipe.zscore(keys.registry("scheduled", queue), job_id)
            found = pipe.execute(raise_on_error=False)  # a key of another type has no position for it
        position, scheduled = (None if isinstance(place, Exception) else place for place in found)
        entries = [] if isinstance(entries, Exception) else entries
        view = job_view(job_id, status, queue, fields, ttl, entries, position, scheduled)
        return replace(view, waits_for=self._states(view.depends_on)) if status == "deferred" else view

    def _states(self, job_ids: Sequence[str]) -> dict[str, str]:
        """Return the status of each job; "gone" for a job that does not exist."""
        with self._client.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hget(keys.job(job_id), "status")
            found = pipe.execute(raise_on_error=False)
        return {
            job_id: state.decode(errors="replace") if isinstance(state, bytes) else "gone"
            for job_id, state in zip(job_ids, found, strict=True)
        }

    # -- everything ------------------------------------------------------------------------------------------------

    def overview(self) -> Overview:
        """Return all queues and workers, and what is paused."""
        with self._client.pipeline(transaction=False) as pipe:
            pipe.smembers(keys.QUEUES)
            pipe.smembers(keys.WORKERS)
            pipe.smembers(keys.PAUSED)
            pipe.exists(keys.SUSPENDED)
            queues, workers, paused, suspended = pipe.execute()
        halted = sorted(name.decode(errors="replace") for name in paused)
        names = sorted({*queue_names(queues), *halted})
        return Overview(self._queues(names, halted), self._workers(workers), bool(suspended), halted)

    def _queues(self, names: Sequence[str], paused: Sequence[str]) -> list[QueueView]:
        now = time.time()
        with self._client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.llen(keys.queue(name))
                pipe.llen(keys.intermediate(name))
                pipe.zcard(keys.registry("wip", name))
                for kind in _EXPIRING:
                    pipe.zcount(keys.registry(kind, name), now, "+inf")
                for kind in ("canceled", "scheduled", "deferred"):
                    pipe.zcard(keys.registry(kind, name))
                pipe.zcount(keys.registry("failed", name), "-inf", "(0")  # RQ's score of jobs that are kept for ever
            n = counts(pipe.execute(raise_on_error=False))
        return [
            QueueView(
                name,
                queued=n[i],
                claimed=n[i + 1],
                started=n[i + 2],
                finished=n[i + 3],
                failed=n[i + 4] + n[i + 8],
                canceled=n[i + 5],
                scheduled=n[i + 6],
                deferred=n[i + 7],
                paused=name in paused,
            )
            for i, name in zip(range(0, len(n), 9), names, strict=True)
        ]

    def _workers(self, worker_keys: set[bytes]) -> list[WorkerView]:
        names = sorted(key.decode(errors="replace")[len(keys.worker("")) :] for key in worker_keys)
        with self._client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(keys.worker(name))
                pipe.scard(keys.worker_executions(name))
            read = pipe.execute(raise_on_error=False)  # the executions key had another type in earlier versions of RQ
        return [
            worker_view(name, read[2 * i], read[2 * i + 1])
            for i, name in enumerate(names)
            if isinstance(read[2 * i], dict) and read[2 * i]
        ]

    def worker(self, name: str) -> WorkerView | None:
        """Return what this worker registered; None: it is not registered."""
        found = self._workers({keys.worker(name).encode()})
        return found[0] if found else None

    # -- waiting jobs ----------------------------------------------------------------------------------------------

    def waiting(self, queue: str | None = None, most: int = 100, newest: bool = False) -> tuple[list[WaitingJob], int]:
        """Return up to ``most`` jobs that wait in the queue (None: in all, one queue after the other), and how many
        wait in all. The next to run comes first; with ``newest`` the one that runs last."""
        names = [queue] if queue is not None else self.queue_names()
        with self._client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.llen(keys.queue(name))
            lengths = counts(pipe.execute(raise_on_error=False))
        jobs: list[WaitingJob] = []
        for name, length in zip(names, lengths, strict=True):
            left = most - len(jobs)
            if left > 0 and length:
                jobs += self._waiting_in(name, max(0, length - left) if newest else 0, left, newest)
        return jobs, sum(lengths)

    def _waiting_in(self, queue: str, first: int, count: int, newest: bool) -> list[WaitingJob]:
        ids: Any = self._client.lrange(keys.queue(queue), first, first + count - 1)
        jobs: list[WaitingJob] = []
        for at in range(0, len(ids), PAGE):
            page = [job_id.decode(errors="replace") for job_id in ids[at : at + PAGE]]
            with self._client.pipeline(transaction=False) as pipe:
                for job_id in page:
                    pipe.hmget(keys.job(job_id), "description", "enqueued_at")
                read = pipe.execute(raise_on_error=False)  # an error for one key must not hide the others
            for i, (job_id, fields) in enumerate(zip(page, read, strict=True)):
                jobs.append(waiting_job(job_id, queue, first + at + i, fields))
        return jobs[::-1] if newest else jobs

    # -- failed jobs -----------------------------------------------------------------------------------------------

    def queue_names(self) -> list[str]:
        members: Any = self._client.smembers(keys.QUEUES)
        return sorted(queue_names(members))

    def failed_ids(self, queue: str | None = None) -> Iterator[tuple[str, str]]:
        """Iterate over (queue, id) of the failed jobs, in no order, some perhaps twice. They may be requeued during the
        iteration."""
        for name in [queue] if queue is not None else self.queue_names():
            key, now = keys.registry("failed", name), time.time()
            if self._client.type(key) != b"zset":  # missing, or of another type, which a worker moves aside
                continue
            for job_id, expires in self._client.zscan_iter(key, count=PAGE):
                if expires > now or expires < 0:  # a negative score is RQ's mark of a job that is kept for ever
                    yield name, job_id.decode(errors="replace")

    def failed(self, queue: str | None = None, most: int = 100) -> list[FailedJob]:
        """Return the failed jobs that ended last, the latest first."""
        found: list[FailedJob] = []
        page: list[tuple[str, str]] = []
        for pair in self.failed_ids(queue):
            page.append(pair)
            if len(page) == PAGE:
                found = _latest(found + self._failed_page(page), most)
                page = []
        return _latest(found + self._failed_page(page), most)

    def _failed_page(self, page: Sequence[tuple[str, str]]) -> list[FailedJob]:
        with self._client.pipeline(transaction=False) as pipe:
            for _, job_id in page:
                pipe.hmget(keys.job(job_id), "description", "ended_at", "exc_info")
                pipe.xrevrange(keys.results(job_id), count=1)
            read = pipe.execute()
        jobs = []
        for i, (queue, job_id) in enumerate(page):
            (description, ended_at, exc_info), entries = read[2 * i], read[2 * i + 1]
            trace = traceback_of(exc_info, entries)
            text = description.decode(errors="replace") if description is not None else "(expired)"
            jobs.append(FailedJob(job_id, queue, text, time_of(ended_at), last_line(trace or "")))
        return jobs


def _latest(jobs: list[FailedJob], most: int) -> list[FailedJob]:
    beginning = datetime.min.replace(tzinfo=UTC)
    once = {job.id: job for job in jobs}  # a scan may return a member twice
    return sorted(once.values(), key=lambda job: job.ended_at or beginning, reverse=True)[:most]
