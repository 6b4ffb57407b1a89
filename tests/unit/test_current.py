"""The current job of a job is an RQ job in the job's own format, and is read only when it is used."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import redis
import rq
from rq.job import Job, JobStatus

from jobqueue.errors import BadValue, NotServed
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.serializers import Auto
from jobqueue.store.connection import Address, client
from jobqueue.workers.running.current import CurrentJob
from jobqueue.workers.running.runner import Runner
from jobqueue.workers.shared.settings import Settings

BOTH = ("json", "pickle")


def formats(accept: tuple[str, ...]) -> Callable[[bytes], Any]:
    address = Address(url="redis://127.0.0.1:1/0")
    return Runner(Settings(address, "w", ("default",), children=1, slots=1, accept=accept)).serializer_of


def current(store: redis.Redis, job: Job, accept: tuple[str, ...] = BOTH) -> CurrentJob:
    return CurrentJob(job.id, connection=store, worker="w", serializer_of=formats(accept))


def test_nothing_is_read_before_the_job_is_used() -> None:
    nowhere = client(Address(url="redis://127.0.0.1:1/0"))
    job = CurrentJob("some-id", connection=nowhere, worker="w", serializer_of=formats(BOTH))
    assert job.id == "some-id"
    assert job.changes() == {}
    assert not job.settled_by_rq
    with pytest.raises(redis.ConnectionError):
        _ = job.description


@pytest.mark.parametrize("make", [Queue, rq.Queue], ids=["json", "pickle"])
def test_meta_stays_in_the_jobs_format(store: redis.Redis, make: type[rq.Queue]) -> None:
    job = make(connection=store).enqueue("samples.ok", 1, meta={"who": "me"})
    mine = current(store, job)
    mine.meta["progress"] = 50
    mine.save_meta()
    assert job.get_meta() == {"who": "me", "progress": 50}
    assert not mine.settled_by_rq


def test_pickled_meta_is_read_only_where_pickle_is_accepted(store: redis.Redis, queue: Queue) -> None:
    job = queue.enqueue("samples.ok", 1)
    pickled = pickle.dumps({"who": "me"})
    store.hset(keys.job(job.id), "meta", pickled)
    assert current(store, job).meta == {"who": "me"}
    assert current(store, job, ("json",)).meta == {"unserialized": pickled}


def test_the_dependencies_of_the_current_job(store: redis.Redis) -> None:
    queue = rq.Queue(connection=store)
    parent = queue.enqueue("samples.ok", 1)
    child = queue.enqueue("samples.ok", 2, depends_on=parent)
    mine = current(store, child)
    assert mine.dependency == parent
    assert type(mine.dependency) is Job
    assert mine.fetch_dependencies() == [parent]


def test_a_pickled_result_of_a_dependency_is_refused_where_pickle_is(store: redis.Redis, queue: Queue) -> None:
    parent = rq.Queue(connection=store).enqueue("samples.ok", 1)
    child = queue.enqueue("samples.ok", 2, depends_on=parent)
    rq.SimpleWorker([rq.Queue(connection=store)], connection=store).work(burst=True, max_jobs=1)
    dependency = current(store, child).dependency
    assert dependency is not None
    assert dependency.return_value() == 1
    dependency = current(store, child, ("json",)).dependency
    assert dependency is not None
    with pytest.raises(NotServed, match="--accept json,pickle"):
        dependency.return_value()


def test_changes_that_a_job_makes_to_itself_are_reported(store: redis.Redis, queue: Queue) -> None:
    job = queue.enqueue("samples.ok", 1, retry=rq.Retry(max=3, interval=[1, 2, 3]))
    mine = current(store, job)
    assert mine.get_status() is JobStatus.STARTED
    assert not mine.settled_by_rq
    mine.retries_left = 0
    assert mine.retry_intervals is not None
    mine.retry_intervals.pop()
    assert mine.settled_by_rq
    assert mine.changes() == {"retries_left": 0, "retry_intervals": [1, 2], "meta": {}}


def test_the_current_job_equals_the_rq_job(store: redis.Redis, queue: Queue) -> None:
    job = queue.enqueue("samples.ok", 1)
    assert current(store, job) == job
    assert job == current(store, job)
    assert current(store, job) != queue.enqueue("samples.ok", 1)
    assert {current(store, job), current(store, job)} == {current(store, job)}


@pytest.mark.parametrize("odd", [1.5, float("nan"), True])
def test_values_that_could_not_be_read_again_are_not_saved(store: redis.Redis, queue: Queue, odd: Any) -> None:
    job = queue.enqueue("samples.ok", 5, result_ttl=60)
    own = current(store, job)
    own.result_ttl = odd
    with pytest.raises(BadValue, match="result_ttl"):
        own.save()
    assert Job.fetch(job.id, store, Auto).result_ttl == 60
