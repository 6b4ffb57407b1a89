"""A worker whose output is not read: its pipe, or a socket as that of systemd's journal, is full."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from helpers import ROOT, Server, eventually, failed, jobq, program_path

from jobqueue.producing.queue import Queue

SERVED = """
def double(n):
    return 2 * n

def no():
    raise ValueError("no")

def talk():
    print("x" * 100_000)
"""


@contextlib.contextmanager
def full(kind: str) -> Iterator[int]:
    """Return a descriptor that accepts no more data: a plain write to it waits for ever."""
    if kind == "socket":
        reader, writer = (end.detach() for end in socket.socketpair())
    else:
        reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * size)
    os.set_blocking(writer, True)  # the flag is everybody's
    try:
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(("mode", "kind"), [("process", "pipe"), ("thread", "pipe"), ("process", "socket")])
def test_jobs_run_and_a_stop_ends_although_output_is_not_read(
    server: Server, store: redis.Redis, queue: Queue, tmp_path: Path, mode: str, kind: str
) -> None:
    (tmp_path / "served.py").write_text(SERVED)
    flags = ["--mode", mode, "-n", "2", "-I", "served", "-v", "--health-file", str(tmp_path / "health")]
    env = {**os.environ, "JOBQ_URL": server.url, "PYTHONPATH": program_path(ROOT)}
    with full(kind) as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "jobqueue.cli", "worker", *flags],
            cwd=tmp_path,
            env=env,
            stdout=output,
            stderr=output,
        )
        try:
            fails, talks = queue.enqueue("served.no"), queue.enqueue("served.talk", job_timeout=1)
            jobs = [queue.enqueue("served.double", n) for n in range(20)]
            assert [job.result(timeout=30) for job in jobs] == [2 * n for n in range(20)]
            eventually(lambda: failed(store, fails.id))
            assert "TimeLimitExceeded" in eventually(lambda: failed(store, talks.id))
            eventually(lambda: jobq(server, "worker-health", str(tmp_path / "health")).returncode == 0, every=0.2)
            assert os.get_blocking(output)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(25) == 0
        finally:
            worker.kill()
            worker.wait()
