"""After all kinds of jobs have ended and expired, no key of them is left in the store."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import rq
import samples
import samples_rq
from conftest import Start
from helpers import Tree, eventually, status
from rq import Callback, Repeat, Retry
from rq.group import Group
from rq.job import Dependency
from rq.rate_limit import RateLimit

from jobqueue.admin import control
from jobqueue.job import Job
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys

SHORT: dict[str, Any] = {"result_ttl": 1, "failure_ttl": 1}
# Keys that exist without a job: of workers, queues, tasks, of a submit for a minute; and notes of the samples.
STANDS = re.compile(
    r"rq:(queues|workers.*|worker:[^:]*|clean_registries:.*|cron_schedulers|cron_scheduler:.*"
    r"|jobq:(submit:.*|seq|owners|lease:.*|usage.*|deaths|schedules)|scheduler-lock:.*|clean_groups|scheduler:.*)|words:.*|runs:.*"
)


def enqueue_all(queue: Any) -> None:
    """Enqueue every kind of job except those that other processes end."""
    store = queue.connection
    plain(queue)
    waiting(queue)
    limits(queue)
    Group.create(store, "them").enqueue_many(queue, [rq.Queue.prepare_data(samples.ok, (1,), **SHORT)])


def plain(queue: Any) -> None:
    on: dict[str, Any] = {"on_success": Callback(samples.on_success), "on_failure": Callback(samples.on_failure)}
    for function, *args in ((samples.ok, 1), (samples.ok,), (samples.fail,), (samples.nap, 0.05)):
        queue.enqueue(function, *args, **SHORT)
        queue.enqueue(function, *args, **SHORT, **on)
        queue.enqueue(function, *args, ttl=100, **SHORT)
        queue.enqueue(function, *args, result_ttl=0, failure_ttl=0)
        queue.enqueue(function, *args, result_ttl=0, failure_ttl=0, **on)
    queue.enqueue(samples.spin, 60, job_timeout=1, **SHORT)
    queue.enqueue(samples_rq.report_progress, meta={"who": "me"}, **SHORT)
    queue.enqueue(samples_rq.fail_first, 1, retry=Retry(max=2), **SHORT)
    queue.enqueue(samples_rq.fail_first, 9, retry=Retry(max=2, interval=1), **SHORT)
    queue.enqueue(samples_rq.retry_first, 1, 2, **SHORT)
    queue.enqueue(samples_rq.retry_first, 9, 2, result_ttl=1, failure_ttl=0)
    queue.enqueue(samples.ok, 1, repeat=Repeat(times=2, interval=1), **SHORT)
    queue.enqueue(samples.ok, 1, job_id="one", unique=True, **SHORT)
    queue.enqueue_in(timedelta(seconds=1), samples.ok, 1, **SHORT)


def waiting(queue: Any) -> None:
    for n, (function, ttl) in enumerate([(samples.ok, 1), (samples.fail, 1), (samples.ok, 0), (samples.fail, 0)]):
        told = {"result_ttl": ttl, "failure_ttl": ttl}
        top = queue.enqueue(function, job_id=f"top-{n}", **told)
        left = queue.enqueue(samples.ok, 1, depends_on=top, ttl=5, **SHORT)
        allowed = Dependency([top], allow_failure=True)
        right = queue.enqueue(samples.fail, depends_on=allowed, ttl=5, **SHORT)
        queue.enqueue(samples.ok, 1, depends_on=[left, right], ttl=5, **SHORT)
        queue.enqueue(samples.ok, 1, depends_on=Dependency([right], allow_failure=True), ttl=5, **SHORT)


def limits(queue: Any) -> None:
    for function in (samples.ok, samples.fail, samples.ok):
        queue.enqueue(function, rate_limit=RateLimit("api", 1), **SHORT)
        queue.enqueue(function, rate_limit=RateLimit("once", 1), result_ttl=0, failure_ttl=0)


def ended_by_others(queue: Any, gate: str) -> None:
    """Enqueue jobs that other processes end. Those that are canceled, deleted or stopped while they run have ids that
    begin with "held"."""
    for how in ("cancel", "delete", "stop"):
        queue.enqueue(samples.wait_for, f"{gate}-record", 1, gate, job_id=f"held-{how}", **SHORT)
    for n, end in enumerate(("cancel", "delete", "cancel", "delete")):
        job = queue.enqueue(
            samples.ok, 1, job_id=f"far-{n}", depends_on="held-cancel" if n > 1 else None, ttl=3, **SHORT
        )
        queue.enqueue(samples.ok, 1, depends_on=job, ttl=3, **SHORT)
        with contextlib.suppress(rq.exceptions.InvalidJobOperation, rq.exceptions.NoSuchJobError):  # it ran already
            getattr(Job.fetch(job.id, queue.connection, queue.serializer), end)()
    far = queue.enqueue_in(timedelta(hours=1), samples.ok, 1, ttl=3)
    Job.fetch(far.id, queue.connection).cancel()


def end_what_is_held(store: redis.Redis, gate: str) -> None:
    for how in ("cancel", "delete", "stop"):
        eventually(lambda how=how: status(store, f"held-{how}") == "started")  # type: ignore[misc]
        job = Job.fetch(f"held-{how}", store)
        if how == "stop":
            control.stop(store, job.id, 20.0)
        else:
            getattr(job, how)()
    Path(gate).touch()


def forget_canceled_at_work(store: redis.Redis) -> None:
    """Delete jobs that were canceled while they ran: as in RQ, such a job is kept for ever, as its ttl was only for its
    wait."""
    for job_id in store.zrange(keys.registry("canceled", "default"), 0, -1):
        key = keys.job(job_id.decode())
        if store.hget(key, "worker_name") and store.ttl(key) < 0:
            store.expire(key, 1)


def left(store: redis.Redis) -> dict[str, int]:
    """Return the keys that belong to no worker or queue, with the seconds for which they are kept; -1: for ever."""
    found = [key.decode() for key in store.scan_iter(count=1000)]
    return {key: store.ttl(key) for key in sorted(found) if not STANDS.fullmatch(key)}


def nothing_is_left(store: redis.Redis, wake: Callable[[], object] = lambda: None) -> None:
    """Wait until no key is left. wake: makes RQ's workers do their maintenance, which they do between two jobs."""
    deadline = time.monotonic() + 40.0
    while found := left(store):
        assert time.monotonic() < deadline, json.dumps(found)
        forget_canceled_at_work(store)
        wake()
        time.sleep(0.5)


def a_successor_works(tree: Tree, before: list[psutil.Process], store: redis.Redis) -> bool:
    """Return whether the next worker has started and holds a job, or no job is left."""
    held = any(store.zcard(keys.own(owner.decode())) for owner in store.smembers(keys.OWNERS))
    return bool(set(tree.children()) - set(before)) and (held or not store.llen(keys.queue("default")))


@pytest.mark.parametrize("deaths", [0, 6])
def test_no_key_of_a_job_is_left(
    start: Start, mode: str, deaths: int, queue: Queue, store: redis.Redis, tmp_path: Path
) -> None:
    enqueue_all(queue)
    tree = start("-n", "4", "--maintenance-interval", "1", mode=mode, serve=("samples", "samples_rq"))
    for _ in range(deaths):
        before = eventually(tree.children)
        before[0].kill()
        eventually(lambda before=before: a_successor_works(tree, before, store))  # type: ignore[misc]
    store.delete(*store.scan_iter("rq:clean_*"), "-")  # RQ's lock of a maintenance that died too stands for 15 minutes
    ended_by_others(queue, str(tmp_path / "gate"))
    end_what_is_held(store, str(tmp_path / "gate"))
    nothing_is_left(store)


@pytest.mark.parametrize("place", ["SimpleWorker", "Worker"])
def test_no_key_is_left_by_rqs_worker_classes(start_rq: Start, place: str, store: redis.Redis, tmp_path: Path) -> None:
    queue = rq.Queue(connection=store)
    enqueue_all(queue)
    ended_by_others(queue, str(tmp_path / "gate"))
    for _ in range(4):
        start_rq(place, "--with-scheduler", "--maintenance-interval", "1")
    end_what_is_held(store, str(tmp_path / "gate"))
    nothing_is_left(store, wake=lambda: queue.enqueue(samples.ok, result_ttl=0))


def test_no_key_is_left_of_a_tree_that_died_without_a_child(start: Start, mode: str, store: redis.Redis) -> None:
    """Between two children, none of its owner names was registered."""
    dead = start("-n", "1", mode=mode, JOBQ_LEASE="1")
    eventually(lambda: store.exists(keys.OWNERS))
    dead.kill()
    store.delete(keys.OWNERS)
    start("-n", "1", mode=mode, JOBQ_LEASE="1")
    eventually(lambda: store.scard(keys.OWNERS) and store.scard(keys.WORKERS) == 1)
    assert store.scard(keys.workers_of("default")) == 1
    assert len(list(store.scan_iter(keys.lease("*")))) == 1
