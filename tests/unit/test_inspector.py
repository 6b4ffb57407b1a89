from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import fakeredis
import pytest
import rq
from fake_worker import fail, finish
from rq.job import Job as RqJob

from jobqueue.admin import control
from jobqueue.admin.inspector import Inspector
from jobqueue.errors import JobError, NoSuchJob
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.store.connection import redis
from jobqueue.tasks import square

TRACEBACK = "Traceback (most recent call last):\n  File\nValueError: bad\n"


@pytest.fixture(params=["real", "fake"])
def client(request: pytest.FixtureRequest) -> redis.Redis:
    if request.param == "fake":
        return fakeredis.FakeRedis(server=fakeredis.FakeServer())
    store: redis.Redis = request.getfixturevalue("store")
    return store


@pytest.fixture
def queue(client: redis.Redis) -> Queue:
    return Queue("q", client)


def everything(client: redis.Redis) -> dict[bytes, Any]:
    return {key: client.dump(key) for key in client.scan_iter()}


def test_inspecting_a_waiting_job(client: redis.Redis, queue: Queue) -> None:
    queue.enqueue(square, 1)
    job = queue.enqueue(square, 5, meta={"a": 1}, retry=3, on_crash="fail", job_timeout=7, ttl=60)
    seen = Inspector(client).job(job.id)
    assert (seen.status, seen.queue, seen.position, seen.format) == ("queued", "q", 1, "json")
    assert (seen.function, seen.args, seen.kwargs, seen.meta) == ("jobqueue.tasks.square", [5], {}, {"a": 1})
    assert (seen.retries_left, seen.on_crash, seen.timeout, seen.ttl) == (3, "fail", 7, 60)
    assert seen.expires_in is not None
    assert 0 < seen.expires_in <= 60
    assert seen.created_at is not None
    assert datetime.now(UTC) - seen.created_at < timedelta(minutes=1)
    assert (seen.result, seen.has_result, seen.traceback) == (None, False, None)


def test_inspecting_jobs_that_have_ended(client: redis.Redis, queue: Queue) -> None:
    good, bad = queue.enqueue(square, 5), queue.enqueue(square, 6)
    finish(client, good.id, {"a": 25})
    fail(client, bad.id, TRACEBACK)
    client.hset(keys.job(bad.id), mapping={"jobq_crashes": 2, "jobq_redelivered": 1, "worker_name": "w"})
    one, other = Inspector(client).job(good.id), Inspector(client).job(bad.id)
    assert (one.status, one.has_result, one.result) == ("finished", True, {"a": 25})
    assert (other.status, other.traceback, other.crashes, other.redelivered) == ("failed", TRACEBACK, 2, 1)
    assert other.ended_at == datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


def test_inspecting_a_scheduled_job(client: redis.Redis, queue: Queue) -> None:
    moment = datetime(2100, 1, 1, tzinfo=UTC)
    job = queue.enqueue_at(moment, square, 5)
    seen = Inspector(client).job(job.id)
    assert (seen.status, seen.scheduled_for, seen.position) == ("scheduled", moment, None)


class Bomb:
    def __reduce__(self) -> Any:
        return pytest.fail, ("somebody opened the pickle",)


def test_inspecting_never_unpickles(client: redis.Redis) -> None:
    data = pickle.dumps(("f", None, (Bomb(),), {}))
    fields = {
        "data": data,
        "meta": pickle.dumps({"a": Bomb()}),
        "status": "failed",
        "origin": "q",
        "description": "f()",
    }
    client.hset(keys.job("pickled"), mapping=fields)
    client.zadd(keys.registry("failed", "q"), {"pickled": 9e9})
    client.sadd(keys.QUEUES, keys.queue("q"))
    seen = Inspector(client).job("pickled")
    assert (seen.format, seen.function, seen.args, seen.meta, seen.description) == ("pickle", None, None, None, "f()")
    assert [job.id for job in Inspector(client).failed()] == ["pickled"]
    control.requeue(client, "pickled")
    control.cancel(client, "pickled")


def test_inspecting_an_unknown_job(client: redis.Redis) -> None:
    for act in (Inspector(client).job, *(lambda i, f=f: f(client, i) for f in ACTIONS)):
        with pytest.raises(NoSuchJob, match="no job nobody"):
            act("nobody")


ACTIONS = (control.requeue, control.delete_failed, control.cancel)


def test_the_overview_counts_and_changes_nothing(client: redis.Redis, queue: Queue) -> None:
    jobs = list(queue.enqueue_many(square, range(6)))
    finish(client, jobs[0].id, 0)
    client.lrem(keys.queue("q"), 0, jobs[0].id)
    client.zadd(keys.registry("finished", "q"), {jobs[0].id: 9e9, "expired long ago": 1})
    fail(client, jobs[1].id, TRACEBACK)
    control.cancel(client, jobs[2].id)
    client.lmove(keys.queue("q"), keys.intermediate("q"))
    queue.enqueue_in(timedelta(hours=1), square, 7)
    queue.enqueue(square, 8, depends_on=jobs[4])
    worker = rq.SimpleWorker([queue], name="w1", connection=client)
    worker.register_birth()
    client.sadd(keys.worker_executions("w1"), "a:b")
    control.pause(client, "q")
    control.pause(client, "other")
    before = everything(client)
    seen = Inspector(client).overview()
    assert everything(client) == before
    one, other = seen.queues
    assert (other.name, other.paused, one.name, one.paused) == ("q", True, "other", True)
    assert (other.queued, other.claimed, other.started, other.finished, other.failed) == (2, 1, 0, 1, 1)
    assert (other.scheduled, other.deferred, other.canceled) == (1, 1, 1)
    (seen_worker,) = seen.workers
    assert (seen_worker.name, seen_worker.queues, seen_worker.running, seen_worker.done) == ("w1", ["q"], 1, 0)
    assert seen_worker.heartbeat_age is not None
    assert seen_worker.heartbeat_age < 60
    assert (seen.suspended, seen.paused) == (False, ["other", "q"])


def test_pause_and_resume(client: redis.Redis) -> None:
    from rq.suspension import is_suspended

    for queue in (None, "q"):
        assert control.pause(client, queue)
        assert not control.pause(client, queue)
        assert control.resume(client, queue)
        assert not control.resume(client, queue)
    control.pause(client, None)
    assert is_suspended(client)
    assert Inspector(client).overview().suspended


def test_failed_jobs_are_listed_the_latest_first(client: redis.Redis, queue: Queue) -> None:
    jobs = list(queue.enqueue_many(square, range(3)))
    for i, job in enumerate(jobs):
        fail(client, job.id, TRACEBACK)
        client.hset(keys.job(job.id), "ended_at", f"2026-01-0{i + 1}T00:00:00.000000Z")
    client.zadd(keys.registry("failed", "q"), {"expired long ago": 1})
    seen = Inspector(client).failed()
    assert [job.id for job in seen] == [job.id for job in reversed(jobs)]
    assert (seen[0].error, seen[0].description) == ("ValueError: bad", "jobqueue.tasks.square(2)")
    assert [job.id for job in Inspector(client).failed("q", most=1)] == [jobs[2].id]
    assert Inspector(client).failed("other") == []


def test_a_requeued_job_starts_with_fresh_counts(client: redis.Redis, queue: Queue) -> None:
    job, waiting = queue.enqueue(square, 5, meta={"a": 1}), queue.enqueue(square, 6)
    fail(client, job.id, TRACEBACK)
    client.hset(keys.job(job.id), mapping={"jobq_crashes": 3, "exc_info": "x", "worker_name": "w"})
    client.expire(keys.job(job.id), 1000)
    client.set(f"{keys.intermediate('q')}:first_seen:{job.id}", 1)
    control.requeue(client, job.id)
    assert [i.decode() for i in client.lrange(keys.queue("q"), 0, -1)] == [waiting.id, job.id]
    assert client.zcard(keys.registry("failed", "q")) == 0
    assert client.ttl(keys.job(job.id)) == -1
    assert not client.keys("*first_seen*")
    fields = client.hkeys(keys.job(job.id))
    assert not {b"jobq_crashes", b"exc_info", b"worker_name", b"ended_at"} & set(fields)
    seen = RqJob.fetch(job.id, connection=client, serializer="json")
    assert (seen.args, seen.meta, seen.get_status()) == ([5], {"a": 1}, "queued")
    with pytest.raises(JobError, match="is queued"):
        control.requeue(client, job.id)


def test_only_failed_jobs_can_be_deleted(client: redis.Redis, queue: Queue) -> None:
    job, waiting = queue.enqueue(square, 5), queue.enqueue(square, 6)
    fail(client, job.id, TRACEBACK)
    control.delete_failed(client, job.id)
    with pytest.raises(JobError, match="is queued, not failed"):
        control.delete_failed(client, waiting.id)
    assert not client.exists(keys.job(job.id), keys.results(job.id), keys.registry("failed", "q"))


def test_only_waiting_jobs_can_be_canceled(client: redis.Redis, queue: Queue) -> None:
    jobs = list(queue.enqueue_many(square, range(4)))
    control.cancel(client, jobs[0].id)
    finish(client, jobs[1].id, 1)
    client.hset(keys.job(jobs[2].id), "status", "started")
    client.lrem(keys.queue("q"), 0, jobs[3].id)  # claimed, not marked as started
    reasons = ("canceled", "finished", "running", "held by a worker")
    for job, reason in zip(jobs, reasons, strict=True):
        with pytest.raises(JobError, match=reason):
            control.cancel(client, job.id)
    assert client.zcard(keys.registry("canceled", "q")) == 1


def test_failed_jobs_that_are_kept_for_ever_are_listed(client: redis.Redis, queue: Queue) -> None:
    """RQ gives such jobs the score -1, which is not a time in the past."""
    job = queue.enqueue(square, 1)
    fail(client, job.id, TRACEBACK)
    client.zadd(keys.registry("failed", "q"), {job.id: -1})
    assert [found.id for found in Inspector(client).failed()] == [job.id]
    assert [seen.failed for seen in Inspector(client).overview().queues] == [1]
