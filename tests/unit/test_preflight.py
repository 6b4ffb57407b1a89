"""The check of the first job of each queue, before a worker starts."""

from __future__ import annotations

from typing import Any

import fakeredis
import pytest
import rq

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.store.connection import Address
from jobqueue.workers.preflight import refused_heads
from jobqueue.workers.shared.settings import Settings


def settings(**fields: Any) -> Settings:
    base: dict[str, Any] = {"address": Address(url="redis://127.0.0.1:1/0"), "worker": "w", "queues": ("default",)}
    return Settings(**{**base, "children": 1, "slots": 1, **fields})


@pytest.fixture
def store() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis()


def put(store: fakeredis.FakeRedis, data: bytes, queue: str = "default") -> None:
    store.hset(keys.job("x"), "data", data)
    store.rpush(keys.queue(queue), "x")


@pytest.mark.parametrize(
    "data",
    [
        b'["jobqueue.tasks.square", null, [1], {}]',
        b'["shop.tasks.pay", null, [1], {}]',
        b'["shop.tasks.deep.down", null, [1], {}]',
        b"[1]",  # not a call: it fails as a job
        b"\xff",
    ],
)
def test_jobs_that_are_served_give_no_warning(store: fakeredis.FakeRedis, data: bytes) -> None:
    put(store, data)
    assert refused_heads(store, settings(modules=("shop.tasks",))) == []


def test_empty_queues_and_deleted_jobs_give_no_warning(store: fakeredis.FakeRedis) -> None:
    assert refused_heads(store, settings()) == []
    store.rpush(keys.queue("default"), "nobody")
    store.set(keys.queue("no list"), "x")
    store.rpush(keys.queue("third"), b"\xff")
    assert refused_heads(store, settings(queues=("default", "no list", "third"))) == []


def test_a_job_of_a_module_that_is_not_served_gives_a_warning(store: fakeredis.FakeRedis) -> None:
    put(store, b'["shop.tasksandmore.pay", null, [1], {}]', "second")
    refused = settings(modules=("shop.tasks",), queues=("default", "second"))
    (complaint,) = refused_heads(store, refused)
    assert complaint.startswith("the job x at the head of queue 'second' calls shop.tasksandmore.pay, ")
    assert " -I shop.tasksandmore:pay (-I shop.tasksandmore for all of its functions" in complaint
    assert refused_heads(store, settings(allow_any=True, queues=("second",))) == []


def test_control_characters_in_a_jobs_name_are_escaped(store: fakeredis.FakeRedis) -> None:
    put(store, b'["a.\\u001b[31m\\nb", null, [1], {}]')
    (complaint,) = refused_heads(store, settings())
    assert "a.\\x1b[31m b" in complaint


def test_pickled_and_compressed_jobs_are_understood(store: fakeredis.FakeRedis) -> None:
    """RQ pickles and compresses the data of its jobs."""
    rq.Queue(connection=store).enqueue("jobqueue.tasks.square", 2)
    (complaint,) = refused_heads(store, settings())
    assert "'default' is pickle" in complaint
    assert "--accept json,pickle" in complaint
    assert refused_heads(store, settings(accept=("json", "pickle"))) == []
    Queue("big", connection=store).enqueue("samples.ok", "x" * 10_000)
    (complaint,) = refused_heads(store, settings(queues=("big",)))
    assert "-I samples" in complaint
