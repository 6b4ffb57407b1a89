"""Unexpected values and connections in the Python API: one sentence, or the job is enqueued."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime
from typing import Any

import fakeredis
import pytest
import redis.asyncio
import rq

from jobqueue.errors import JobFailed, NotSerializable, UsageError
from jobqueue.job import Job
from jobqueue.producing import encoding
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.store.connection import redis
from jobqueue.tasks import square
from jobqueue.workers.rq_classes.worker import SimpleWorker, Worker


class Unprintable:
    """An object of a user's that cannot be printed."""

    def __init__(self, error: type[BaseException] = ValueError) -> None:
        self.error = error

    def __repr__(self) -> str:
        raise self.error

    def __hash__(self) -> int:
        return 1


@pytest.fixture
def client() -> redis.Redis:
    return fakeredis.FakeRedis(server=fakeredis.FakeServer())


Way = Callable[[Queue, Any], Any]
WAYS: dict[str, Way] = {
    "enqueue": lambda queue, value: queue.enqueue(square, value),
    "options": lambda queue, value: queue.enqueue(square, value, job_id="x", meta={"a": 1}),
    "unique": lambda queue, value: queue.enqueue(square, value, job_id="x", unique=True),
    "depends_on": lambda queue, value: queue.enqueue(square, value, depends_on="y"),
    "keyword": lambda queue, value: queue.enqueue(square, n=value),
    "at": lambda queue, value: queue.enqueue_at(datetime.now(), square, value),
    "many": lambda queue, value: queue.enqueue_many(square, [value]),
    "schedule": lambda queue, value: queue.schedule(square, value, every=5),
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@ways
def test_a_value_that_contains_itself_is_refused(client: redis.Redis, way: Way) -> None:
    cycle: list[Any] = []
    cycle.append({"a": cycle})
    deep = functools.reduce(lambda inner, _: [inner], range(100_000), 1)  # type: ignore[arg-type, return-value]
    for value in (cycle, {"a": cycle}, deep):
        with pytest.raises(NotSerializable, match="nested too deeply or holds itself"):
            way(Queue("q", client), value)
    assert client.keys() == []


@ways
@pytest.mark.parametrize("error", [ValueError, RecursionError, SystemExit])
def test_a_value_whose_repr_raises_can_be_enqueued(client: redis.Redis, way: Way, error: type[BaseException]) -> None:
    """The repr is only needed for the description: the job is enqueued without one."""
    way(Queue("q", client, serializer="pickle"), Unprintable(error))
    (key,) = [
        key for key in client.scan_iter() if key.startswith((b"rq:job:", b"rq:jobq:schedule_job:")) and b"::" not in key
    ]
    assert b"repr raised" in client.hget(key, "description")


def test_errors_about_values_that_cannot_be_printed(client: redis.Redis) -> None:
    with pytest.raises(NotSerializable, match="Unprintable"):
        Queue("q", client).enqueue(square, {Unprintable(): 1})
    with pytest.raises(UsageError, match="Unprintable"):
        Queue("q", client).enqueue(Unprintable())
    for description in (Unprintable(), 5):
        with pytest.raises(UsageError, match="description is a text"):
            Queue("q", client).enqueue(square, 1, description=description)
    assert client.keys() == []
    job = Queue("q", client).enqueue(square, 1, description="\ud800")
    assert client.hget(keys.job(job.id), "description") == b"\\ud800"


@ways
def test_a_job_larger_than_a_store_accepts_is_refused(
    client: redis.Redis, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is refused before it is sent, as the server would close the connection in the middle."""
    monkeypatch.setattr(encoding, "LARGEST", 1000)
    for serializer in (None, "pickle"):
        with pytest.raises(NotSerializable, match="put them into a file or another store"):
            way(Queue("q", client, serializer=serializer), [hash(str(n)) for n in range(1000)])
    assert client.keys() == []
    way(Queue("q", client), "x" * 5000)  # it is small after compression


@pytest.mark.parametrize("why", ["decode_responses=True", "redis.asyncio"])
def test_a_connection_of_an_unsupported_kind_is_refused_at_once(why: str) -> None:
    theirs: Any = redis.asyncio.Redis() if why == "redis.asyncio" else fakeredis.FakeRedis(decode_responses=True)
    doors: list[Callable[[], Any]] = [
        lambda: Queue("q", theirs),
        lambda: Queue("q", connection=theirs, is_async=False),
        lambda: Job.fetch("x", connection=theirs),
        lambda: Job(connection=theirs),
        lambda: SimpleWorker(["q"], connection=theirs),
        lambda: Worker(["q"], connection=theirs),
    ]
    for door in doors[:4] if why == "redis.asyncio" else doors:  # RQ's own constructors fail before ours look
        with pytest.raises(UsageError, match=why):
            door()


@pytest.mark.parametrize("serializer", [None, "pickle"])
def test_options_of_jobs_that_run_at_once_are_checked(client: redis.Redis, serializer: Any) -> None:
    queue = Queue("q", client, is_async=False, serializer=serializer)
    assert queue.enqueue(square, 3).result(1) == 9
    assert queue.enqueue("square", 3, job_id="x").result() == 9
    assert queue.enqueue_call("jobqueue.tasks.square", (3,)).result(1) == 9
    assert queue.enqueue("time.sleep", 0).result(1) is None
    with pytest.raises(JobFailed, match="square takes a number"):
        queue.enqueue(square, "x").result(1)
    with pytest.raises(UsageError, match="use enqueue for each"):
        queue.enqueue_many(square, [1, 2])


def _local() -> Callable[..., None]:
    def inside(*_: object) -> None:
        pass

    return inside


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on_success": lambda *_: None}, "on_success is a lambda"),
        ({"on_failure": rq.Callback(lambda *_: None)}, "on_failure is a lambda"),
        ({"on_stopped": _local()}, "defined inside a function"),
        ({"on_success": "\ud800.x"}, "can be printed"),
        ({"every": 0, "cron": 5}, "A cron expression is a text"),
        ({"every": 0, "cron": b"0 0 * * *"}, "A cron expression is a text"),
        ({"every": 0, "cron": "\ud800 0 * * *"}, "not acceptable"),
        ({"every": 0, "cron": "0 0 * * *", "tz": "\ud800"}, "no time zone"),
        ({"name": "\ud800"}, "name has only characters"),
        ({"name": 5}, "name is a text"),
    ],
)
def test_texts_and_callbacks_of_a_schedule_are_checked(client: redis.Redis, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        Queue(connection=client).schedule(square, 2, **{"every": 5, **options})
    assert "\ud800" not in str(caught.value)
    if said.startswith("on_") or "inside" in said:
        with pytest.raises(UsageError, match=said):
            Queue(connection=client).enqueue(square, 2, **options)
    assert not client.keys()
