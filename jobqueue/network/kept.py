"""Keep connections out of a client's pool between two commands: redis-py spends 25 µs on taking one and putting it
back, as much as on the command itself.

They stay the pool's: it counts them as in use, and closes them with all others. A client whose pool has a limit, which
idle connections would use up, uses its pool each time; so does one behind Sentinels, whose pool decides after a
fail-over.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis
from redis.connection import ConnectionPool  # noqa: TID251  to know its type; none is built here

from jobqueue.clock import monotonic

UNLIMITED = 2**31  # connections; redis-py's word for no limit
FRESH = 1.0  # seconds after an answer in which a connection is used again without a look; it may have died all the same


class KeptConnections:
    """The idle connections of one pool. Any thread may call the methods."""

    def __init__(self, pool: ConnectionPool, clock: Callable[[], float] = monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._keeps = type(pool) is ConnectionPool and pool.max_connections >= UNLIMITED
        self._idle: deque[tuple[Any, float]] = deque()  # each with the moment from which it may have died (monotonic)
        self._pid = os.getpid()

    def take(self) -> Any:
        """Return a connection with nothing unread that is open, as far as it is known. Raises what redis-py raises."""
        if self._pid != os.getpid():  # after a fork the sockets are the parent's
            self._idle, self._pid = deque(), os.getpid()
        try:
            connection, fresh_until = self._idle.pop()
        except IndexError:
            return self._pool.get_connection()
        try:
            if self._clock() > fresh_until:
                _make_ready(connection)
        except BaseException:
            connection.disconnect()
            self.put_back(connection)
            raise
        return connection

    def put_back(self, connection: Any) -> None:
        """Take back a connection whose replies have been read, or that is disconnected."""
        if self._keeps:
            self._idle.append((connection, self._clock() + FRESH))
        else:
            self._pool.release(connection)


def _make_ready(connection: Any) -> None:
    """Do what redis-py's pool does: the server may have closed it meanwhile, which reads as data or as an error."""
    connection.connect()
    with suppress(redis.ConnectionError, redis.TimeoutError, OSError):
        if not connection.can_read():
            return
    connection.disconnect()
    connection.connect()


_of_pools: weakref.WeakKeyDictionary[ConnectionPool, KeptConnections] = weakref.WeakKeyDictionary()


def kept(client: redis.Redis) -> KeptConnections:
    """Return the kept connections of this client's pool."""
    pool = client.connection_pool
    found = _of_pools.get(pool)
    return _of_pools.setdefault(pool, KeptConnections(pool)) if found is None else found
