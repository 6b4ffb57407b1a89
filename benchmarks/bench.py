"""Provide what the benchmarks share: a store of their own, workers on it, and the rate that the workers recorded.

Everything is started with the run's own JOBQ_HOME and is gone at the end of the run, also after Ctrl-C
(``jobqueue.harness``).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from jobqueue.executor.worker_process import WorkerProcess
from jobqueue.harness.processes import environment, run_directory
from jobqueue.harness.store import own_store
from jobqueue.protocol import keys
from jobqueue.store.open import Store

QUEUE = "bench"
LIMIT = 600.0  # seconds that a worker may take to empty the queue


class Bench(NamedTuple):
    """A store for one run, and what workers on it are started with."""

    store: Store
    env: Mapping[str, str]
    directory: Path

    @property
    def url(self) -> str:
        return f"unix://{self.store.address.unix_socket_path}"

    def worker(
        self, mode: str, number: int, flags: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> WorkerProcess:
        """Return a `jobq worker` on the queue, not yet started. env: variables besides those of the run."""
        return WorkerProcess(
            [QUEUE], mode=mode, number=number, flags=flags, env={**self.env, **(env or {})}, directory=self.directory
        )

    def burst(self, worker: WorkerProcess) -> None:
        """Let a worker with --burst empty the queue. Raises SystemExit when it fails."""
        with worker:
            if worker.wait(LIMIT):
                raise SystemExit(f"the worker failed: {worker.last_words()}")

    def rq_worker(self, worker_class: str, *flags: str, **env: str) -> subprocess.Popen[bytes]:
        """Start an `rq worker` of this class on the queue. env: variables besides those of the run."""
        command = [sys.executable, "-P", "-m", "rq.cli", "worker", QUEUE, "--quiet", "--url", self.url]
        return subprocess.Popen(
            [*command, "--worker-class", worker_class, *flags],
            env={**self.env, **env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def rate(self, ids: Sequence[str]) -> float:
        """Return jobs per second, from the first start to the last end that the workers wrote down.

        Raises SystemExit when a job has no result.
        """
        with self.store.client() as client, client.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(keys.job(job_id), "status", "started_at", "ended_at")
            rows = pipe.execute()
        if left := sum(status != b"finished" for status, _, _ in rows):
            raise SystemExit(f"{left} jobs were left behind")
        began, ended = min(_seconds(row[1]) for row in rows), max(_seconds(row[2]) for row in rows)
        return len(ids) / (ended - began)


@contextmanager
def bench() -> Iterator[Bench]:
    """Start a store for one run; end it at the end, and every process that was started with its environment."""
    with run_directory("jobq-bench-") as directory:
        env = environment(directory)
        with own_store(env) as store:
            yield Bench(store, env, directory)


def _seconds(stamp: bytes) -> float:
    return datetime.fromisoformat(stamp.decode()).timestamp()
