from __future__ import annotations

from typing import Any

import fakeredis
import pytest

from jobqueue.errors import BadValue, UsageError
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys, names
from jobqueue.store.connection import redis
from jobqueue.tasks import square

BAD_QUEUES = [
    "",
    " ",
    "\t\n",
    "a\nb",
    "a\rb",
    "a\x00b",
    "a\x1b[31mb",
    "a\u2028b",
    "\ud800",
    "x" * 256,
    "default:intermediate",
    "q:intermediate:first_seen:0f",
    5,
    None,
    b"q",
    True,
]


@pytest.fixture
def client() -> redis.Redis:
    return fakeredis.FakeRedis(server=fakeredis.FakeServer())


@pytest.mark.parametrize("name", BAD_QUEUES, ids=ascii)
def test_invalid_queue_names_are_refused(client: redis.Redis, name: Any) -> None:
    with pytest.raises(BadValue) as caught:
        Queue(name, connection=client)
    message = str(caught.value)
    assert message.endswith(".")
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 200


@pytest.mark.parametrize("name", ["default", "a b", "é", "日本", "a:b", "a,b", "--", "x" * 255])
def test_valid_queue_names_are_accepted(client: redis.Redis, name: str) -> None:
    assert Queue(name, connection=client).enqueue(square, 2).origin == name


BAD_IDS = ["", " ", "a b", "a:b", "a\n", "é", "\ud800", "x" * 256, 5, b"x"]


@pytest.mark.parametrize("options", [{}, {"unique": True}, {"depends_on": "other"}, {"meta": {"a": 1}}], ids=str)
@pytest.mark.parametrize("job_id", BAD_IDS, ids=ascii)
def test_invalid_job_ids_are_refused(client: redis.Redis, job_id: Any, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Queue("q", connection=client).enqueue(square, 2, job_id=job_id, **options)
    assert client.keys() == []


def test_invalid_schedule_ids_are_refused(client: redis.Redis) -> None:
    with pytest.raises(UsageError):
        Queue("q", connection=client).schedule(square, 2, every=5, schedule_id="x" * 256)
    assert client.keys() == []


def test_a_long_name_is_not_repeated_in_the_message() -> None:
    with pytest.raises(BadValue) as caught:
        names.job_id("é" * 200)
    assert len(str(caught.value)) < 150


def test_queues_in_the_store_are_read_whatever_their_names_are(client: redis.Redis) -> None:
    client.sadd(keys.QUEUES, keys.queue(""), keys.queue("a\nb"), keys.queue("ok"))
    assert sorted(queue.name for queue in Queue.all(client)) == ["", "a\nb", "ok"]
    assert {queue.key for queue in Queue.all(client)} == {keys.queue(""), keys.queue("a\nb"), keys.queue("ok")}
    with pytest.raises(ValueError, match="RQ queue key"):
        Queue.from_queue_key("other:ok", client)
