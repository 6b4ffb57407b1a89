"""The job of a storm: it sleeps, and writes each of its runs into the store itself, so that every run is counted."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from jobqueue.store.connection import redis

from rq import get_current_job  # isort: skip  # behind connection, which decides whether redis may load hiredis

STORE_LIMIT = 60.0  # seconds that a run waits for a store that is being restarted
BEGUN, DONE = "begun", "done"


def work(record: str, seconds: float) -> None:
    """Note in the hash ``record`` that a run of this job began, sleep, note that it is done.

    A run has an id of its own, so that a note which is sent again after a lost reply still counts as one run.
    """
    job = get_current_job()
    if job is None:
        raise RuntimeError("This function is a job of jobq chaos; run it by a worker.")
    run = f"{job.id}:{secrets.token_hex(6)}"
    _retry_request(lambda: job.connection.hset(record, run, BEGUN))
    time.sleep(seconds)
    _retry_request(lambda: job.connection.hset(record, run, DONE))


def _retry_request(note: Callable[[], object]) -> None:
    deadline = time.monotonic() + STORE_LIMIT
    while True:
        try:
            note()
            return
        except (redis.ConnectionError, redis.TimeoutError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
