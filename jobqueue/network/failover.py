"""Behind Sentinels: repeat what servers refuse during a fail-over, and have writes confirmed by a replica.

During a fail-over the servers refuse: the old primary with NOREPLICAS (where min-replicas-to-write is set: its replica
has left it) or READONLY, the new one with NOREPLICAS until a replica has joined it. A command, script or transaction
that was refused so did nothing at all, because the server checks before it begins. So it is safe to repeat, and is
repeated for half a minute. (``primary.py`` notices that another server has become the primary.)

What the old primary accepts at the very moment when its replica leaves it, it acknowledges and loses. So where
min-replicas-to-write is set, a client that enqueues waits (WAIT) until a replica has what was written.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

import redis
from redis.client import Pipeline
from redis.exceptions import RedisError, ResponseError, WatchError
from redis.sentinel import SentinelConnectionPool

from jobqueue.network.backoff import Backoff

T = TypeVar("T")

REFUSED_FOR = 30.0  # seconds during which what a primary refuses is repeated
CONFIRMED_WITHIN = 2.0  # seconds within which a replica must confirm a write
_REFUSED = re.compile(r"(?:^|caused error: )(?:NOREPLICAS|READONLY|MASTERDOWN)\b")


_WRITES = frozenset(
    {
        *("EVAL", "EVALSHA", "FCALL", "SET", "SETEX", "SETNX", "DEL", "UNLINK", "EXPIRE", "PERSIST", "RENAME", "INCR"),
        *("HSET", "HMSET", "HSETNX", "HDEL", "HINCRBY", "RPUSH", "LPUSH", "LREM", "LMOVE", "SADD", "SREM", "SMOVE"),
        *("ZADD", "ZREM", "XADD", "XDEL"),
    }
)


class NotPrimary(redis.ConnectionError):
    """The server is a replica (by now); it did nothing of what it was asked."""


class NotReplicated(redis.ConnectionError):
    """A command was done, but no replica has confirmed it: the next primary may not know it."""


def was_refused(error: BaseException) -> bool:
    """Return whether the error says that a server did nothing because it is not a primary, or a primary without its
    replicas."""
    if isinstance(error, NotPrimary | redis.ReadOnlyError):
        return True
    return isinstance(error, ResponseError) and bool(_REFUSED.search(str(error)))


def behind_sentinels(client: redis.Redis) -> bool:
    return isinstance(getattr(client, "connection_pool", None), SentinelConnectionPool)


class Patience:
    """Waits between attempts that were refused, up to a time limit."""

    def __init__(
        self, client: redis.Redis, seconds: float = REFUSED_FOR, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool = client.connection_pool
        self._backoff = Backoff(most=1.0)
        self._seconds = seconds
        self._clock = clock
        self._until = 0.0

    def wait(self, error: BaseException) -> bool:
        """Wait and return True for a refused attempt; return False at once for any other error, or when the time is
        over."""
        now = self._clock()
        self._until = self._until or now + self._seconds
        if not was_refused(error) or now >= self._until:
            return False
        self._pool.disconnect(inuse_connections=False)  # the next attempt asks the Sentinels
        time.sleep(self._backoff.failed())
        return True


def while_refused(client: redis.Redis, attempt: Callable[[], T]) -> T:
    """Repeat ``attempt``, one command, script or transaction, while the servers behind Sentinels refuse it."""
    if not behind_sentinels(client):
        return attempt()
    patience = Patience(client)
    while True:
        try:
            return attempt()
        except RedisError as e:
            if not patience.wait(e):
                raise


class Following(redis.Redis):
    """A client for producers and the command line: it repeats what is refused during a fail-over."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        ask: Any = super().execute_command
        return while_refused(self, lambda: ask(*args, **options))

    def _send_command_parse_response(self, conn: Any, command_name: Any, *args: Any, **options: Any) -> Any:
        reply = super()._send_command_parse_response(conn, command_name, *args, **options)  # type: ignore[no-untyped-call]
        if str(command_name).upper() in _WRITES:
            confirm(conn)
        return reply

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        return FollowingPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class FollowingPipeline(Pipeline):
    """Repeats a transaction that was refused. One that watches keys raises WatchError instead, because what it has read
    may be another server's. Pipelines without a transaction may have been done in part, and are not repeated."""

    _patience: Patience | None = None

    def _execute_transaction(self, connection: Any, commands: Any, raise_on_error: Any) -> Any:
        replies = super()._execute_transaction(connection, commands, raise_on_error)
        confirm(connection)
        return replies

    def _execute_pipeline(self, connection: Any, commands: Any, raise_on_error: Any) -> Any:
        replies = super()._execute_pipeline(connection, commands, raise_on_error)  # type: ignore[no-untyped-call]
        if any(str(args[0]).upper() in _WRITES for args, _ in commands):
            confirm(connection)
        return replies

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands, watches = list(self.command_stack), self.watching
        is_one_step = bool(vars(self)["transaction"]) or watches
        self._patience = self._patience or Patience(self)
        while True:
            try:
                return super().execute(raise_on_error)
            except RedisError as e:
                if not is_one_step or not self._patience.wait(e):
                    raise
                if watches:
                    raise WatchError("the primary has changed") from e
                self.command_stack = commands[:]


def confirms(connection: Any) -> bool:
    """Return whether writes over this connection have to be confirmed by a replica."""
    return bool(getattr(connection, "wants_replicas", False))


WAIT = ("WAIT", 1, int(CONFIRMED_WITHIN * 1000))


def confirm(connection: Any) -> None:
    """Wait until a replica has what was written. Raises NotReplicated."""
    if confirms(connection):
        connection.send_command(*WAIT)
        read_confirmation(connection)


def read_confirmation(connection: Any) -> None:
    """Read the answer to WAIT. Raises NotReplicated."""
    try:
        replicas = connection.read_response()
    except ResponseError:  # an ACL forbids it
        connection.wants_replicas = False
        return
    if not replicas:
        connection.disconnect()
        raise NotReplicated("no replica has confirmed what was written: it may be lost in a fail-over")
