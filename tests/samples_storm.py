"""The jobs of the long storm: each run writes its begin and its end to a file, which the storm's faults do not
affect."""

from __future__ import annotations

import os
import time
from typing import Any

import redis
from rq import get_current_job
from rq.job import Job
from samples import note


def work(record: str, seconds: float, failures: int = 0) -> str:
    """Nap; fail as often as asked, counted by the retries that are left."""
    job = get_current_job()
    assert job is not None
    run = f"{job.id} {os.urandom(4).hex()}"
    note(record, f"begin {run} {os.getpid()} {time.monotonic()}")
    time.sleep(seconds)
    note(record, f"end {run} {time.monotonic()}")
    if failures and (job.retries_left or 0) > job.meta.get("retries", 0) - failures:
        raise ValueError("not yet")
    return job.id


def fail(record: str, seconds: float) -> None:
    work(record, seconds)
    raise ValueError("as meant")


def on_success(job: Job, connection: redis.Redis, result: Any) -> None:
    note(job.meta["record"], f"success {job.id}")


def on_failure(job: Job, connection: redis.Redis, kind: Any, error: Any, traceback: Any) -> None:
    note(job.meta["record"], f"failure {job.id}")
