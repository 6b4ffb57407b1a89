from __future__ import annotations

import base64
import logging
import pickle
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_worker import fail, finish
from helpers import Server, eventually

from jobqueue.errors import (
    JobCanceled,
    JobError,
    JobFailed,
    JobStopped,
    NoSuchJob,
    ResultTimeout,
    StoreUnreachable,
)
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.results import waiter as results
from jobqueue.results.waiter import Waiter, last_line
from jobqueue.store.connection import Address, redis
from jobqueue.store.connection import client as client_of
from jobqueue.tasks import square

TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\n    1/0\nValueError: bad\nmore of it\n'


@pytest.fixture
def queue(store: redis.Redis) -> Queue:
    return Queue("q", store)


@pytest.fixture
def later() -> Iterator[Callable[..., None]]:
    """Call something a little later, in a thread that is joined."""
    threads: list[threading.Timer] = []

    def schedule(seconds: float, act: Callable[..., Any], *args: Any) -> None:
        threads.append(threading.Timer(seconds, act, args))
        threads[-1].start()

    yield schedule
    for thread in threads:
        thread.join()


def test_a_result_is_waited_for_or_read_at_once(
    store: redis.Redis, queue: Queue, later: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "BLOCK", 60.0)
    job = queue.enqueue(square, 5)
    later(0.1, finish, store, job.id, 25)
    begun = time.monotonic()
    assert job.result(timeout=60) == 25
    assert time.monotonic() - begun < 20  # the wait was ended by the result, not by a poll
    assert job.result(timeout=10) == 25


def test_a_timeout_of_zero_returns_what_is_there(store: redis.Redis, queue: Queue) -> None:
    jobs = [queue.enqueue(square, n) for n in range(4)]
    with pytest.raises(ResultTimeout):
        jobs[0].result(timeout=0)
    finish(store, jobs[0].id, 25)
    jobs[1].cancel()
    fail(store, jobs[2].id, TRACEBACK)
    assert jobs[0].result(timeout=0) == 25
    for job, error in zip(jobs[1:], (JobCanceled, JobFailed, ResultTimeout), strict=True):
        with pytest.raises(error):
            job.result(timeout=0)
    batch = queue.enqueue_many(square, range(700))
    for i, job_id in enumerate(batch.ids):
        finish(store, job_id, i)
    assert list(batch.results(timeout=0)) == list(range(700))


def test_a_result_may_be_none(store: redis.Redis, queue: Queue) -> None:
    job = queue.enqueue(square, 5)
    finish(store, job.id)
    assert job.result(timeout=10) is None


def test_results_come_in_order_whatever_order_they_arrive_in(store: redis.Redis, queue: Queue) -> None:
    batch = queue.enqueue_many(square, range(300))
    for i, job_id in reversed(list(enumerate(batch.ids))):
        finish(store, job_id, i)
    assert list(batch.results(timeout=20)) == list(range(300))


def test_a_slow_job_delays_only_the_order_of_the_results(store: redis.Redis, queue: Queue) -> None:
    batch = queue.enqueue_many(square, range(1000))
    for i, job_id in enumerate(batch.ids):
        if i:
            finish(store, job_id, i)
    outcomes = queue.waiter().outcomes(batch.ids, timeout=0.5)
    with pytest.raises(ResultTimeout) as caught:
        next(outcomes)
    assert caught.value.job_id == batch[0].id
    assert isinstance(caught.value, TimeoutError)
    finish(store, batch[0].id, 0)
    assert list(batch.results(timeout=20)) == list(range(1000))


def test_memory_for_results_is_bounded(store: redis.Redis, queue: Queue) -> None:
    """The results are 20 MB in all, a window of them is less than 3 MB."""
    text = "x" * 20_000
    batch = queue.enqueue_many(square, range(1000))
    for job_id in batch.ids:
        finish(store, job_id, text)
    tracemalloc.start()
    try:
        assert sum(len(value) for value in batch.results(timeout=60)) == 20_000_000
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()


def test_a_failure_has_the_traceback(store: redis.Redis, queue: Queue) -> None:
    job = queue.enqueue(square, 5)
    fail(store, job.id, TRACEBACK)
    with pytest.raises(JobFailed, match=r"failed: ValueError: bad$") as caught:
        job.result(timeout=10)
    assert caught.value.traceback == TRACEBACK
    assert caught.value.job_id == job.id


def test_errors_are_raised_at_their_place(store: redis.Redis, queue: Queue) -> None:
    batch = queue.enqueue_many(square, range(3))
    finish(store, batch[0].id, 0)
    fail(store, batch[1].id, TRACEBACK)
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
def test_ends_of_jobs_that_are_not_in_the_result_stream(
    store: redis.Redis, queue: Queue, later: Any, end: Any, error: type[Exception] | None, when: str
) -> None:
    job = queue.enqueue(square, 5)
    if error is None:
        store.hset(keys.job(job.id), "status", "failed")
    if when == "before":
        end(store, queue.job_class.fetch(job.id, connection=store))
    else:
        later(0.15, end, store, queue.job_class.fetch(job.id, connection=store))
    with pytest.raises(error or JobFailed):
        job.result(timeout=10)


def test_a_job_that_is_retried_has_not_ended(store: redis.Redis, queue: Queue, later: Any) -> None:
    job = queue.enqueue(square, 5)
    store.xadd(keys.results(job.id), {"type": 4})
    later(0.1, finish, store, job.id, 25)
    assert job.result(timeout=10) == 25


def test_a_failure_before_a_requeue_does_not_end_the_wait(store: redis.Redis, queue: Queue, later: Any) -> None:
    job = queue.enqueue(square, 5)
    fail(store, job.id, TRACEBACK)
    store.hset(keys.job(job.id), "status", "queued")
    later(0.3, finish, store, job.id, 25)
    assert job.result(timeout=10) == 25


def test_an_unreadable_result_is_an_error_of_that_job(store: redis.Redis, queue: Queue) -> None:
    job = queue.enqueue(square, 5)
    store.xadd(keys.results(job.id), {"type": 1, "return_value": base64.b64encode(pickle.dumps(1))})
    with pytest.raises(JobError, match="cannot be read"):
        job.result(timeout=10)


def test_results_are_unpickled_only_if_asked(store: redis.Redis, queue: Queue) -> None:
    payload = base64.b64encode(pickle.dumps({1, 2}))
    job = queue.enqueue(square, 5)
    store.xadd(keys.results(job.id), {"type": 1, "return_value": payload})
    assert queue.job_class.fetch(job.id, connection=store).result(timeout=10) == {1, 2}
    with pytest.raises(JobError):
        queue.fetch_job(job.id).result(timeout=10)


def test_a_source_of_ids_may_pause(store: redis.Redis, queue: Queue) -> None:
    first, second = queue.enqueue_many(square, [1, 2])
    finish(store, first.id, 1)
    finish(store, second.id, 4)
    seen = Waiter(store).outcomes(iter([first.id, None, None, second.id, None]), timeout=10)
    assert [outcome.get() for outcome in seen] == [1, 4]


def test_map_streams_with_a_bounded_number_of_open_jobs(store: redis.Redis, queue: Queue) -> None:
    """A stand-in worker finishes jobs; the producer never runs far ahead of it."""
    stop = threading.Event()
    most = [0]

    def work() -> None:
        while not stop.is_set():
            most[0] = max(most[0], store.llen(keys.queue("q")))
            popped = store.blpop(keys.queue("q"), 1)
            if popped:
                job = queue.job_class.fetch(popped[1].decode(), connection=store)
                finish(store, job.id, job.args[0] ** 2)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        assert list(queue.map("square", range(2000), timeout=60)) == [i * i for i in range(2000)]
    finally:
        stop.set()
        worker.join()
    assert most[0] <= 500 + results.WINDOW
    assert store.hget(next(iter(store.scan_iter(keys.job("*")))), "result_ttl") == b"86400"


def test_map_starts_at_once_and_checks_its_options(store: redis.Redis, queue: Queue) -> None:
    queue.map(square, [1, 2])
    assert store.llen(keys.queue("q")) == 2


@pytest.mark.parametrize("protocol", [2, 3])
def test_both_versions_of_the_wire_protocol(server: Server, store: redis.Redis, protocol: int) -> None:
    with redis.Redis(unix_socket_path=server.socket, protocol=protocol) as r:
        job = Queue("q", r).enqueue(square, 5)
        finish(store, job.id, 25)
        assert job.result(timeout=10) == 25


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[Server]:
    """A server that can be killed and started again with what it had."""
    server = Server(tmp_path, keep=True)
    yield server
    server.stop()


def test_a_wait_for_results_survives_an_outage(lasting: Server, caplog: pytest.LogCaptureFixture) -> None:
    def said() -> list[int]:
        return [record.levelno for record in caplog.records if record.name == "jobqueue.results.waiter"]

    job = Queue("q", lasting.client).enqueue(square, 5)
    answers: list[Any] = []
    waiter = threading.Thread(target=lambda: answers.append(job.result(timeout=60)))
    waiter.start()
    eventually(lambda: any(c["cmd"] == "xread" for c in lasting.client.client_list()))
    lasting.kill()
    eventually(said)
    lasting.start()
    finish(lasting.client, job.id, 25)
    waiter.join(30)
    assert answers == [25]
    assert said() == [logging.WARNING]


def test_a_store_that_never_answered_is_an_error_at_once(tmp_path: Any) -> None:
    with client_of(Address(unix_socket_path=str(tmp_path / "nothing"))) as r, pytest.raises(StoreUnreachable):
        list(Waiter(r).outcomes(["a"], timeout=10))


GROUP = """  + Exception Group Traceback (most recent call last):
  |   File "mine.py", line 1, in group
  | ExceptionGroup: all of it (2 sub-exceptions)
  +-+---------------- 1 ----------------
    | ValueError: 1
    +---------------- 2 ----------------
    | TypeError: x
    +------------------------------------
"""


@pytest.mark.parametrize(
    ("traceback", "line"),
    [
        (TRACEBACK, "ValueError: bad"),
        ("one line", "one line"),
        ("", "no traceback was kept"),
        ("Traceback\n  File\nError: x\n  indented message", "Error: x"),
        (GROUP, "ExceptionGroup: all of it (2 sub-exceptions)"),
        (f"{GROUP}\nDuring handling, another:\n\n{TRACEBACK}", "ValueError: bad"),
    ],
)
def test_the_last_line_of_a_traceback(traceback: str, line: str) -> None:
    assert last_line(traceback) == line
