"""An outcome that the store refuses fails its own job, with the reason, and does not stop the worker."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import rq
import samples
import samples_rq
import samples_unfriendly as unfriendly
from conftest import Start
from helpers import Server, Tree, assert_nothing_left, eventually, failed, submit
from rq import Callback, Retry
from rq.serializers import JSONSerializer
from samples import words_of

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys

LIMIT = 2**20  # bytes; the least that a server can be told
TOO_LARGE = 3 * LIMIT
WITHIN = 60.0


@pytest.fixture(params=["proto-max-bulk-len", "client-query-buffer-limit"])
def limited(request: pytest.FixtureRequest, store: redis.Redis) -> Iterator[str]:
    """A server that accepts 1 MB at most, by one of its settings."""
    before = store.config_get(request.param)[request.param]
    store.config_set(request.param, LIMIT)
    yield request.param
    store.config_set(request.param, before)


def ended(store: redis.Redis, job_id: str) -> str:
    status = (store.hget(keys.job(job_id), "status") or b"").decode()
    return status if status in ("finished", "failed") else ""


def fails_with_the_reason(store: redis.Redis, job: Any) -> None:
    assert eventually(lambda: ended(store, job.id), WITHIN) == "failed"
    assert "OutcomeRefused" in failed(store, job.id)
    assert store.xlen(keys.results(job.id)) == 1


def test_a_result_that_is_too_large_fails_its_job(
    start: Start, mode: str, queue: Queue, store: redis.Redis, limited: str
) -> None:
    """The outcomes of jobs that ran at the same time are recorded, and so are those of later jobs."""
    start("-n", "2", mode=mode)
    before = submit(queue, "samples.ok", [(n,) for n in range(20)])
    large = [queue.enqueue("samples.big", TOO_LARGE) for _ in range(2)]
    behind = submit(queue, "samples.ok", [(n,) for n in range(20)])
    assert [job.result(60) for job in (*before, *behind)] == list(range(20)) * 2
    for job in large:
        fails_with_the_reason(store, job)


def test_a_result_that_just_fits_is_recorded(
    start: Start, mode: str, queue: Queue, store: redis.Redis, limited: str
) -> None:
    start("-n", "4", mode=mode)
    jobs = [queue.enqueue("samples.big", 600_000) for _ in range(8)]  # together more than a request may have
    assert {len(job.result(60)) for job in jobs} == {600_000}


def test_an_outcome_that_rqs_finish_records_is_refused(
    start: Start, mode: str, queue: Queue, store: redis.Redis, limited: str
) -> None:
    """The store refuses the outcomes of jobs with a success callback, with retries, with dependents."""
    start("-n", "2", mode=mode, serve=("samples", "samples_unfriendly"))
    callbacks = {"on_success": Callback(unfriendly.on_success), "on_failure": Callback(samples.on_failure)}
    called = queue.enqueue("samples.big", TOO_LARGE, **callbacks)
    retried = queue.enqueue("samples.big", TOO_LARGE, retry=Retry(max=1))
    parent = queue.enqueue("samples.big", TOO_LARGE)
    queue.enqueue("samples.ok", 1, depends_on=parent)
    for job in (called, retried, parent):
        fails_with_the_reason(store, job)
    assert "OutcomeRefused" in (store.hget(words_of(called.id), "failure") or b"").decode()
    assert store.hget(keys.job(retried.id), "retries_left") == b"0"


def test_the_next_worker_is_not_affected(
    start: Start, mode: str, queue: Queue, store: redis.Redis, limited: str
) -> None:
    tree = start("-n", "1", mode=mode)
    job = queue.enqueue("samples.big", TOO_LARGE)
    eventually(lambda: ended(store, job.id), WITHIN)
    assert tree.stop() == 0
    start("-n", "1", mode=mode)
    assert queue.enqueue("samples.ok", 7).result(30) == 7


@pytest.mark.parametrize("place", ["SimpleWorker", "Worker"])
def test_refused_outcomes_with_rqs_worker_classes(
    place: str, server: Server, store: redis.Redis, limited: str, tmp_path: Path
) -> None:
    queue = rq.Queue(connection=store)
    large = queue.enqueue(samples.big, TOO_LARGE)
    called = queue.enqueue(samples.big, TOO_LARGE, on_success=Callback(unfriendly.on_success))
    small = queue.enqueue(samples.ok, 1)
    more = ("--url", server.url, "--worker-class", f"jobqueue.rq.{place}", "--burst")
    tree = Tree(server.url, tmp_path, more, {"JOBQ_LEASE": "1"}, command=("rq.cli", "worker"))
    try:
        assert tree.wait(WITHIN) == 0
    finally:
        tree.destroy()
    for job in (large, called):
        fails_with_the_reason(store, job)
    assert small.return_value() == 1


def test_times_that_no_store_accepts_are_cut(start: Start, mode: str, store: redis.Redis) -> None:
    """RQ's producers store such times, which ours refuse. They are cut to the store's limit, and other jobs are
    settled."""
    start("-n", "2", "--accept", "json,pickle", mode=mode)
    queue = rq.Queue(connection=store)
    told = {"result_ttl": sys.maxsize, "failure_ttl": sys.maxsize}
    jobs = [queue.enqueue(samples.ok, n, **told) for n in range(2)]
    jobs += [queue.enqueue(samples.ok, 1, on_success=Callback(samples.on_success), **told)]
    jobs += [queue.enqueue(samples.fail, "no", **told), queue.enqueue(samples.fail, "no", retry=Retry(1), **told)]
    small = queue.enqueue(samples.ok, 1)
    ends = [eventually(lambda job=job: ended(store, job.id), WITHIN) for job in (*jobs, small)]  # type: ignore[misc]
    assert ends == ["finished"] * 3 + ["failed"] * 2 + ["finished"]
    assert store.ttl(keys.job(jobs[0].id)) > 10**9


@pytest.mark.parametrize("place", ["thread", "process", "SimpleWorker", "Worker"])
def test_a_value_that_cannot_be_recorded_fails_its_own_job(
    place: str, server: Server, store: redis.Redis, tmp_path: Path
) -> None:
    """A value that cannot be recorded fails its own job, with the reason, and its callback is called once. Other jobs
    run once, and the workers continue: there are more such jobs than slots."""
    queue = rq.Queue(connection=store, serializer=JSONSerializer)
    called = {"on_success": Callback(samples_rq.note_success), "on_failure": Callback(samples_rq.note_failure)}
    told = {"job_timeout": 5, **called}
    good = [queue.enqueue(samples.nap, 0.5), queue.enqueue(samples.ok)]
    jobs = [
        queue.enqueue(samples_rq.set_odd, "result_ttl", kind, **told) for kind in ("timedelta", "Decimal", "fraction")
    ]
    jobs += [queue.enqueue(samples_rq.set_odd, name, "text", True, **told) for name in ("retries_left", "failure_ttl")]
    jobs += [queue.enqueue(samples_rq.fail_with_a_date_in_meta, retry=Retry(max=2), **told)]
    good += [queue.enqueue(samples.ok) for _ in range(5)]
    if place in ("thread", "process"):
        command, more = (), ("--mode", place, "-n", "2", "-I", "samples", "-I", "samples_rq", "--on-crash", "fail")
    else:
        command, more = (
            ("rq.cli", "worker"),
            ("--url", server.url, "--worker-class", f"jobqueue.rq.{place}", "-S", "json"),
        )
    tree = Tree(server.url, tmp_path, more, {"JOBQ_LEASE": "1"}, **({"command": command} if command else {}))
    try:
        for job in (*jobs, *good):
            eventually(lambda job=job: ended(store, job.id), WITHIN)  # type: ignore[misc]
        assert queue.enqueue(samples.ok, 7).latest_result(timeout=30).return_value == 7
        assert tree.stop() == 0
    finally:
        tree.destroy()
    assert {ended(store, job.id) for job in good} == {"finished"}
    for n, job in enumerate(jobs):
        assert ended(store, job.id) == "failed"
        assert re.search("Error|BadValue" if n < 3 else "ValueError: no", failed(store, job.id))  # the job can be read
        assert store.lrange(samples_rq.told(job.id), 0, -1) == [b"success", b"failure"][n >= 3 :]
        assert store.xlen(keys.results(job.id)) == 1
    assert_nothing_left([tree], store)
