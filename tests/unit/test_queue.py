from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import fakeredis
import pytest
import rq
import rq.job
from rq import Callback, Repeat, Retry
from rq.exceptions import DuplicateJobError
from rq.rate_limit import RateLimit

from jobqueue.errors import (
    DuplicateJob,
    NotSerializable,
    StoreRefused,
    StoreUnreachable,
    TaskNotFound,
    UsageError,
)
from jobqueue.job import Job, LightJob
from jobqueue.producing import enqueue
from jobqueue.producing.batch import CHUNK
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys, resp
from jobqueue.store.connection import Address, redis
from jobqueue.store.open import Store
from jobqueue.tasks import square


class Thing:
    def method(self, x: Any) -> Any:
        return x


@pytest.fixture
def client() -> redis.Redis:
    return fakeredis.FakeRedis(server=fakeredis.FakeServer())


@pytest.fixture
def queue(client: redis.Redis) -> Queue:
    return Queue("q", connection=client)


def fetched(client: redis.Redis, job_id: str) -> rq.job.Job:
    return rq.job.Job.fetch(job_id, connection=client, serializer="json")


def ids(client: redis.Redis) -> list[str]:
    return [job_id.decode() for job_id in client.lrange(keys.queue("q"), 0, -1)]


# -- where to ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["redis://:secret@localhost", b"redis://localhost", ""])
def test_a_url_as_connection_is_refused(url: Any) -> None:
    with pytest.raises(TypeError, match=r"the URL as url=\.$") as caught:
        Queue("q", connection=url)
    assert "secret" not in str(caught.value)


def test_two_ways_to_the_store_are_refused(client: redis.Redis) -> None:
    with pytest.raises(UsageError, match=r"^Both url and connection were given"):
        Queue("q", connection=client, url="redis://localhost")
    with pytest.raises(UsageError, match=r"^Both url and store were given"):
        Queue("q", store=Store(Address(url="redis://localhost"), ""), url="redis://localhost")


# -- one job -------------------------------------------------------------------------------------------------------


def test_rq_reads_our_jobs(client: redis.Redis, queue: Queue) -> None:
    before = datetime.now(UTC)
    job = queue.enqueue(square, 5)
    seen = fetched(client, job.id)
    assert (seen.func_name, seen.args, seen.kwargs) == ("jobqueue.tasks.square", [5], {})
    assert (seen.origin, seen.timeout, seen.get_status()) == ("q", 180, "queued")
    assert seen.description == "jobqueue.tasks.square(5)"
    assert before <= seen.created_at == seen.enqueued_at <= datetime.now(UTC)
    assert ids(client) == [job.id]
    assert client.smembers(keys.QUEUES) == {keys.queue("q").encode()}
    assert rq.Queue.all(client) == [rq.Queue("q", connection=client)]


def test_every_field_is_as_rq_writes_it(client: redis.Redis, queue: Queue) -> None:
    """The fields equal those of RQ's own enqueue, except for times and empty texts."""
    options: dict[str, Any] = {
        "job_timeout": "2m",
        "result_ttl": 7,
        "failure_ttl": 8,
        "ttl": 900,
        "meta": {"a": 1},
        "retry": Retry(max=2, interval=[1, 2], enqueue_at_front=True),
        "description": "d",
        "on_success": Callback("jobqueue.tasks.square", timeout=5),
        "on_failure": Callback("jobqueue.tasks.square"),
        "repeat": Repeat(times=3, interval=4),
    }
    ours = queue.enqueue("jobqueue.tasks:square", 5, k=1, **options)
    theirs = rq.Queue("q", connection=client, serializer="json").enqueue(
        "jobqueue.tasks.square", 5, k=1, **{**options, "description": "d"}
    )
    one, other = fetched(client, ours.id).to_dict(), fetched(client, theirs.id).to_dict()
    for moving in ("created_at", "enqueued_at", "data"):
        one.pop(moving), other.pop(moving)
    assert one == other
    assert all(800 < client.ttl(keys.job(job.id)) <= 900 for job in (ours, theirs))


def test_a_job_costs_one_round_trip(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.enqueue(square, 1)
    sent: list[Any] = []
    connection_class = queue.connection.connection_pool.connection_class
    real = connection_class.send_packed_command

    def counted(self: Any, command: Any, *args: Any, **kwargs: Any) -> Any:
        sent.append(command)
        return real(self, command, *args, **kwargs)

    monkeypatch.setattr(connection_class, "send_packed_command", counted)
    queue.enqueue(square, 2, ttl=5)
    assert len(sent) == 1


def test_the_job_object_knows_its_fields_without_asking_the_store(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = queue.enqueue(square, 5, meta={"a": 1}, on_crash="fail")
    assert type(job) is LightJob
    monkeypatch.setattr(job.connection, "hgetall", lambda *a: pytest.fail("asked the store"))
    assert repr(job) == f"Job({job.id!r})"
    assert type(job) is LightJob
    assert (job.args, job.meta, job.on_crash, job.get_status(refresh=False)) == ([5], {"a": 1}, "fail", "queued")
    assert type(job) is Job


def test_meta_set_on_a_job_object_is_saved(client: redis.Redis, queue: Queue) -> None:
    job = queue.enqueue(square, 5, meta={"a": 1})
    job.meta["b"] = 2
    job.save_meta()
    other = queue.enqueue_many(square, [1])[0]
    other.meta = {"c": 3}
    other.save_meta()
    assert fetched(client, job.id).meta == {"a": 1, "b": 2}
    assert fetched(client, other.id).meta == {"c": 3}
    assert fetched(client, other.id).args == [1]


def test_a_job_object_equals_the_job_fetched_from_the_store(client: redis.Redis, queue: Queue) -> None:
    job = queue.enqueue(square, 5)
    assert job == Job.fetch(job.id, connection=client)
    assert {job} == {Job.fetch(job.id, connection=client)}
    assert job != queue.enqueue(square, 5)


def test_options_that_rqs_own_code_handles(client: redis.Redis, queue: Queue) -> None:
    first = queue.enqueue(square, 1)
    second = queue.enqueue("square", 2, depends_on=first, on_crash="retry")
    assert second.get_status() == "deferred"
    assert Job.fetch(second.id, connection=client).on_crash == "retry"
    assert ids(client) == [first.id]
    later = queue.enqueue_in(timedelta(hours=1), "square", 3, on_crash="fail")
    assert later.get_status() == "scheduled"
    assert client.hget(keys.job(later.id), "jobq_on_crash") == b"fail"
    assert client.zcard(keys.registry("scheduled", "q")) == 1


def test_at_front_puts_a_job_at_the_head(client: redis.Redis, queue: Queue) -> None:
    first = queue.enqueue(square, 1)
    second = queue.enqueue(square, 2, at_front=True)
    assert ids(client) == [second.id, first.id]


def test_unique_refuses_a_second_job_of_the_same_id(client: redis.Redis, queue: Queue) -> None:
    queue.enqueue(square, 1, job_id="one", unique=True)
    for kind in (DuplicateJob, DuplicateJobError):
        with pytest.raises(kind, match="already exists"):
            queue.enqueue(square, 2, job_id="one", unique=True)
    assert ids(client) == ["one"]
    assert fetched(client, "one").args == [1]


def test_options_that_unique_excludes_are_refused_in_rqs_words(client: redis.Redis, queue: Queue) -> None:
    job = rq.job.Job.create("jobqueue.tasks.square", (1,), connection=client, serializer=queue.serializer)
    with pytest.raises(ValueError, match="requires an explicit job_id"):
        queue.enqueue_job(job, unique=True)
    with pytest.raises(ValueError, match="requires an explicit job_id"):
        queue.schedule_job(job, datetime.now(UTC), unique=True)
    with pytest.raises(ValueError, match="rate-limited jobs"):
        queue.enqueue(square, 1, unique=True, job_id="a", rate_limit=RateLimit("k", 1))
    with pytest.raises(ValueError, match="job dependencies"):
        queue.enqueue(square, 1, unique=True, job_id="a", depends_on="b")
    assert client.keys() == []


@pytest.mark.parametrize("job_id", ["", "a b", "a:b", "a\n"])
def test_invalid_job_ids_are_refused(client: redis.Redis, queue: Queue, job_id: str) -> None:
    with pytest.raises(ValueError, match="An id "):
        queue.enqueue(square, 1, job_id=job_id)
    assert client.keys() == []


def test_an_id_used_again_is_a_new_job(client: redis.Redis, queue: Queue) -> None:
    queue.enqueue(square, 1, job_id="one", meta={"old": 1})
    client.hset(keys.job("one"), mapping={"status": "failed", "ended_at": "x", "jobq_crashes": 2})
    client.expire(keys.job("one"), 5)
    client.xadd(keys.results("one"), {"type": 2})
    queue.enqueue(square, 2, job_id="one")
    assert fetched(client, "one").args == [2]
    assert not any(client.hmget(keys.job("one"), "ended_at", "jobq_crashes", "meta"))
    assert client.ttl(keys.job("one")) == -1
    assert not client.exists(keys.results("one"))
    assert queue.job_ids == ["one"]


REGISTRIES = ("finished", "failed", "canceled", "scheduled", "deferred", "ready")


@pytest.mark.parametrize(
    "status", ["queued", "scheduled", "deferred", "rate_limited", "finished", "failed", "canceled"]
)
def test_an_id_used_again_leaves_its_old_place(client: redis.Redis, queue: Queue, status: str) -> None:
    """Afterwards the id is in one place, and its new call runs once, whatever state the old job had."""
    other = queue.enqueue(square, 0, job_id="other")
    options: dict[str, Any] = {}
    if status == "deferred":
        options = {"depends_on": other}
    elif status == "rate_limited":
        queue.enqueue(square, 0, job_id="first", rate_limit=RateLimit("k", 1))
        options = {"rate_limit": RateLimit("k", 1)}
    if status == "scheduled":
        queue.enqueue_in(timedelta(60), square, 1, job_id="one")
    else:
        queue.enqueue(square, 1, job_id="one", **options)
    if status in ("finished", "failed", "canceled"):
        client.lrem(queue.key, 1, "one")
        client.hset(keys.job("one"), "status", status)
        client.zadd(keys.registry(status, queue.name), {"one": 9e9})
    assert queue.enqueue(square, 2, job_id="one").get_status() == "queued"
    assert queue.job_ids.count("one") == 1
    assert all(client.zscore(keys.registry(kind, queue.name), "one") is None for kind in REGISTRIES)
    assert client.zscore("rq:rl:k:rate_limited", "one") is None
    assert not client.sismember(keys.dependents("other"), "one")
    queue.enqueue_in(timedelta(60), square, 3, job_id="one")
    assert "one" not in queue.job_ids
    assert client.zscore(keys.registry("scheduled", queue.name), "one")
    assert fetched(client, "one").args == [3]


@pytest.mark.parametrize("how", ["started", "claimed", "at a time"])
def test_the_id_of_a_running_job_cannot_be_used_again(client: redis.Redis, queue: Queue, how: str) -> None:
    queue.enqueue(square, 1, job_id="one")
    if how == "claimed":
        client.sadd(keys.OWNERS, "w:0")
        client.zadd(keys.own("w:0"), {"one": 1})
    else:
        client.hset(keys.job("one"), "status", "started")
    again = partial(queue.enqueue_in, timedelta(60)) if how == "at a time" else queue.enqueue
    with pytest.raises(DuplicateJobError, match="A worker runs job one now"):
        again(square, 2, job_id="one")
    assert fetched(client, "one").args == [1]


@pytest.mark.parametrize(
    ("task", "args", "options", "error"),
    [
        ("nosuch", (), {}, TaskNotFound),
        (lambda: 1, (), {}, UsageError),
        (square, ({1, 2},), {}, NotSerializable),
        (square, ({1: 2},), {}, NotSerializable),
        (square, (math.nan,), {}, NotSerializable),
        (square, (1,), {"meta": {1: 2}}, NotSerializable),
        (square, (1,), {"on_crash": "explode"}, UsageError),
        (square, (1,), {"job_timeout": 0}, ValueError),
        (square, (1,), {"ttl": 0}, ValueError),
        (square, (1,), {"job_id": "a b"}, ValueError),
        (square, (object(),), {"depends_on": "x"}, NotSerializable),
        (Thing().method, (1,), {}, NotSerializable),
        ([].append, (1,), {}, UsageError),
        (square, (1,), {"unique": True}, ValueError),
    ],
)
def test_invalid_input_leaves_no_key(
    client: redis.Redis, queue: Queue, task: Any, args: Any, options: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        queue.enqueue(task, *args, **options)
    assert client.keys() == []


def test_the_place_of_an_invalid_value_is_named(queue: Queue) -> None:
    with pytest.raises(NotSerializable, match=r"type set \(at args\[1\]\['a'\]\)"):
        queue.enqueue(square, 1, {"a": {1}})
    with pytest.raises(NotSerializable, match=r"type bytes \(at kwargs\['n'\]\)"):
        queue.enqueue(square, n=b"x")


def test_queues_with_pickle_carry_methods(client: redis.Redis) -> None:
    queue = Queue("q", client, serializer="pickle")
    job = queue.enqueue(Thing().method, {1, 2})
    seen = rq.job.Job.fetch(job.id, connection=client)
    assert seen.args == ({1, 2},)
    assert Job.fetch(job.id, connection=client).args == ({1, 2},)  # ours reads both
    assert Job.fetch(Queue("q", client).enqueue(square, 1).id, connection=client).args == [1]


def test_a_synchronous_queue_runs_the_job(client: redis.Redis) -> None:
    job = Queue("q", client, is_async=False).enqueue(square, 5)
    assert job.return_value() == 25


def test_a_library_that_has_wrapped_rqs_enqueue_job(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentry's integration for RQ takes the options by name only."""
    wrapped: list[str] = []
    of_rq = rq.Queue.enqueue_job

    def enqueue_job(self: rq.Queue, job: rq.job.Job, **kwargs: Any) -> rq.job.Job:
        wrapped.append(job.id)
        return of_rq(self, job, **kwargs)

    monkeypatch.setattr(rq.Queue, "enqueue_job", enqueue_job)
    now = Queue("q", client, is_async=False).enqueue(square, 5)
    with client.pipeline() as pipeline:
        later = Queue("q", client).enqueue(square, 6, pipeline=pipeline)
        pipeline.execute()
    assert wrapped == [now.id, later.id]
    assert ids(client) == [later.id]


# -- many jobs -----------------------------------------------------------------------------------------------------


def test_a_batch_enqueues_many_jobs(client: redis.Redis, queue: Queue) -> None:
    batch = queue.enqueue_many("square", range(1200))
    assert len(batch) == 1200
    assert ids(client) == list(batch.ids) == [job.id for job in batch]
    assert all(len(job_id) == 32 and int(job_id, 16) >= 0 for job_id in batch.ids)
    assert fetched(client, batch[-1].id).args == [1199]
    assert batch[1:3][1] == batch[2]
    assert len(batch[::2]) == 600
    with pytest.raises(IndexError):
        batch[1200]


def test_a_batch_zips_like_map_and_takes_options(client: redis.Redis, queue: Queue) -> None:
    batch = queue.enqueue_many(pow, [2, 3], [3, 4, 5], result_ttl=9, description="power", on_crash="fail")
    seen = [fetched(client, job_id) for job_id in batch.ids]
    assert [(job.func_name, job.args, job.result_ttl, job.description) for job in seen] == [
        ("builtins.pow", [2, 3], 9, "power"),
        ("builtins.pow", [3, 4], 9, "power"),
    ]
    assert batch[0].on_crash == "fail"


def test_enqueue_many_accepts_rqs_form(client: redis.Redis, queue: Queue) -> None:
    jobs = queue.enqueue_many([Queue.prepare_data("square", (1,), job_id="a"), Queue.prepare_data(square, (2,))])
    assert [job.args for job in jobs] == [[1], [2]] or [job.args for job in jobs] == [(1,), (2,)]
    assert ids(client) == ["a", jobs[1].id]
    assert fetched(client, "a").func_name == "jobqueue.tasks.square"


def test_an_endless_generator_is_enqueued_in_chunks(client: redis.Redis, queue: Queue) -> None:
    def numbers() -> Iterator[int]:
        for i in range(3 * CHUNK):
            if i > CHUNK:  # the first chunk has been sent (on a slow machine a shorter one: it is not kept waiting)
                assert client.llen(keys.queue("q")) > 0
            yield i

    assert len(queue.enqueue_many(square, numbers())) == 3 * CHUNK


def test_an_invalid_value_in_a_generator_says_how_many_were_sent(
    client: redis.Redis, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobqueue.producing.batch.LINGER", 600.0)  # or a slow machine sends shorter chunks
    values: list[Any] = [*range(CHUNK), 1, {2}]
    with pytest.raises(NotSerializable, match=rf"Job {CHUNK + 2}: .* The \d+ jobs before") as refused:
        queue.enqueue_many(square, values)
    sent = re.search(r"The (\d+) jobs before", str(refused.value))
    assert sent
    assert client.llen(keys.queue("q")) == int(sent[1]) == CHUNK


@pytest.mark.parametrize("option", [{"job_id": "a"}, {"unique": True}, {"depends_on": "x"}, {"kwargs": {"a": 1}}])
def test_options_that_many_jobs_cannot_share_are_refused(
    client: redis.Redis, queue: Queue, option: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="enqueue"):
        queue.enqueue_many(square, [1], **option)
    assert client.keys() == []


def test_an_empty_batch(client: redis.Redis, queue: Queue) -> None:
    batch = queue.enqueue_many(square, [])
    assert list(batch.results(timeout=1)) == list(batch) == []
    assert client.keys() == []


# -- a disturbed store ---------------------------------------------------------------------------------------------


class Disturbed:
    """Stand in for resp.ask: lose requests or replies as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *what: str) -> None:
        self.left = list(what)
        self.real = resp.ask
        monkeypatch.setattr(resp, "ask", self)

    def __call__(self, client: redis.Redis, packed: bytes) -> Any:
        what = self.left.pop(0) if self.left else "ok"
        if what == "request lost":
            raise redis.ConnectionError("lost")
        try:
            replies = self.real(client, packed)
        except redis.exceptions.NoScriptError:
            self.left.insert(0, what)
            raise
        if what == "reply lost":
            raise redis.TimeoutError("lost")
        return replies


@pytest.mark.parametrize("what", ["request lost", "reply lost"])
def test_no_job_is_lost_or_doubled(
    client: redis.Redis, queue: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    Disturbed(monkeypatch, what)
    job = queue.enqueue(square, 5, ttl=60)
    assert ids(client) == [job.id]
    assert fetched(client, job.id).args == [5]
    assert 0 < client.ttl(keys.job(job.id)) <= 60
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("what", ["request lost", "reply lost"])
def test_no_job_of_a_chunk_is_lost_or_doubled(
    client: redis.Redis, queue: Queue, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    Disturbed(monkeypatch, "ok", what, "ok")
    batch = queue.enqueue_many(square, range(3 * CHUNK), description="d")
    assert ids(client) == list(batch.ids)
    assert fetched(client, batch[CHUNK].id).description == "d"


@pytest.mark.parametrize("what", ["request lost", "reply lost"])
def test_an_id_used_again_is_not_mistaken_for_the_repeat(
    client: redis.Redis, queue: Queue, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    queue.enqueue(square, 1, job_id="one")
    client.delete(keys.queue("q"))  # the job has run; its hash still exists
    Disturbed(monkeypatch, what)
    queue.enqueue(square, 2, job_id="one")
    assert ids(client) == ["one"]
    assert fetched(client, "one").args == [2]


def test_a_store_that_stays_away_is_an_error(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enqueue, "REPEAT_FOR", 0.2)
    monkeypatch.setattr(resp, "ask", lambda *a: (_ for _ in ()).throw(redis.ConnectionError("away")))
    with pytest.raises(StoreUnreachable, match="away"):
        queue.enqueue(square, 1)


def test_a_store_that_refuses_is_an_error(client: redis.Redis, queue: Queue) -> None:
    client.set(keys.queue("q"), "not a list")
    with pytest.raises(StoreRefused, match="wrong type"):
        queue.enqueue(square, 1)


def test_a_missing_socket_is_an_error(tmp_path: Any) -> None:
    with pytest.raises(StoreUnreachable, match="no such socket"):
        Queue(url=f"unix://{tmp_path}/nothing").enqueue(square, 1)
