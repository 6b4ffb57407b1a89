"""Delayed jobs, schedules and cron files while processes are killed: every occurrence is enqueued once, whoever leads
or dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
import rq
import rq.cron
from conftest import Start
from helpers import ROOT, Server, Tree, abandon, eventually, jobq, lines, program_path, status
from rq.serializers import JSONSerializer

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys


def waiting(store: redis.Redis) -> list[str]:
    return [job_id.decode() for job_id in store.lrange(keys.queue("default"), 0, -1)]


def hold_back(store: redis.Redis) -> None:
    """Keep workers from claiming, so that the queue shows which jobs were enqueued, and how often."""
    store.sadd(keys.PAUSED, "default")


def later(store: redis.Redis, n: int, record: Path, seconds: int, last: int | None = None) -> list[str]:
    """Enqueue delayed jobs that are due within three seconds, ``seconds`` from now; the last one after ``last``
    seconds."""
    queue = rq.Queue(connection=store, serializer=JSONSerializer)
    begin = datetime.now(UTC)
    delays = [seconds + 3 * i / n for i in range(n)]
    delays[-1] = last or delays[-1]
    with store.pipeline(transaction=False) as pipe:
        jobs = [
            queue.enqueue_at(begin + timedelta(seconds=delay), "samples.note", str(record), i, pipeline=pipe)
            for i, delay in enumerate(delays)
        ]
        pipe.execute()
    return [job.id for job in jobs]


def test_delayed_jobs_are_enqueued_once_while_a_scheduler_is_killed(
    start: Start, store: redis.Redis, tmp_path: Path
) -> None:
    hold_back(store)
    record = tmp_path / "record"
    trees = [start("-n", "1", JOBQ_LEASE="1") for _ in range(2)]
    eventually(lambda: store.scard(keys.OWNERS) == 2)
    ids = later(store, 1000, record, 2, last=3600)
    scheduled = keys.registry("scheduled", "default")
    eventually(lambda: store.llen(keys.queue("default")) > 0)
    trees[0].kill()
    store.zadd(scheduled, {ids[-1]: int(time.time())})  # for the survivor, however long the test was delayed
    eventually(lambda: store.zcard(scheduled) == 0)
    assert sorted(waiting(store)) == sorted(ids)  # each once
    store.delete(keys.PAUSED)
    eventually(lambda: len(lines(record)) >= 1000)
    assert sorted(map(int, lines(record))) == list(range(1000))
    eventually(lambda: {status(store, job_id) for job_id in ids} == {"finished"})
    only_the_living(store)


def only_the_living(store: redis.Redis) -> None:
    """Wait until one tree is left, and has struck off the owners of the dead ones."""
    eventually(lambda: (store.scard(keys.OWNERS), store.scard(keys.WORKERS)) == (1, 1))


def test_a_schedule_while_its_schedulers_are_killed(start: Start, store: redis.Redis, queue: Queue) -> None:
    """Four times a worker is killed, at any moment between two occurrences, and the others continue; then all are
    dead."""
    hold_back(store)
    queue.schedule("square", 2, every=0.2, schedule_id="fast")
    trees = [start("-n", "1", JOBQ_LEASE="1") for _ in range(2)]
    for n in range(4):
        eventually(lambda tree=trees[n]: tree.children())  # type: ignore[misc]
        so_far = store.llen(keys.queue("default"))
        eventually(lambda so_far=so_far: store.llen(keys.queue("default")) >= so_far + 5)  # type: ignore[misc]
        trees[n].kill()
        if n < 2:
            trees.append(start("-n", "1", JOBQ_LEASE="1"))
    missed = store.zscore(keys.SCHEDULES, "fast")
    eventually(lambda: missed < time.time() - 1)
    so_far = store.llen(keys.queue("default"))
    start("-n", "1", JOBQ_LEASE="1")
    eventually(lambda: store.llen(keys.queue("default")) >= so_far + 3)
    on_the_grid(waiting(store), 200)
    assert f"fast-{round(missed * 1000)}" in waiting(store)  # missed ones once, then the next on the grid
    assert store.hget(keys.schedule("fast"), "runs") is not None
    only_the_living(store)


def on_the_grid(ids: list[str], step_ms: int) -> None:
    """Assert that the times are in order, without repeats, each a whole number of intervals after the first."""
    times = [int(job_id.rpartition("-")[2]) for job_id in ids]
    assert times == sorted(set(times))
    assert all(min((at - times[0]) % step_ms, (times[0] - at) % step_ms) <= 1 for at in times)


# -- cron files ----------------------------------------------------------------------------------------------------

ENTRIES = """
from rq import cron
from jobqueue.tasks import square
cron.register(square, "default", args=(2,), interval=1, name="two")
cron.register(square, "default", args=(3,), interval=1, name="three")
"""


@pytest.fixture
def cron_file(tmp_path: Path) -> str:
    path = tmp_path / "entries.py"
    path.write_text(ENTRIES)
    return str(path)


def leader(store: redis.Redis) -> str:
    return (store.get(keys.CRON_LEADER) or b"").decode()  # type: ignore[union-attr]


def leads(store: redis.Redis, tree: Tree) -> bool:
    return f"-{tree.pid}-" in leader(store)


def came(store: redis.Redis) -> int:
    """Return how often "two" was enqueued; never twice for the same time."""
    ids = [one for one in waiting(store) if one.startswith("two-")]
    on_the_grid(ids, 1000)
    return len(ids)


def test_a_cron_file_whose_leader_is_killed(start: Start, store: redis.Redis, cron_file: str) -> None:
    hold_back(store)
    trees = [start("-n", "1", "--cron", cron_file, JOBQ_LEASE="1") for _ in range(2)]
    eventually(lambda: came(store) >= 2 and store.scard(keys.OWNERS) == 2)
    [first] = [tree for tree in trees if leads(store, tree)]
    [second] = [tree for tree in trees if tree is not first]
    first.kill()
    so_far = came(store)
    eventually(lambda: leads(store, second))
    eventually(lambda: came(store) >= so_far + 3)
    only_the_living(store)
    assert second.stop() == 0
    assert leader(store) == ""  # it resigned


def test_a_stopped_cron_leader_that_continues_enqueues_nothing(
    start: Start, store: redis.Redis, cron_file: str
) -> None:
    """The stopped leader still counts itself as the leader: its writes are refused."""
    hold_back(store)
    first = start("-n", "1", "--cron", cron_file)
    eventually(lambda: leads(store, first))
    second = start("-n", "1", "--cron", cron_file)
    eventually(lambda: store.scard(keys.WORKERS) == 2)
    first.send(signal.SIGSTOP)
    try:
        eventually(lambda: leads(store, second))
        so_far = came(store)
        eventually(lambda: came(store) >= so_far + 2)
    finally:
        first.send(signal.SIGCONT)
    so_far = came(store)
    eventually(lambda: came(store) >= so_far + 3)
    assert leads(store, second)


@pytest.fixture
def cron_process(server: Server, cron_file: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "jobqueue.cli", "cron", cron_file, "--url", server.url]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": program_path(ROOT)}, stderr=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.wait()
    process.stderr.close()  # type: ignore[union-attr]


def test_jobq_cron_serves_without_a_worker(
    server: Server, store: redis.Redis, cron_process: subprocess.Popen[str]
) -> None:
    eventually(lambda: came(store) >= 2)
    listed = jobq(server, "schedule", "list").stdout
    assert "three" in listed
    assert "not served" not in listed
    [scheduler] = rq.cron.CronScheduler.all(store)
    assert {job.name for job in scheduler.get_jobs()} == {"two", "three"}
    cron_process.send_signal(signal.SIGTERM)
    assert cron_process.wait(20) == 0
    assert leader(store) == ""
    assert "not served" in jobq(server, "schedule", "list").stdout


def test_rqs_own_cron_file_runs_in_a_worker(start: Start, mode: str, store: redis.Redis, cron_file: str) -> None:
    start("-n", "1", "--cron", cron_file, mode=mode, serve=())
    eventually(lambda: len(rq.cron.get_cron_job_ids("two", store)) >= 2)
    oldest = rq.cron.get_cron_job_ids("two", store)[-1]
    eventually(lambda: status(store, oldest) == "finished")


# -- with RQ's scheduler -------------------------------------------------------------------------------------------


@pytest.fixture
def rq_worker(server: Server, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start ``rq worker --with-scheduler``."""
    paths = program_path(ROOT, ROOT / "tests")
    command = [sys.executable, "-m", "rq.cli", "worker", "--url", server.url, "--with-scheduler", "--quiet"]
    command += ["-w", "rq.worker.SimpleWorker", "--serializer", "json"]
    with open(tmp_path / "rq.log", "wb") as log:
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": paths}, cwd=tmp_path, stdout=log, stderr=log
        )
    yield process
    process.terminate()
    process.wait(30)


def test_a_worker_beside_rqs_scheduler(
    start: Start, store: redis.Redis, rq_worker: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    record = tmp_path / "record"
    start("-n", "1")
    eventually(lambda: store.scard(keys.WORKERS) == 2)
    ids = later(store, 300, record, 1)
    eventually(lambda: len(lines(record)) >= 300)
    eventually(lambda: {status(store, job_id) for job_id in ids} == {"finished"})
    rq_worker.terminate()
    rq_worker.wait(30)
    assert sorted(map(int, lines(record))) == list(range(300))


# -- RQ's maintenance ----------------------------------------------------------------------------------------------


def test_jobs_that_a_killed_rq_worker_left(
    start: Start, mode: str, server: Server, store: redis.Redis, tmp_path: Path
) -> None:
    """Its job's failure callback is called, in a child; a job that it lost between two lists, and one that was ready,
    run too."""
    paths = program_path(ROOT, ROOT / "tests")
    command = [sys.executable, "-m", "rq.cli", "worker", "--url", server.url, "--quiet", "-w", "rq.worker.SimpleWorker"]
    process = subprocess.Popen([*command, "--serializer", "json"], env={**os.environ, "PYTHONPATH": paths})
    queue = rq.Queue(connection=store, serializer=JSONSerializer)
    record = str(tmp_path / "record")
    ran = queue.enqueue("samples.wait_for", record, 1, "/nowhere", on_failure=rq.Callback("samples.on_failure"))
    eventually(lambda: lines(record))
    process.kill()
    process.wait()
    for member in store.zrange(keys.registry("wip", "default"), 0, -1):  # its time passes
        store.zadd(keys.registry("wip", "default"), {member: time.time() - 1})
    ready = queue.enqueue("samples.ok", 5)
    store.lrem(queue.key, 1, ready.id)
    store.hset(keys.job(ready.id), "status", "ready_to_enqueue")
    store.zadd(keys.registry("ready", "default"), {ready.id: 1})
    assert start("--burst", "-n", "1", mode=mode).wait() == 0
    assert ran.get_status(refresh=True).value == "failed"
    assert store.hget(f"words:{ran.id}", "failure").startswith(b"AbandonedJobError")  # type: ignore[union-attr]
    assert ready.return_value(refresh=True) == 5
    for key in store.scan_iter(f"{keys.PREFIX}:execution*"):  # RQ lets them expire
        store.delete(key)
    for key in store.smembers(keys.WORKERS):
        store.delete(f"{key.decode()}:executions")
    store.delete(keys.WORKERS, keys.workers_of("default"))


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_a_callback_that_ends_the_process_of_rqs_maintenance(
    start: Start, mode: str, store: redis.Redis, how: str
) -> None:
    """The entries after its job are maintained all the same, and the queue's lock is released."""
    queue = rq.Queue(connection=store, serializer=JSONSerializer)
    told = {"on_failure": rq.Callback("samples_unfriendly.be_rude_on_failure"), "meta": {"how": how}}
    jobs = [queue.enqueue("samples.ok", n, **told) for n in range(3)]
    for job in jobs:
        abandon(store, queue, job)
    tree = start("-n", "1", "--maintenance-interval", "1", mode=mode, serve=("samples", "samples_unfriendly"))
    eventually(lambda: {job.get_status(refresh=True).value for job in jobs} == {"failed"}, 60)
    eventually(lambda: not store.exists(queue.registry_cleaning_key))
    assert sum(store.llen(f"called:{job.id}") for job in jobs) == 1
    assert "done again without callbacks" in tree.log
    assert tree.stop() == 0
    for pattern in ("execution*", "worker:dead*"):  # RQ lets them expire
        for key in store.scan_iter(f"{keys.PREFIX}:{pattern}"):
            store.delete(key)


def test_maintenance_is_repeated(start: Start, store: redis.Redis, queue: Queue) -> None:
    tree = start("-n", "1", "--maintenance-interval", "1")
    eventually(lambda: store.scard(keys.WORKERS))
    for n in range(2):
        store.zadd(keys.registry("finished", "default"), {f"old-{n}": 1})
        eventually(lambda: not store.exists(keys.registry("finished", "default")))
    assert tree.stop() == 0
