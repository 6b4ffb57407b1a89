"""A real server for tests that block on streams or run commands in processes; and a stand-in for a worker."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobqueue import keys
from jobqueue.connection import Address, client, redis
from jobqueue.server_binary import find_server


class OwnServer:
    """A server on a unix socket in a directory of its own. Can be stopped and started again; keeps its data."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.socket = str(directory / "s")
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary, _ = find_server()
        options = {"port": "0", "unixsocket": self.socket, "dir": str(self._directory), "appendonly": "yes", "save": ""}
        command = [binary, *(word for name, value in options.items() for word in (f"--{name}", value))]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        with self.client() as r:
            while True:
                try:
                    r.ping()
                    return
                except redis.ConnectionError:
                    assert time.monotonic() < deadline, "the server did not start"
                    time.sleep(0.01)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def client(self) -> redis.Redis:
        return client(Address(unix_socket_path=self.socket))


@contextlib.contextmanager
def own_server() -> Iterator[OwnServer]:
    with tempfile.TemporaryDirectory(prefix="jobq-test-") as directory:  # pytest's tmp_path is too long for a socket
        server = OwnServer(Path(directory))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def finish(r: redis.Redis, job_id: str, value: Any = None) -> None:
    """Record a result as a worker does."""
    entry: dict[str, Any] = {"type": 1}
    if value is not None:
        entry["return_value"] = base64.b64encode(json.dumps(value).encode())
    _end(r, job_id, "finished", entry)


def fail(r: redis.Redis, job_id: str, traceback: str, status: str = "failed") -> None:
    """Record a failure as a worker does."""
    _end(r, job_id, status, {"type": 2, "exc_string": base64.b64encode(zlib.compress(traceback.encode()))})


def _end(r: redis.Redis, job_id: str, status: str, entry: dict[str, Any]) -> None:
    with r.pipeline() as pipe:
        pipe.hset(keys.job(job_id), mapping={"status": status, "ended_at": "2026-01-02T03:04:05.678901Z"})
        pipe.xadd(keys.results(job_id), entry)
        if status != "finished":
            origin = r.hget(keys.job(job_id), "origin") or b"q"
            pipe.zadd(keys.registry("failed", origin.decode()), {job_id: time.time() + 1000})
            pipe.lrem(keys.queue(origin.decode()), 0, job_id)
        pipe.execute()
