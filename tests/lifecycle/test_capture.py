"""Workers keep what jobs log and print, and ``jobq logs`` shows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import redis
from conftest import Start
from helpers import ROOT, Server, eventually, jobq, program_path, status

from jobqueue.admin.control import delete_failed
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys

SERVE = ("samples", "samples_output")
SAID = (
    "{0} prints 0\n{0} prints 1\n{0} prints 2\n{0} on stderr\nWARNING shop: {0} logs\n"
    "{0} in a thread\n{0} by a program\n"
)


def logs(server: Server, job_id: str) -> str:
    done = jobq(server, "logs", job_id)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_a_job_logs_and_prints_is_kept(start: Start, queue: Queue, server: Server, mode: str) -> None:
    jobs = [queue.enqueue("samples_output.talk", f"job {n}", 0.05) for n in range(6)]
    tree = start("--capture", "64k", "-b", "-n", "3", mode=mode, serve=SERVE)
    assert tree.wait() == 0
    for n, job in enumerate(jobs):
        assert logs(server, job.id) == SAID.format(f"job {n}")
    for text in ("job 0 prints 2", "job 0 on stderr", "job 0 logs", "job 0 in a thread", "job 0 by a program"):
        assert text in tree.log  # it is written as before, too


def test_only_the_end_is_kept(start: Start, queue: Queue, server: Server) -> None:
    job = queue.enqueue("samples_output.flood", 10_000)
    assert start("--capture", "1k", "-b", "-n", "1", serve=SERVE).wait() == 0
    done = jobq(server, "logs", job.id)
    assert done.stdout.endswith("line 9998\nline 9999\n")
    assert len(done.stdout) == 1024
    assert "bytes before this are not kept" in done.stderr


def test_a_failure_has_its_traceback(start: Start, queue: Queue, server: Server, store: redis.Redis, mode: str) -> None:
    job = queue.enqueue("samples_output.talk_and_fail", "it")
    assert start("--capture", "64k", "-b", "-n", "1", mode=mode, serve=SERVE).wait() == 0
    text = logs(server, job.id)
    assert text.startswith("it tries\nTraceback")
    assert text.endswith("ValueError: it fails\n")
    assert store.ttl(keys.output(job.id)) > 30_000_000
    delete_failed(store, job.id)
    assert not store.exists(keys.output(job.id))


def test_it_expires_with_the_job(start: Start, queue: Queue, store: redis.Redis) -> None:
    short = queue.enqueue("samples_output.talk", "short", result_ttl=60)
    default = queue.enqueue("samples_output.talk", "default")
    none, silent = queue.enqueue("samples_output.talk", "none", result_ttl=0), queue.enqueue("samples.ok")
    ever = queue.enqueue("samples_output.talk", "for ever", result_ttl=-1)
    assert start("--capture", "64k", "-b", "-n", "1", serve=SERVE).wait() == 0
    assert 0 < store.ttl(keys.output(short.id)) <= 60
    assert 400 < store.ttl(keys.output(default.id)) <= 500
    assert store.ttl(keys.output(ever.id)) == -1
    assert not store.exists(keys.output(none.id), keys.output(silent.id))


def test_it_can_be_followed(
    start: Start, queue: Queue, server: Server, store: redis.Redis, tmp_path: Path, mode: str
) -> None:
    gate = tmp_path / "gate"
    job = queue.enqueue("samples_output.talk_and_wait", str(gate))
    tree = start("--capture", "64k", "-n", "1", mode=mode, serve=SERVE)
    env = {**os.environ, "JOBQ_URL": server.url, "PYTHONPATH": program_path(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "jobqueue.cli", "logs", "-f", job.id]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "it begins\n"
        assert status(store, job.id) == "started"
        gate.touch()
        assert follower.stdout.read() == "it goes on\n"
        assert follower.wait(20) == 0
    assert tree.stop() == 0


def test_of_a_killed_process_the_output_is_kept_with_the_cause(
    start: Start, queue: Queue, server: Server, store: redis.Redis, tmp_path: Path, mode: str
) -> None:
    gate = tmp_path / "gate"
    job = queue.enqueue("samples_output.talk_and_die", str(gate))
    tree = start("--capture", "64k", "-b", "-n", "1", "--on-crash", "fail", mode=mode, serve=SERVE)
    eventually(lambda: store.exists(keys.output(job.id)))  # it is stored once a second
    gate.touch()
    assert tree.wait() == 0
    text = logs(server, job.id)
    assert text.startswith("its last words\n")
    assert "was killed by SIGKILL" in text


def test_without_output_one_line_says_so(start: Start, queue: Queue, server: Server) -> None:
    job = queue.enqueue("samples_output.talk", "x")
    assert start("-b", "-n", "1", serve=SERVE).wait() == 0
    done = jobq(server, "logs", job.id)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("is kept: was there any, and has its worker --capture?")
    assert jobq(server, "logs", "nowhere").returncode == 1


def test_rqs_worker_class_keeps_it_too(start_rq: Start, queue: Queue, server: Server) -> None:
    job = queue.enqueue("samples_output.talk", "x")
    flags = ("--burst", "-S", "jobqueue.serializers.Auto", "default")
    assert start_rq("Worker", *flags, JOBQ_CAPTURE="64k").wait() == 0
    assert logs(server, job.id) == SAID.format("x")
