"""Many jobs are chosen by queue, task, error and age, shown first, and changed in batches."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import rq
from fake_worker import fail, invoke
from helpers import Server
from rq.rate_limit import RateLimit

from jobqueue.admin import bulk
from jobqueue.admin.selection import Selection, failed, waiting
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.store.connection import redis
from jobqueue.tasks import square

BAD = "Traceback (most recent call last):\n  File x\nValueError: bad\n"
LATE = "Traceback (most recent call last):\n  File x\nTimeoutError: too late\n"


@pytest.fixture
def queue(store: redis.Redis) -> Queue:
    return Queue("q", store)


@pytest.fixture
def jobq(server: Server) -> Any:
    return functools.partial(invoke, server.url)


def ids(found: Iterator[Any]) -> set[str]:
    return {job_id for page in found for job_id in page.ids}


def make_old(store: redis.Redis, job_id: str, seconds: float) -> None:
    then = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="microseconds")[:26] + "Z"
    store.hset(keys.job(job_id), mapping={"ended_at": then, "enqueued_at": then})


# -- what is chosen ------------------------------------------------------------------------------------------------


def test_failed_jobs_are_chosen_by_each_option(store: redis.Redis, queue: Queue) -> None:
    bad, late = queue.enqueue(square, 1), queue.enqueue("shop.tasks.resize", 2)
    pickled = rq.Queue("other", store).enqueue(square, 3)
    for job, text in ((bad, BAD), (late, LATE), (pickled, BAD)):
        fail(store, job.id, text)
    for job, age in ((bad, 1), (late, 3600), (pickled, 1)):
        make_old(store, job.id, age)

    def chosen(**options: Any) -> set[str]:
        return ids(failed(store, Selection(**options)))

    assert chosen() == {bad.id, late.id, pickled.id}
    assert chosen(queue="q") == {bad.id, late.id}
    assert chosen(task="square") == {bad.id, pickled.id}
    assert chosen(task="shop.tasks:resize") == chosen(task="resize") == {late.id}
    assert chosen(task="quare") == set()
    assert chosen(error="valueerror") == {bad.id, pickled.id}
    assert chosen(error="too late", queue="q") == {late.id}
    assert chosen(older_than=600.0) == {late.id}
    assert chosen(newer_than=600.0, queue="q") == {bad.id}


def test_waiting_jobs_are_found_in_queues_delayed_and_deferred(store: redis.Redis, queue: Queue) -> None:
    first = queue.enqueue(square, 1)
    jobs = [first, queue.enqueue_in(timedelta(hours=1), square, 2), queue.enqueue(square, 3, depends_on=first)]
    other = Queue("other", store).enqueue("shop.tasks.resize", 4)
    assert ids(waiting(store, Selection())) == {*(job.id for job in jobs), other.id}
    assert ids(waiting(store, Selection(queue="q"))) == {job.id for job in jobs}
    assert ids(waiting(store, Selection(task="resize"))) == {other.id}


def test_more_jobs_than_a_page_are_canceled_from_the_end(store: redis.Redis, queue: Queue) -> None:
    """What is canceled moves no job that is not read yet; nor does a worker that takes jobs meanwhile."""
    jobs = list(queue.enqueue_many(square, range(1300)))
    pages = (job_id for page in waiting(store, Selection()) for job_id in page.ids)
    done = bulk.in_batches(store, bulk.cancel, pages, sleep=lambda _: store.lpop(keys.queue("q")))
    results = list(done)
    assert len(results) == len({it.id for it in results})
    assert store.llen(keys.queue("q")) == 0
    canceled = store.zcard(keys.registry("canceled", "q"))
    assert canceled == sum(it.error is None for it in results)
    assert canceled >= len(jobs) - 26


# -- what is done --------------------------------------------------------------------------------------------------


def test_without_yes_it_only_shows(store: redis.Redis, queue: Queue, jobq: Any) -> None:
    for job in queue.enqueue_many(square, range(30)):
        fail(store, job.id, BAD)
    shown = jobq("failed", "requeue", "--all")
    assert shown.exit_code == 0
    assert "30 jobs would be requeued; 10 of them are shown. --yes does it" in shown.stderr
    assert len([line for line in shown.stdout.splitlines() if "square(" in line]) == 10
    as_json = json.loads(jobq("failed", "delete", "--error", "ValueError", "--json").stdout)
    assert (as_json["would"], as_json["jobs"], len(as_json["sample"])) == ("delete", 30, 10)
    assert as_json["sample"][0]["task"] == "jobqueue.tasks.square"
    assert store.zcard(keys.registry("failed", "q")) == 30
    assert "nothing to cancel" in jobq("cancel", "--all").stderr


def test_with_yes_it_acts(store: redis.Redis, queue: Queue, jobq: Any) -> None:
    jobs = list(queue.enqueue_many(square, range(250)))
    for job in jobs:
        fail(store, job.id, BAD)
    assert jobq("failed", "requeue", "--task", "square", "--yes").stdout == "requeued 250 jobs\n"
    assert {i.decode() for i in store.lrange(keys.queue("q"), 0, -1)} == {job.id for job in jobs}
    assert store.hget(keys.job(jobs[0].id), "exc_info") is None
    assert store.hget(keys.job(jobs[0].id), "status") == b"queued"
    assert store.ttl(keys.job(jobs[0].id)) == -1
    assert jobq("cancel", "--queue", "q", "--yes").stdout == "canceled 250 jobs\n"
    assert store.zcard(keys.registry("canceled", "q")) == 250


def test_one_job_that_is_chosen_needs_no_yes(store: redis.Redis, queue: Queue, jobq: Any) -> None:
    job = queue.enqueue(square, 1)
    fail(store, job.id, BAD)
    assert jobq("failed", "delete", "--all").stdout == "deleted 1 job\n"
    assert store.keys("*" + job.id + "*") == []


def test_jobs_with_a_rate_limit(store: redis.Redis, queue: Queue, jobq: Any) -> None:
    """Requeue leaves them to RQ; delete frees their place, as RQ does."""
    job = rq.Queue("q", store).enqueue(square, 1, rate_limit=RateLimit("api", 1))
    fail(store, job.id, BAD)
    refused = jobq("failed", "requeue", "--all", "--yes")
    assert refused.exit_code == 1
    assert "is rate limited" in refused.stderr
    assert jobq("failed", "delete", "--all", "--yes").exit_code == 0
    assert store.exists(keys.job(job.id)) == 0


def test_many_errors_are_counted(store: redis.Redis, jobq: Any) -> None:
    for n in range(15):
        job = rq.Queue("q", store).enqueue(square, n, rate_limit=RateLimit(f"api{n}", 1))
        fail(store, job.id, BAD)
    shown = jobq("failed", "requeue", "--all", "--yes")
    lines = [line for line in shown.stderr.splitlines() if line.startswith("jobq: ")]
    assert len(lines) == 11
    assert lines[-1] == "jobq: 5 more errors like these"


def test_purge(store: redis.Redis, queue: Queue, jobq: Any) -> None:
    jobs = list(queue.enqueue_many(square, range(230)))
    limited = rq.Queue("q", store).enqueue(square, 1, rate_limit=RateLimit("api", 1))
    delayed = queue.enqueue_in(timedelta(hours=1), square, 2)
    assert "231 jobs would be deleted" in jobq("purge", "q").stderr
    assert store.llen(keys.queue("q")) == 231
    assert jobq("purge", "q", "--yes").stdout == "deleted 231 jobs\n"
    assert store.llen(keys.queue("q")) == 0
    assert [store.exists(keys.job(job.id)) for job in (jobs[0], jobs[-1], limited, delayed)] == [0, 0, 0, 1]
    assert store.zcard(keys.rate_limit("api") + ":allowed") == 0


def test_a_pause_follows_each_batch(store: redis.Redis, queue: Queue) -> None:
    """The workers need the store's core too."""
    pauses: list[float] = []
    everything = [job.id for job in queue.enqueue_many(square, range(350))]
    began = time.monotonic()
    assert len(list(bulk.in_batches(store, bulk.cancel, everything, sleep=pauses.append))) == 350
    took = time.monotonic() - began
    assert len(pauses) == 350 // bulk.BATCH
    assert 0 < sum(pauses) <= bulk.PAUSE * took


@pytest.mark.parametrize(
    "command",
    [
        ["failed", "requeue"],
        ["failed", "requeue", "x", "--all"],
        ["failed", "delete", "x", "--task", "square"],
        ["failed", "delete", "--error", ""],
        ["failed", "delete", "--older-than", "nan"],
        ["cancel"],
        ["cancel", ""],
        ["cancel", "x" * 10_000],
        ["cancel", "x", "-q", "q"],
        ["cancel", "--task", ""],
        ["purge"],
        ["purge", ""],
    ],
)
def test_incomplete_choices_are_refused(jobq: Any, command: list[str]) -> None:
    assert jobq(*command).exit_code == 2
