"""A request that was given up may arrive late, after the next one was answered and the job has run: it changes nothing.
In these tests a network delays it for as long as needed."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from helpers import Server
from rq import Retry
from rq.job import Dependency
from rq.rate_limit import RateLimit

from jobqueue.errors import DuplicateJob, StoreRefused
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.protocol.outcomes import RETURNED, JobOutcome
from jobqueue.protocol.protocol import Protocol
from jobqueue.store.connection import redis
from jobqueue.tasks import square

W, OWNER = "w", "w:0.1"


class SlowNetwork:
    """A network that holds back the next requests of submits, without an answer to the sender, until they are
    delivered."""

    def __init__(self, server: Server, monkeypatch: pytest.MonkeyPatch, keeps: int, *, delivers: bool = False) -> None:
        self.kept: list[bytes] = []
        self._server, self._keeps, self._delivers = server, keeps, delivers
        kind = server.client.connection_pool.connection_class
        self._real = kind.send_packed_command
        monkeypatch.setattr(
            kind, "send_packed_command", lambda connection, *args, **kw: self._send(connection, *args, **kw)
        )

    def _send(self, connection: Any, command: Any, *args: Any, **kwargs: Any) -> Any:
        packed = b"".join(command) if isinstance(command, (list, tuple)) else command
        if b"tasks.square" not in packed or len(self.kept) >= self._keeps:
            return self._real(connection, command, *args, **kwargs)
        self.kept.append(packed)
        if self._delivers:  # only the reply is lost
            self.deliver()
        raise redis.TimeoutError("no answer")

    def deliver(self) -> list[bytes]:
        """Let all requests arrive; return the store's answers, which no client reads."""
        answers = []
        for packed in self.kept:
            with socket.socket(socket.AF_UNIX) as wire:
                wire.connect(self._server.socket)
                wire.sendall(packed)
                answers.append(wire.recv(4096))
        return answers


def run_all(store: redis.Redis) -> int:
    """Run all jobs in the queue as a worker does."""
    store.sadd(keys.OWNERS, OWNER)
    protocol = Protocol(store)
    jobs = protocol.cycle(OWNER, W, ["q"], [], 999, 999).jobs
    now = "2026-01-01T00:00:00.000000Z"
    ttls = [500 if job.result_ttl is None else job.result_ttl for job in jobs]
    ended = [
        JobOutcome(job.id, job.claim, job.queue, RETURNED, ttl, b"", now, now, 1.0, 2.0)
        for job, ttl in zip(jobs, ttls, strict=True)
    ]
    protocol.cycle(OWNER, W, ["q"], ended, 0)
    return len(jobs)


def everything(store: redis.Redis) -> dict[bytes, bytes]:
    marks = f"{keys.PREFIX}:jobq:submit:".encode()
    return {key: store.dump(key) for key in store.scan_iter() if not key.startswith(marks)}


SOON = datetime.now(UTC) + timedelta(hours=1)
WAYS: dict[str, Callable[[Queue], Any]] = {
    "enqueue": lambda queue: queue.enqueue(square, 2),
    "with options": lambda queue: queue.enqueue(square, 2, ttl=60, retry=Retry(2), meta={"a": 1}, at_front=True),
    "not kept": lambda queue: queue.enqueue(square, 2, result_ttl=0),
    "with an id": lambda queue: queue.enqueue(square, 2, job_id="mine"),
    "many": lambda queue: queue.enqueue_many(square, range(700)),
    "unique": lambda queue: queue.enqueue(square, 2, unique=True, job_id="only"),
    "unique, not kept": lambda queue: queue.enqueue(square, 2, unique=True, job_id="only", result_ttl=0),
    "behind a finished job": lambda queue: queue.enqueue(square, 2, depends_on="finished"),
    "behind a waiting job": lambda queue: queue.enqueue(square, 2, depends_on="waiting"),
    "behind both": lambda queue: queue.enqueue(
        square, 2, depends_on=Dependency(["finished", "waiting"], allow_failure=True)
    ),
    "at a time": lambda queue: queue.enqueue_at(SOON, square, 2),
    "in a while": lambda queue: queue.enqueue_in(timedelta(hours=1), square, 2, job_id="later"),
    "unique at a time": lambda queue: queue.enqueue_at(SOON, square, 2, unique=True, job_id="only"),
    "rate limit": lambda queue: queue.enqueue(square, 2, rate_limit=RateLimit("two", 2)),
    "every": lambda queue: queue.schedule(square, 2, every=3600),
    "every, of a name": lambda queue: queue.schedule(square, 2, every=3600, schedule_id="nightly", replace=False),
    "every, first": lambda queue: queue.schedule(square, 2, every=3600, first=SOON, schedule_id="nightly"),
}

WAITING = {"behind a waiting job", "behind both", "at a time", "in a while", "unique at a time", "every",
           "every, of a name", "every, first"}  # fmt: skip


@pytest.fixture
def queue(store: redis.Redis) -> Queue:
    """Return a queue whose store has loaded the scripts: a request that names an unknown script changes nothing
    anyway."""
    for way in WAYS.values():
        way(Queue("q", store))
        store.flushdb()
    queue = Queue("q", store)
    queue.enqueue(square, 1, job_id="finished")
    run_all(store)
    queue.enqueue(square, 1, job_id="mine")
    run_all(store)
    store.hset(keys.job("waiting"), mapping={"status": "scheduled", "origin": "q", "data": "[]"})
    return queue


@pytest.mark.parametrize("keeps", [1, 3])
@pytest.mark.parametrize("name", WAYS)
def test_a_request_that_arrives_late_does_nothing(
    server: Server, store: redis.Redis, queue: Queue, monkeypatch: pytest.MonkeyPatch, name: str, keeps: int
) -> None:
    network = SlowNetwork(server, monkeypatch, keeps)
    WAYS[name](queue)
    assert len(network.kept) == keeps
    before = everything(store)
    assert not any(answer.startswith(b"-") for answer in network.deliver())
    assert everything(store) == before
    ran = run_all(store)
    afterwards = everything(store)
    network.deliver()
    assert everything(store) == afterwards
    assert run_all(store) == 0
    assert ran == (700 if name == "many" else int(name not in WAITING))


@pytest.mark.parametrize("name", WAYS)
def test_a_lost_reply_enqueues_nothing_twice(
    server: Server, store: redis.Redis, queue: Queue, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The first request is executed at once, and its job has run when the second one arrives."""
    network = SlowNetwork(server, monkeypatch, 1, delivers=True)
    ran: list[int] = []
    real = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: (ran.append(run_all(store)), real(seconds))[1])
    WAYS[name](queue)
    monkeypatch.undo()
    assert len(network.kept) == 1
    if name != "many":
        assert sum(ran) + run_all(store) <= 1
    else:
        assert sum(ran) + run_all(store) == 700


def test_an_id_that_exists_is_refused_also_in_a_slow_network(
    server: Server, store: redis.Redis, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.schedule(square, 2, every=3600, schedule_id="nightly")
    SlowNetwork(server, monkeypatch, 1)
    with pytest.raises(DuplicateJob):
        queue.enqueue(square, 2, unique=True, job_id="mine")
    SlowNetwork(server, monkeypatch, 1)
    with pytest.raises(DuplicateJob):
        queue.schedule(square, 2, every=3600, schedule_id="nightly", replace=False)


def test_marks_of_submits_expire(store: redis.Redis, queue: Queue) -> None:
    """An answered enqueue leaves no mark, a repeated one a mark that expires."""
    for way in WAYS.values():
        store.delete(keys.job("only"), keys.SCHEDULES)
        way(queue)
    assert all(0 < store.ttl(key) <= 86_400 for key in store.scan_iter(keys.submit("*")))


def test_a_queue_key_of_a_wrong_type_leaves_nothing_half_done(store: redis.Redis, queue: Queue) -> None:
    store.delete(keys.queue("q"))
    store.set(keys.queue("q"), "no list")
    before = everything(store)
    for options in ({}, {"ttl": 5}):  # an id of one's own goes by PUT, which moves it aside
        with pytest.raises(StoreRefused, match="wrong type"):
            queue.enqueue(square, 1, **options)
    assert everything(store) == before
