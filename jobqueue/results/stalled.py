"""Explain why a job that a caller waits for does not run: its queue has no worker, or is paused. Reported once, after 3
s."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from typing import Any

from jobqueue.protocol import keys
from jobqueue.store.connection import redis

FIRST = 2.9  # seconds without any outcome after which a reason is looked for; checked once a second
AGAIN = 10.0  # seconds until the next look, as long as no reason was found
GAP = 2.5  # seconds between two steps after which a new wait has begun
WORKER_TTL = 480_000  # milliseconds that a worker's key lives after each heartbeat of jobq, every 3 s
LATE = 60_000  # milliseconds without a heartbeat after which such a worker counts as gone


class StallReporter:
    """Calls ``look`` for a reason when nothing has come for a while, and ``say`` with the first reason found."""

    def __init__(self, look: Callable[[], str], say: Callable[[str], None]) -> None:
        self._look, self._say = look, say
        self._over = False  # a reason was reported
        self._next = self._stepped = 0.0  # monotonic seconds

    def step(self, heard: bool) -> None:
        """Check once; called about once a second by the waiting thread. heard: something came meanwhile. Raises
        nothing."""
        now = time.monotonic()
        if heard or now > self._stepped + GAP:
            self._next = now + FIRST
        self._stepped = now
        if self._over or now < self._next:
            return
        self._next = now + AGAIN
        try:
            reason = self._look()
        except redis.RedisError:  # the wait itself reports that
            return
        if reason:
            self._over = True
            self._say(reason)


def why_stalled(client: redis.Redis, job_id: str) -> str:
    """Return why no worker will run this job as things are, and what to do; "" when there is no such reason, or it
    runs."""
    fields: Any = client.hmget(keys.job(job_id), "status", "origin")
    status, origin = fields
    if origin is None or status == b"started":
        return ""
    queue = origin.decode(errors="replace")
    with client.pipeline(transaction=False) as pipe:
        pipe.exists(keys.SUSPENDED)
        pipe.sismember(keys.PAUSED, queue)
        pipe.smembers(keys.workers_of(queue))
        suspended, paused, workers = pipe.execute()
    command = "" if queue == "default" else f" {shlex.quote(queue)}"
    if suspended:
        return "all workers are suspended: jobq resume lets them go on"
    if paused:
        return f"queue {queue!r} is paused: jobq resume {shlex.quote(queue)} lets it go on"
    if not _one_lives(client, workers):
        return f"no worker serves {queue!r} yet: if none is starting, start one with jobq worker{command}"
    return ""


def _one_lives(client: redis.Redis, workers: Any) -> bool:
    """Return whether one of these workers lives, by the store's clock: jobq's send a heartbeat every 3 s, RQ's may be
    silent as long as their key exists."""
    with client.pipeline(transaction=False) as pipe:
        for key in workers:
            pipe.hget(key, "version")
            pipe.pttl(key)
        read = pipe.execute(raise_on_error=False)
    for version, left in zip(read[::2], read[1::2], strict=True):
        ours = isinstance(version, bytes) and version.startswith(b"jobq ")
        if isinstance(left, int) and (left > WORKER_TTL - LATE if ours else left != -2):
            return True
    return False
