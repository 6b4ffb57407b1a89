from __future__ import annotations

import base64
import logging
import pickle
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from own_server import OwnServer, fail, finish, own_server

from jobqueue import keys, results
from jobqueue.connection import Address, redis
from jobqueue.connection import client as client_of
from jobqueue.errors import (
    JobCanceled,
    JobError,
    JobFailed,
    JobStopped,
    NoSuchJob,
    ResultTimeout,
    StoreUnreachable,
)
from jobqueue.producer import Queue
from jobqueue.results import Waiter, last_line
from jobqueue.tasks import square

TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\n    1/0\nValueError: bad\nmore of it\n'


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with own_server() as running:
        yield running


@pytest.fixture
def client(server: OwnServer) -> Iterator[redis.Redis]:
    with server.client() as r:
        r.flushall()
        yield r


@pytest.fixture
def queue(client: redis.Redis) -> Queue:
    return Queue("q", client)


@pytest.fixture
def later() -> Iterator[Callable[..., None]]:
    """Do something a little later, in a thread that is joined."""
    threads: list[threading.Timer] = []

    def schedule(seconds: float, act: Callable[..., Any], *args: Any) -> None:
        threads.append(threading.Timer(seconds, act, args))
        threads[-1].start()

    yield schedule
    for thread in threads:
        thread.join()


def test_a_result_that_comes_and_one_that_is_there(client: redis.Redis, queue: Queue, later: Any) -> None:
    job = queue.enqueue(square, 5)
    later(0.1, finish, client, job.id, 25)
    begun = time.monotonic()
    assert job.result(timeout=10) == 25
    assert time.monotonic() - begun < 0.8  # it was woken, not polled
    assert job.result(timeout=10) == 25


def test_none_is_a_result(client: redis.Redis, queue: Queue) -> None:
    job = queue.enqueue(square, 5)
    finish(client, job.id)
    assert job.result(timeout=10) is None


def test_results_come_in_order_whatever_order_they_arrive_in(client: redis.Redis, queue: Queue) -> None:
    batch = queue.enqueue_many(square, range(300))
    for i, job_id in reversed(list(enumerate(batch.ids))):
        finish(client, job_id, i)
    assert list(batch.results(timeout=20)) == list(range(300))


def test_a_job_that_holds_up_the_order_holds_up_only_the_order(client: redis.Redis, queue: Queue) -> None:
    batch = queue.enqueue_many(square, range(1000))
    for i, job_id in enumerate(batch.ids):
        if i:
            finish(client, job_id, i)
    outcomes = queue.waiter().outcomes(batch.ids, timeout=0.5)
    with pytest.raises(ResultTimeout) as caught:
        next(outcomes)
    assert caught.value.job_id == batch[0].id
    assert isinstance(caught.value, TimeoutError)
    finish(client, batch[0].id, 0)
    assert list(batch.results(timeout=20)) == list(range(1000))


def test_memory_is_bounded(client: redis.Redis, queue: Queue) -> None:
    """The results are 20 MB in all, a window of them is less than 3 MB."""
    text = "x" * 20_000
    batch = queue.enqueue_many(square, range(1000))
    for job_id in batch.ids:
        finish(client, job_id, text)
    tracemalloc.start()
    try:
        assert sum(len(value) for value in batch.results(timeout=60)) == 20_000_000
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()


def test_a_failure_has_the_traceback(client: redis.Redis, queue: Queue) -> None:
    job = queue.enqueue(square, 5)
    fail(client, job.id, TRACEBACK)
    with pytest.raises(JobFailed, match=r"failed: ValueError: bad$") as caught:
        job.result(timeout=10)
    assert caught.value.traceback == TRACEBACK
    assert caught.value.job_id == job.id


def test_errors_are_raised_at_their_place(client: redis.Redis, queue: Queue) -> None:
    batch = queue.enqueue_many(square, range(3))
    finish(client, batch[0].id, 0)
    fail(client, batch[1].id, TRACEBACK)
    values = batch.results(timeout=10)
    assert next(values) == 0
    with pytest.raises(JobFailed):
        next(values)


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (lambda r, job: job.cancel(), JobCanceled),
        (lambda r, job: job.delete(), NoSuchJob),
        (lambda r, job: r.hset(keys.job(job.id), "status", "stopped"), JobStopped),
        (lambda r, job: fail(r, job.id, TRACEBACK, "stopped"), JobStopped),
        (lambda r, job: r.hset(keys.job(job.id), mapping={"status": "failed", "exc_info": TRACEBACK}), JobFailed),
        (lambda r, job: r.hset(keys.job(job.id), "status", "finished"), NoSuchJob),
        (lambda r, job: r.xadd(keys.results(job.id), {"type": 5}), None),
    ],
    ids=["canceled", "deleted", "stopped", "stopped while running", "failed", "expired", "out of retries"],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_ends_that_no_result_tells(
    client: redis.Redis, queue: Queue, later: Any, end: Any, error: type[Exception] | None, when: str
) -> None:
    job = queue.enqueue(square, 5)
    if error is None:
        client.hset(keys.job(job.id), "status", "failed")
    if when == "before":
        end(client, queue.job_class.fetch(job.id, connection=client))
    else:
        later(0.15, end, client, queue.job_class.fetch(job.id, connection=client))
    with pytest.raises(error or JobFailed):
        job.result(timeout=10)


def test_a_retry_is_no_end(client: redis.Redis, queue: Queue, later: Any) -> None:
    job = queue.enqueue(square, 5)
    client.xadd(keys.results(job.id), {"type": 4})
    later(0.1, finish, client, job.id, 25)
    assert job.result(timeout=10) == 25


def test_a_failure_before_a_requeue_is_no_end(client: redis.Redis, queue: Queue, later: Any) -> None:
    job = queue.enqueue(square, 5)
    fail(client, job.id, TRACEBACK)
    client.hset(keys.job(job.id), "status", "queued")
    later(0.3, finish, client, job.id, 25)
    assert job.result(timeout=10) == 25


def test_an_unreadable_result_is_an_error_of_that_job(client: redis.Redis, queue: Queue) -> None:
    job = queue.enqueue(square, 5)
    client.xadd(keys.results(job.id), {"type": 1, "return_value": base64.b64encode(pickle.dumps(1))})
    with pytest.raises(JobError, match="cannot be read"):
        job.result(timeout=10)


def test_nothing_is_unpickled_unless_asked(client: redis.Redis, queue: Queue) -> None:
    payload = base64.b64encode(pickle.dumps({1, 2}))
    job = queue.enqueue(square, 5)
    client.xadd(keys.results(job.id), {"type": 1, "return_value": payload})
    assert queue.job_class.fetch(job.id, connection=client).result(timeout=10) == {1, 2}
    with pytest.raises(JobError):
        queue.fetch_job(job.id).result(timeout=10)


def test_a_source_that_has_nothing_right_now(client: redis.Redis, queue: Queue) -> None:
    first, second = queue.enqueue_many(square, [1, 2])
    finish(client, first.id, 1)
    finish(client, second.id, 4)
    seen = Waiter(client).outcomes(iter([first.id, None, None, second.id, None]), timeout=10)
    assert [outcome.get() for outcome in seen] == [1, 4]


def test_map_streams_with_a_bounded_number_of_open_jobs(client: redis.Redis, queue: Queue) -> None:
    """A stand-in worker finishes jobs; the producer never runs far ahead of it."""
    stop = threading.Event()
    most = [0]

    def work() -> None:
        while not stop.is_set():
            most[0] = max(most[0], client.llen(keys.queue("q")))
            popped = client.blpop(keys.queue("q"), 1)
            if popped:
                job = queue.job_class.fetch(popped[1].decode(), connection=client)
                finish(client, job.id, job.args[0] ** 2)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        assert list(queue.map("square", range(2000), timeout=60)) == [i * i for i in range(2000)]
    finally:
        stop.set()
        worker.join()
    assert most[0] <= 500 + results.WINDOW
    assert client.hget(next(iter(client.scan_iter(keys.job("*")))), "result_ttl") == b"86400"


def test_map_begins_at_once_and_checks_its_options(client: redis.Redis, queue: Queue) -> None:
    queue.map(square, [1, 2])
    assert client.llen(keys.queue("q")) == 2


@pytest.mark.parametrize("protocol", [2, 3])
def test_both_versions_of_the_wire_protocol(server: OwnServer, client: redis.Redis, protocol: int) -> None:
    with redis.Redis(unix_socket_path=server.socket, protocol=protocol) as r:
        job = Queue("q", r).enqueue(square, 5)
        finish(client, job.id, 25)
        assert job.result(timeout=10) == 25


def test_an_outage_is_a_pause(caplog: pytest.LogCaptureFixture) -> None:
    with own_server() as server, server.client() as r:
        queue = Queue("q", r)
        job = queue.enqueue(square, 5)
        answers: list[Any] = []
        waiter = threading.Thread(target=lambda: answers.append(job.result(timeout=60)))
        waiter.start()
        deadline = time.monotonic() + 10
        while not any(c["cmd"] == "xread" for c in r.client_list()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        server.stop()
        time.sleep(0.3)
        server.start()
        finish(r, job.id, 25)
        waiter.join(30)
        assert answers == [25]
    said = [record for record in caplog.records if record.name == "jobqueue.results"]
    assert [record.levelno for record in said] == [logging.WARNING]


def test_a_store_that_never_answered_is_an_error_at_once(tmp_path: Any) -> None:
    with client_of(Address(unix_socket_path=str(tmp_path / "nothing"))) as r, pytest.raises(StoreUnreachable):
        list(Waiter(r).outcomes(["a"], timeout=10))


@pytest.mark.parametrize(
    ("traceback", "line"),
    [
        (TRACEBACK, "ValueError: bad"),
        ("one line", "one line"),
        ("", "no traceback was kept"),
        ("Traceback\n  File\nError: x\n  indented message", "Error: x"),
    ],
)
def test_last_line(traceback: str, line: str) -> None:
    assert last_line(traceback) == line
