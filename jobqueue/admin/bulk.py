"""Act on many jobs: requeue, delete, cancel or purge them in batches, beside workers that go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from jobqueue.admin import control
from jobqueue.errors import JobError
from jobqueue.protocol.protocol import Protocol
from jobqueue.store.connection import redis

BATCH = 50  # jobs per script, which then takes the store a millisecond
PAUSE = 1.5  # pause this many times as long as the batch before has taken: the store's core is the workers' too


class Done(NamedTuple):
    """What became of one job; error None: it was done."""

    id: str
    error: JobError | None


Act = Callable[[redis.Redis, Sequence[str]], list[Done]]


def requeue(client: redis.Redis, ids: Sequence[str]) -> list[Done]:
    """Put failed or stopped jobs back into their queues."""
    replies = Protocol(client).requeue_failed(ids)
    return [Done(job_id, control.why_not_requeued(job_id, reply)) for job_id, reply in zip(ids, replies, strict=True)]


def delete(client: redis.Redis, ids: Sequence[str]) -> list[Done]:
    """Delete failed or stopped jobs, their results and their output."""
    replies = Protocol(client).delete_failed(ids)
    pairs = zip(ids, replies, strict=True)
    return [Done(job_id, control.why_not_deleted(client, job_id, reply)) for job_id, reply in pairs]


def cancel(client: redis.Redis, ids: Sequence[str]) -> list[Done]:
    """Cancel jobs that wait."""
    replies = Protocol(client).cancel_waiting(ids)
    return [Done(job_id, control.why_not_canceled(job_id, *reply)) for job_id, reply in zip(ids, replies, strict=True)]


def in_batches(
    client: redis.Redis, act: Act, ids: Iterable[str], sleep: Callable[[float], object] = time.sleep
) -> Iterator[Done]:
    """Act on each job once, a batch at a time with a pause behind it. Who stops the iteration and begins anew later
    goes on where this ended, as what is done is not found any more."""
    batch: list[str] = []
    seen: set[str] = set()
    for job_id in ids:
        if job_id in seen:  # a scan may return an id twice
            continue
        seen.add(job_id)
        batch.append(job_id)
        if len(batch) == BATCH:
            took, done = _timed(client, act, batch)
            yield from done
            sleep(PAUSE * took)
            batch = []
    if batch:
        yield from act(client, batch)


def _timed(client: redis.Redis, act: Act, batch: Sequence[str]) -> tuple[float, list[Done]]:
    began = time.monotonic()
    done = act(client, batch)
    return time.monotonic() - began, done


def purge(client: redis.Redis, queue: str, most: int, sleep: Callable[[float], object] = time.sleep) -> Iterator[int]:
    """Delete the first ``most`` jobs that wait in the queue, and iterate over how many each batch had. Those that are
    claimed, delayed or wait for others stay."""
    protocol = Protocol(client)
    while most > 0:
        began = time.monotonic()
        number, left = protocol.purge(queue, min(BATCH, most))
        for job_id in left:
            control.delete_by_rq(client, job_id)
        if not number:
            return
        most -= number
        yield number
        sleep(PAUSE * (time.monotonic() - began))
