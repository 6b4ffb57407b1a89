"""The message for a caller that waits for a job which no worker will run."""

from __future__ import annotations

import logging

import fakeredis
import pytest
from fake_worker import finish
from helpers import Server, eventually

from jobqueue.errors import ResultTimeout
from jobqueue.executor.executor import JobExecutor
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.results import stalled as module
from jobqueue.results.stalled import WORKER_TTL, StallReporter, why_stalled
from jobqueue.store.connection import redis
from jobqueue.tasks import square


@pytest.fixture
def client() -> redis.Redis:
    return fakeredis.FakeRedis(server=fakeredis.FakeServer())


def register(client: redis.Redis, version: str, ttl_ms: int) -> None:
    client.hset(keys.worker("w"), "version", version)
    client.pexpire(keys.worker("w"), ttl_ms)
    client.sadd(keys.workers_of("q x"), keys.worker("w"))


def test_reasons_why_a_job_does_not_start(client: redis.Redis) -> None:
    job_id = Queue("q x", client).enqueue(square, 2).id
    nobody = "no worker serves 'q x' yet: if none is starting, start one with jobq worker 'q x'"
    assert why_stalled(client, job_id) == nobody
    register(client, "jobq 0.1", WORKER_TTL - 5_000)
    assert why_stalled(client, job_id) == ""
    register(client, "jobq 0.1", WORKER_TTL - 100_000)  # a killed worker: no heartbeat for a while
    assert why_stalled(client, job_id) == nobody
    register(client, "3.0", 100_000)  # RQ's own workers send none while they wait
    assert why_stalled(client, job_id) == ""
    client.sadd(keys.PAUSED, "q x")
    assert why_stalled(client, job_id) == "queue 'q x' is paused: jobq resume 'q x' lets it go on"
    client.set(keys.SUSPENDED, 1)
    assert why_stalled(client, job_id) == "all workers are suspended: jobq resume lets them go on"
    client.hset(keys.job(job_id), "status", "started")
    assert why_stalled(client, job_id) == ""
    assert why_stalled(client, "nobody") == ""
    other = Queue("default", client).enqueue(square, 2).id
    client.delete(keys.SUSPENDED)
    assert (
        why_stalled(client, other) == "no worker serves 'default' yet: if none is starting, start one with jobq worker"
    )


def test_the_reason_is_given_once_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said, reasons = [100.0], [], [""]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    silence = StallReporter(lambda: reasons[0], said.append)
    for heard in (False, False, False, True, False, False):  # something comes now and then
        silence.step(heard)
        now[0] += 1
    reasons[0] = "nobody"
    for _ in range(2):
        silence.step(False)
        now[0] += 1
    assert said == ["nobody"]
    now[0] += 100
    for _ in range(30):
        silence.step(False)
        now[0] += 1
    assert said == ["nobody"]


def test_a_wait_in_python_warns(server: Server, store: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    queue = Queue("default", store)
    job = queue.enqueue(square, 2)
    with pytest.raises(ResultTimeout):
        job.result(5)
    with pytest.raises(ResultTimeout):
        list(queue.map(square, [1], timeout=5))
    warning = (
        "Waiting for results, but no worker serves 'default' yet: if none is starting, start one with jobq worker."
    )
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == [warning] * 2


def test_an_executor_without_workers_warns(
    server: Server, store: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with JobExecutor(queue="default", url=server.url) as executor:
        future = executor.submit(square, 2)
        eventually(lambda: "no worker serves 'default'" in caplog.text)
        finish(store, store.lpop(keys.queue("default")).decode(), 4)
        assert future.result(30) == 4
    assert caplog.text.count("no worker serves") == 1
