"""A chunk of jobs on its way into a queue: one MULTI in one write.

A lost reply neither loses nor doubles a job: what may or may not have arrived is sent again by the ENQUEUE script,
which skips what is there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis
from rq.exceptions import DuplicateJobError

from jobqueue import keys, wire
from jobqueue.backoff import Backoff
from jobqueue.connection import Store, bounded, explain
from jobqueue.errors import DuplicateJob, StoreRefused, StoreUnreachable
from jobqueue.failover import REFUSED_FOR, behind_sentinels
from jobqueue.parcel import Call, Shared, commands, rq_now
from jobqueue.protocol import Protocol

log = logging.getLogger(__name__)

REPEAT_FOR = 5.0  # seconds during which an enqueue that got no reply is repeated
_DISTURBED = (redis.ConnectionError, redis.TimeoutError)


class AlreadyThere(DuplicateJob, DuplicateJobError):
    """DuplicateJob, for those who catch RQ's exception too."""


class Transmission:
    """Puts jobs into one queue. The store, if it is ours, is woken when it does not answer."""

    def __init__(self, queue: str, client: redis.Redis, store: Store | None) -> None:
        self._queue, self._client, self._store = queue, bounded(client), store

    def send(self, shared: Shared, calls: Sequence[Call]) -> bytes:
        """Put the jobs into the queue in one transaction; return the time that they bear.

        Raises StoreUnreachable, StoreRefused.
        """
        stamp = rq_now()
        try:
            wire.transact(self._client, commands(self._queue, shared, stamp, calls))
        except redis.RedisError as e:
            self._raise_unless_disturbed(e)
            self._repeat(shared, stamp, calls, e)
        return stamp

    def _repeat(self, shared: Shared, stamp: bytes, calls: Sequence[Call], cause: redis.RedisError) -> None:
        """Enqueue what may or may not have arrived, until the store answers; skips what is there."""
        log.warning("The store did not answer (%s); enqueueing again, no job will be there twice.", cause)
        patience = REFUSED_FOR if behind_sentinels(self._client) else REPEAT_FOR
        deadline, backoff = time.monotonic() + patience, Backoff(most=1.0)
        while time.monotonic() + (pause := backoff.failed()) < deadline:
            time.sleep(pause)
            try:
                return self._enqueue_missing(shared, stamp, calls)
            except redis.RedisError as e:
                self._raise_unless_disturbed(e)
                cause = e
        raise explained(cause, self._store) from cause

    def _enqueue_missing(self, shared: Shared, stamp: bytes, calls: Sequence[Call]) -> None:
        if self._store is not None:
            self._store.ensure()
        jobs = [(call.id, shared.all_fields(call, stamp)) for call in calls]
        new = Protocol(self._client).enqueue(self._queue, jobs, at_front=shared.at_front, ttl=shared.ttl)
        if shared.replaces and not new[0] and self._client.hget(keys.job(calls[0].id), "created_at") != stamp:
            wire.transact(self._client, commands(self._queue, shared, stamp, calls))  # it is an earlier job's hash

    def _raise_unless_disturbed(self, error: redis.RedisError) -> None:
        if isinstance(error, redis.AuthenticationError) or not isinstance(error, _DISTURBED):
            raise explained(error, self._store) from error


class RqAtWork:
    """Turns what RQ and redis-py raise into our errors; RQ's own path sends more than once and repeats nothing."""

    def __init__(self, store: Callable[[], Store | None]) -> None:
        """store: asked when something went wrong, as it may be opened meanwhile."""
        self._store = store

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, DuplicateJobError):
            raise AlreadyThere(f"{error}.") from None
        if isinstance(error, redis.RedisError):
            raise explained(error, self._store()) from error


def explained(error: Exception, store: Store | None) -> Exception:
    """Our error for one of redis-py's: StoreUnreachable or StoreRefused, with the store's address if it is known."""
    if store is not None:
        return explain(error, store.address)
    if isinstance(error, _DISTURBED) and not isinstance(error, redis.AuthenticationError):
        return StoreUnreachable(f"The store does not answer: {error}")
    return StoreRefused(f"The store refuses: {error}")
