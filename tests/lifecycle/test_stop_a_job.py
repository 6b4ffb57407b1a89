"""Stop one job: it ends as stopped, its stopped callback runs, and no other job is affected. RQ's commands to a
worker."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from conftest import Start
from helpers import Server, Tree, eventually, failed, jobq, lines, status, submit
from rq import Callback, Retry
from rq.command import (
    send_kill_horse_command,
    send_shutdown_command,
    send_stop_execution_command,
    send_stop_job_command,
)
from rq.job import Job
from samples import words_of

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.serializers import Auto

Way = Callable[[Server, str], None]


def by_jobq(server: Server, job_id: str) -> None:
    run = jobq(server, "stop", job_id)
    assert (run.returncode, run.stdout) == (0, f"stopped {job_id}\n"), run.stderr


def by_rqs_stop_job(server: Server, job_id: str) -> None:
    send_stop_job_command(server.client, job_id, serializer=Auto)


def by_rqs_stop_execution(server: Server, job_id: str) -> None:
    [execution] = Job.fetch(job_id, server.client, Auto).get_executions()
    send_stop_execution_command(server.client, job_id, execution.id)


def listening(store: redis.Redis) -> str:
    """Return the worker's name as soon as it receives commands; it may run a job before that."""
    [key] = eventually(lambda: store.smembers(keys.WORKERS))
    name = str(key.decode().removeprefix(keys.worker("")))  # type: ignore[union-attr]
    eventually(lambda: store.pubsub_numsub(keys.channel(name))[0][1])
    return name


@pytest.mark.parametrize(
    ("how", "stop"), [("sleep", by_jobq), ("spin", by_rqs_stop_job), ("hold", by_rqs_stop_execution)]
)
def test_a_running_job_is_stopped(
    start: Start, mode: str, server: Server, queue: Queue, tmp_path: Path, how: str, stop: Way
) -> None:
    """The job is stopped whatever it does: it sleeps in a call, computes, or holds the GIL in C code."""
    record, store = tmp_path / "record", server.client
    tree = start("-n", "2", mode=mode)
    on_stopped = Callback("samples.on_stopped")
    call = ("samples.hang", str(record), "x", how, 60)
    job = queue.enqueue(*call, retry=Retry(max=3), on_stopped=on_stopped, on_failure=Callback("samples.on_failure"))
    eventually(lambda: lines(record))
    eventually(lambda: status(store, job.id) == "started")
    assert listening(store)
    after = submit(queue, "samples.note_and_nap", [(str(tmp_path / "after"), n, 0.05) for n in range(8)])
    stop(server, job.id)
    eventually(lambda: status(store, job.id) == "stopped")
    assert store.hgetall(words_of(job.id)) == {b"stopped": b"yes", b"calls": b"1"}
    assert store.hget(keys.job(job.id), "retries_left") == b"3"
    result = Job.fetch(job.id, store, Auto).latest_result()
    assert result is not None
    assert "stopped by user" in (result.exc_string or "")
    assert [j.result(30) for j in after] == list(range(8))  # no other job was stopped
    assert lines(record) == ["start x"]
    assert sorted(lines(tmp_path / "after")) == sorted(f"{w} {n}" for n in range(8) for w in ("start", "end"))
    assert tree.process.poll() is None


def test_stopping_a_job_that_does_not_run_says_why_not(server: Server, queue: Queue) -> None:
    """One line says why the job cannot be stopped, and what to do instead."""
    waits, ended = queue.enqueue("square", 3), queue.enqueue("square", 4)
    server.client.hset(keys.job(ended.id), "status", "finished")
    for job_id, words in (
        (waits.id, "does not run: it is queued; jobq cancel takes it out of its queue."),
        (ended.id, "does not run: it is finished."),
        ("nobody", "There is no job nobody"),
    ):
        run = jobq(server, "stop", job_id)
        assert (run.returncode, run.stdout) == (1, "")
        _store, line = run.stderr.splitlines()  # which store is in use, and what is wrong
        assert words in line


def test_stopping_a_job_without_a_worker_does_not_wait(server: Server, queue: Queue) -> None:
    """The job's worker is gone, and no rescue has taken the job yet."""
    job = queue.enqueue("square", 3)
    server.client.hset(keys.job(job.id), mapping={"status": "started", "worker_name": "gone"})
    run = jobq(server, "stop", job.id, "--timeout", "0.2")
    assert run.returncode == 1
    assert "still runs after 0.2 s; is its worker gone alive?" in run.stderr
    assert (
        jobq(server, "stop", job.id, "--timeout", "0", "--json").stdout == f'{{"id": "{job.id}", "stopped": false}}\n'
    )


def test_a_command_for_another_job_stops_no_job(
    start: Start, mode: str, store: redis.Redis, queue: Queue, tmp_path: Path
) -> None:
    """Commands for jobs that have ended, and invalid commands, are ignored and logged."""
    record, gate = tmp_path / "record", tmp_path / "gate"
    tree: Tree = start("-n", "2", mode=mode)
    job = queue.enqueue("samples.wait_for", str(record), "x", str(gate))
    eventually(lambda: lines(record))
    channel = keys.channel(listening(store))
    for command in (
        '{"command": "stop-job", "job_id": "nobody"}',
        '{"command": "stop-execution", "execution_id": "zzz"}',
        '{"command": "stop-execution", "execution_id": "%032x"}' % 10**6,
        '{"command": "dance"}',
        "no JSON",
        "[1]",
    ):
        assert store.publish(channel, command) == 1
    eventually(lambda: tree.log.count("ignored") == 5)
    gate.touch()
    assert job.result(30) == "x"


def test_rqs_shutdown_command(start: Start, mode: str, store: redis.Redis, queue: Queue, tmp_path: Path) -> None:
    """The command acts as SIGTERM: the running job finishes, the worker ends with 0."""
    record, gate = tmp_path / "record", tmp_path / "gate"
    tree: Tree = start("-n", "2", mode=mode)
    job = queue.enqueue("samples.wait_for", str(record), "x", str(gate))
    eventually(lambda: lines(record))
    send_shutdown_command(store, listening(store))
    eventually(lambda: "shutdown command" in tree.log)
    gate.touch()
    assert tree.wait() == 0, tree.log
    assert job.result(5) == "x"


@pytest.mark.parametrize("policy", ["retry", "fail"])
def test_kill_horse(start: Start, mode: str, store: redis.Redis, queue: Queue, tmp_path: Path, policy: str) -> None:
    """The processes that run a job are killed; the setting for crashes decides what happens to their jobs."""
    record, gate = tmp_path / "record", tmp_path / "gate"
    start("-n", "2", "--on-crash", policy, mode=mode)
    job = queue.enqueue("samples.wait_for", str(record), "x", str(gate))
    eventually(lambda: lines(record))
    send_kill_horse_command(store, listening(store))
    if policy == "fail":
        assert signal.SIGKILL.name in eventually(lambda: failed(store, job.id))
        return
    eventually(lambda: lines(record) == ["start x"] * 2)
    gate.touch()
    assert job.result(30) == "x"
    assert store.hget(keys.job(job.id), "jobq_crashes") == b"1"
