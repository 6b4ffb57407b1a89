"""The kinds of job in the long storm: each enqueues one or more jobs and yields what the store has acknowledged."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import rq
import samples_storm
from rq import Callback, Retry
from rq.job import Dependency

from jobqueue.admin import control
from jobqueue.errors import JobqError
from jobqueue.producing.queue import Queue

if TYPE_CHECKING:
    from storm_worlds import World

KEPT = 6 * 3600  # seconds that jobs are kept after their end, longer than the storm
Made = Iterator[tuple[str, list[str]]]  # ids that were acknowledged, with those that each depends on
OPTIONS: dict[str, Any] = {"result_ttl": KEPT, "failure_ttl": KEPT}


def plain(world: World, queue: Queue, base: str) -> Made:
    yield queue.enqueue(samples_storm.work, world.record, world.rng.uniform(0.0, 0.05), job_id=base, **OPTIONS).id, []


def long(world: World, queue: Queue, base: str) -> Made:
    yield queue.enqueue(samples_storm.work, world.record, world.rng.uniform(0.2, 2.0), job_id=base, **OPTIONS).id, []


def bulk(world: World, queue: Queue, base: str) -> Made:
    for job in queue.enqueue_many(samples_storm.work, [world.record] * 20, [0.001] * 20, **OPTIONS):
        yield job.id, []


def failing(world: World, queue: Queue, base: str) -> Made:
    yield queue.enqueue(samples_storm.fail, world.record, 0.01, job_id=base, **OPTIONS).id, []


def retried(world: World, queue: Queue, base: str) -> Made:
    told = {"retry": Retry(max=3, interval=world.rng.choice([0, 1])), "meta": {"retries": 3}, **OPTIONS}
    yield queue.enqueue(samples_storm.work, world.record, 0.01, 2, job_id=base, **told).id, []


def chain(world: World, queue: Queue, base: str) -> Made:
    before: list[str] = []
    for n in range(3):
        told = {"depends_on": before, **OPTIONS} if before else OPTIONS
        made = queue.enqueue(samples_storm.work, world.record, 0.02, job_id=f"{base}-{n}", **told)
        yield made.id, before
        before = [made.id]


def diamond(world: World, queue: Queue, base: str) -> Made:
    top = queue.enqueue(samples_storm.work, world.record, 0.02, job_id=f"{base}-0", **OPTIONS).id
    yield top, []
    sides = []
    for n in (1, 2):
        told = {"depends_on": [top], **OPTIONS}
        sides.append(queue.enqueue(samples_storm.work, world.record, 0.02, job_id=f"{base}-{n}", **told).id)
        yield sides[-1], [top]
    yield (
        queue.enqueue(samples_storm.work, world.record, 0.0, job_id=f"{base}-3", depends_on=sides, **OPTIONS).id,
        sides,
    )


def after_failure(world: World, queue: Queue, base: str) -> Made:
    parent = queue.enqueue(samples_storm.fail, world.record, 0.01, job_id=f"{base}-0", **OPTIONS).id
    yield parent, []
    allowed = {"depends_on": Dependency([parent], allow_failure=True), **OPTIONS}
    yield queue.enqueue(samples_storm.work, world.record, 0.0, job_id=f"{base}-1", **allowed).id, [parent]


def called_back(world: World, queue: Queue, base: str) -> Made:
    told = {"on_success": Callback(samples_storm.on_success), "on_failure": Callback(samples_storm.on_failure)}
    told |= {"meta": {"record": world.record}, **OPTIONS}  # type: ignore[dict-item]
    for n, function in enumerate((samples_storm.work, samples_storm.fail)):
        yield queue.enqueue(function, world.record, 0.01, job_id=f"{base}-{n}", **told).id, []


def unique(world: World, queue: Queue, base: str) -> Made:
    yield queue.enqueue(samples_storm.work, world.record, 0.01, job_id=base, unique=True, **OPTIONS).id, []
    with contextlib.suppress(JobqError):
        queue.enqueue(samples_storm.work, world.record, 0.01, job_id=base, unique=True, **OPTIONS)


def later(world: World, queue: Queue, base: str) -> Made:
    when = rq.utils.now() + rq.job.timedelta(seconds=world.rng.uniform(0.1, 3.0))
    yield queue.enqueue_at(when, samples_storm.work, world.record, 0.01, job_id=base, **OPTIONS).id, []


def canceled(world: World, queue: Queue, base: str) -> Made:
    job = queue.enqueue(samples_storm.work, world.record, 0.05, job_id=base, **OPTIONS)
    yield job.id, []
    time.sleep(world.rng.uniform(0.0, 0.1))
    how = world.rng.choice(["rq", "jobq"])
    # ValueError: RQ's, of an execution that has ended meanwhile
    with contextlib.suppress(rq.exceptions.InvalidJobOperation, JobqError, rq.exceptions.NoSuchJobError, ValueError):
        if how == "rq":
            world.canceled_by_rq.add(job.id)
            rq.job.Job.fetch(job.id, queue.connection, queue.serializer).cancel()
        else:
            control.cancel(queue.connection, job.id)


KINDS: dict[str, Callable[[World, Queue, str], Made]] = {
    f.__name__: f
    for f in (plain, long, bulk, failing, retried, chain, diamond, after_failure, called_back, unique, later, canceled)
}
