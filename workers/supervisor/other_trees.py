"""Find out whether jobs of our queues may be given back by dead trees.

A burst waits for the rescue of such jobs, at most as long as the lease of their tree lasts. It does not wait for jobs
of a tree that lives. A tree lives if it renews its lease while we look, which it does every 3 s at least.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import redis

from jobqueue.protocol import keys
from jobqueue.protocol.arguments import bytes_of, text_of

log = logging.getLogger(__name__)

RESCUE = 10.0  # seconds after the end of a lease within which a rescue is expected
SAID_AFTER = 4.0  # seconds without a sign of life after which the log says what the burst waits for
UNWATCHED = 5.0  # seconds between two looks after which the watch starts again


class OtherTrees:
    """The other trees and their leases. One thread uses it, which may wait for Redis. ``lease_of`` returns how long the
    lease of a worker lasts."""

    def __init__(self, client: redis.Redis, worker: str, lease_of: Callable[[str], float]) -> None:
        self._client = client
        self._worker = worker
        self._lease_of = lease_of
        self._looked = 0.0  # monotonic seconds
        self._first: dict[str, tuple[Any, float]] = {}  # by worker: the lease as first seen, and when
        self._said: set[str] = set()

    def may_lose(self, queues: Iterable[str], now: float) -> bool:
        """Return whether a tree that may be dead holds jobs of these queues."""
        if now > self._looked + UNWATCHED:
            self._first.clear()
        self._looked = now
        held = self._held()
        doubtful = [worker for worker, ids in held.items() if ids and self._may_be_dead(worker, now)]
        return self._any_of(queues, [job_id for worker in doubtful for job_id in held[worker]])

    def _held(self) -> dict[str, list[bytes]]:
        """Return the ids of the jobs that each other tree holds, by worker."""
        owners = [owner for owner in self._client.smembers(keys.OWNERS) if isinstance(owner, bytes)]
        held: dict[str, list[bytes]] = {}
        names = {text_of(owner) for owner in owners}
        others = [name for name in names if name.rpartition(":")[0] != self._worker]
        with self._client.pipeline(transaction=False) as pipe:
            for name in others:
                pipe.zrange(bytes_of(keys.own(name)), 0, -1)
            replies = pipe.execute(raise_on_error=False) if others else []
        for name, ids in zip(others, replies, strict=True):
            if isinstance(ids, list):  # a key of another type is not a list of jobs
                held.setdefault(name.rpartition(":")[0], []).extend(ids)
        return held

    def _may_be_dead(self, worker: str, now: float) -> bool:
        """Return False if the tree's lease was renewed since we first saw it, or if it should have been rescued long
        ago."""
        lease = self._client.get(bytes_of(keys.lease(worker)))
        first, since = self._first.setdefault(worker, (lease, now))
        if lease != first:
            return False
        if now > since + SAID_AFTER and worker not in self._said:
            self._said.add(worker)
            log.info("waiting for jobs that the worker %s holds: it gives no sign of life", ascii(worker)[1:-1])
        return now <= since + SAID_AFTER or now <= since + self._lease_of(worker) + RESCUE

    def _any_of(self, queues: Iterable[str], ids: list[bytes]) -> bool:
        """Return whether any of the jobs with these ids belongs to one of the queues."""
        names = {name.encode() for name in queues}
        with self._client.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hget(keys.job("").encode() + job_id, "origin")
            origins = pipe.execute(raise_on_error=False) if ids else []
        return any(isinstance(origin, bytes) and origin in names for origin in origins)
