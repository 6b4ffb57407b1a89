"""Start the store that all peers are measured on: a server of the run's own, on a loopback port, that keeps nothing."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import redis

from jobqueue.store.local.binary import find_server

START_LIMIT = 10.0


class Counters(NamedTuple):
    """What the server has done so far."""

    cpu: float  # seconds
    commands: int  # those inside scripts too


class BenchStore:
    """One server, and a client that reads its counters."""

    def __init__(self, port: int, version: str) -> None:
        self.url = f"redis://127.0.0.1:{port}/0"
        self.version = version
        self.client = redis.Redis(port=port)

    def counters(self) -> Counters:
        cpu, stats = self.client.info("cpu"), self.client.info("stats")
        return Counters(cpu["used_cpu_sys"] + cpu["used_cpu_user"], stats["total_commands_processed"])

    def erase(self) -> None:
        """Delete everything, of whichever peer."""
        self.client.flushall()


@contextmanager
def bench_store(directory: Path, env: Mapping[str, str]) -> Iterator[BenchStore]:
    """Start the server; it ends with the run. Raises NoServerBinary, SystemExit."""
    binary, version = find_server()
    port = _free_port()
    flags = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(directory))
    server = subprocess.Popen([binary, *flags], env=env, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        store = BenchStore(port, version)
        _await(store.client, server)
        yield store
    finally:
        server.kill()
        server.wait()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _await(client: redis.Redis, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_LIMIT
    while True:
        try:
            client.ping()
            return
        except redis.ConnectionError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the server for the benchmark does not start") from None
            time.sleep(0.02)
