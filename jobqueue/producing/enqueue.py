"""Send jobs to the store in one request, repeated until the store answers.

A lost reply neither loses nor doubles a job. The requests of one submit are numbered under one mark: a repeated request
invalidates those before it, so that one of these that arrives late, even a day later, does nothing. See
scripts/submit.lua.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis
from rq.exceptions import DuplicateJobError

from jobqueue.errors import DuplicateJob, StoreRefused, StoreUnreachable
from jobqueue.network.backoff import Backoff
from jobqueue.network.failover import REFUSED_FOR, behind_sentinels
from jobqueue.producing.encoding import EncodedCall, SharedFields, request, rq_now
from jobqueue.protocol.protocol import Protocol
from jobqueue.store.connection import bounded, explain
from jobqueue.store.open import Store

log = logging.getLogger(__name__)
T = TypeVar("T")

REPEAT_FOR = 5.0  # seconds during which an enqueue without a reply is repeated
_DISTURBED = (redis.ConnectionError, redis.TimeoutError)


class AlreadyThere(DuplicateJob, DuplicateJobError):
    """DuplicateJob that is also RQ's exception, for callers that catch that one."""


class Submit:
    """One submit. If the store does not answer and is the local one, it is started again."""

    def __init__(self, client: redis.Redis, store: Callable[[], Store | None], mark: str = "") -> None:
        """mark: unique to this submit; the id of a job that is sent only once can be the mark."""
        self.client = bounded(client)
        self._store = store
        self.mark = mark or os.urandom(16).hex()

    def retry_request(self, request: Callable[[int], T]) -> T:
        """Send the request, with its number, until the store answers. Raises StoreUnreachable, StoreRefused."""
        try:
            return request(0)
        except redis.RedisError as e:
            self._raise_unless_disturbed(e)
            return self._repeat(request, e)

    def _repeat(self, request: Callable[[int], T], cause: redis.RedisError) -> T:
        log.warning("The store did not answer (%s); enqueueing again; no job will be doubled.", cause)
        retry_for = REFUSED_FOR if behind_sentinels(self.client) else REPEAT_FOR
        deadline, backoff = time.monotonic() + retry_for, Backoff(most=1.0)
        while time.monotonic() + (pause := backoff.failed()) < deadline:
            time.sleep(pause)
            try:
                if (store := self._store()) is not None:
                    store.ensure()
                return request(backoff.failures)
            except redis.RedisError as e:
                self._raise_unless_disturbed(e)
                cause = e
        raise explained(cause, self._store()) from cause

    def _raise_unless_disturbed(self, error: redis.RedisError) -> None:
        if isinstance(error, redis.AuthenticationError) or not isinstance(error, _DISTURBED):
            if "WRONGTYPE" in str(error):
                raise StoreRefused(
                    "Nothing was enqueued: the queue's key, or one of RQ's lists, is of a wrong type. "
                    "A worker of this queue moves it aside; jobq doctor says what that was."
                ) from error
            raise explained(error, self._store()) from error


class Enqueuer:
    """Puts jobs into one queue."""

    def __init__(self, queue: str, client: redis.Redis, store: Store | None) -> None:
        self._queue, self._client, self._store = queue, client, store

    def send(self, shared: SharedFields, calls: Sequence[EncodedCall]) -> bytes:
        """Put the jobs into the queue in one step; return the time of enqueueing that was written into them.

        Raises StoreUnreachable, StoreRefused.
        """
        stamp = rq_now()
        submit = Submit(self._client, lambda: self._store, calls[0].id)
        protocol = Protocol(submit.client)

        def attempt(number: int) -> None:
            protocol.submit(*request(self._queue, shared, stamp, calls, submit.mark, number))

        submit.retry_request(attempt)
        return stamp


class RqAtWork:
    """Inside, turns exceptions of RQ and redis-py into JobqErrors. RQ's own code sends several requests and repeats
    none."""

    def __init__(self, store: Callable[[], Store | None]) -> None:
        """store: called when something went wrong, because the store may be opened inside."""
        self._store = store

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, DuplicateJobError) and not isinstance(error, AlreadyThere):
            raise AlreadyThere(f"{error}.") from None
        if isinstance(error, redis.RedisError):
            raise explained(error, self._store()) from error


def explained(error: Exception, store: Store | None) -> Exception:
    """Return the JobqError for an error of redis-py: StoreUnreachable or StoreRefused, with the store's address if it
    is known."""
    if store is not None:
        return explain(error, store.address)
    if isinstance(error, _DISTURBED) and not isinstance(error, redis.AuthenticationError):
        return StoreUnreachable(f"The store does not answer: {error}")
    return StoreRefused(f"The store refuses: {error}")
