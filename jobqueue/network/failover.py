"""Behind Sentinels: notice at once that another server is the primary now, and wait while none takes writes.

A connection that was opened before a planned fail-over still leads to the old primary, which takes writes for some
seconds more until it is told that it is a replica, and then throws them away. So each process that has such
connections listens to a Sentinel (one thread), and shuts those to any other server when the primary has changed; a new
connection is used only when the server says itself that it is a primary.

In between, the servers refuse: the old primary with NOREPLICAS (where min-replicas-to-write is set: its replica has
left it) or READONLY, the new one with NOREPLICAS until a replica has joined it. A command, script or transaction that
was refused so did nothing at all: the server looks before it begins. It may be repeated, and is, for half a minute.

What the old primary takes in the very moment in which its replica leaves it, it acknowledges and loses. So where
min-replicas-to-write asks for replicas at all, who enqueues waits (WAIT) until one has what was written.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import redis
from redis.client import Pipeline
from redis.connection import Connection
from redis.exceptions import RedisError, ResponseError, WatchError
from redis.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedConnection, SentinelManagedSSLConnection

from jobqueue.network.backoff import Backoff
from jobqueue.network.listening import Listener

log = logging.getLogger(__name__)
T = TypeVar("T")

REFUSED_FOR = 30.0  # seconds during which what a primary refuses is repeated
CONFIRMED_WITHIN = 2.0  # seconds within which a replica has to have what was written
LOOK = 10.0  # seconds between two questions for the primary, should a message have been lost
_REFUSED = re.compile(r"(?:^|caused error: )(?:NOREPLICAS|READONLY|MASTERDOWN)\b")


_WRITES = frozenset(
    {
        *("EVAL", "EVALSHA", "FCALL", "SET", "SETEX", "SETNX", "DEL", "UNLINK", "EXPIRE", "PERSIST", "RENAME", "INCR"),
        *("HSET", "HMSET", "HSETNX", "HDEL", "HINCRBY", "RPUSH", "LPUSH", "LREM", "LMOVE", "SADD", "SREM", "SMOVE"),
        *("ZADD", "ZREM", "XADD", "XDEL"),
    }
)


class NotPrimary(redis.ConnectionError):
    """The server is a replica (by now): it did nothing of what it was asked."""


class NotReplicated(redis.ConnectionError):
    """It was done, and no replica has it: the next primary may not know it."""


# -- who repeats -------------------------------------------------------------------------------------------------------


def was_refused(error: BaseException) -> bool:
    """Return whether the error says that a server did nothing since it is no primary, or one without its replicas."""
    if isinstance(error, NotPrimary | redis.ReadOnlyError):
        return True
    return isinstance(error, ResponseError) and bool(_REFUSED.search(str(error)))


def behind_sentinels(client: redis.Redis) -> bool:
    return isinstance(getattr(client, "connection_pool", None), SentinelConnectionPool)


class Patience:
    """Waits between attempts that were refused, until it has lasted for too long."""

    def __init__(self, client: redis.Redis, seconds: float = REFUSED_FOR) -> None:
        self._pool = client.connection_pool
        self._backoff = Backoff(most=1.0)
        self._seconds = seconds
        self._until = 0.0

    def wait(self, error: BaseException) -> bool:
        """Return False at once for an error that is none of ours, or when the time is over."""
        now = time.monotonic()
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
    """A client of those who enqueue and of people: what is refused during a fail-over is repeated."""

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
    """Repeats a transaction that was refused. One that watches keys begins anew, as if one of them had changed: what it
    has read may be another server's. Others may have been done in part, and are not repeated."""

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
    """Return whether what is written over this connection has to be confirmed by a replica."""
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


# -- who notices -------------------------------------------------------------------------------------------------------


class _ToPrimary(SentinelManagedConnection):
    """A connection to the server that the Sentinels call the primary, if it calls itself so."""

    wants_replicas = False  # min-replicas-to-write is set there

    def on_connect_check_health(self, check_health: bool = True) -> None:
        super().on_connect_check_health(check_health)
        self._see_that_it_is_one()
        pool = self.connection_pool
        watch_of(pool.sentinel_manager, pool.service_name).look_after(self)

    def _see_that_it_is_one(self) -> None:
        self.send_command("INFO", "replication", check_health=False)  # type: ignore[no-untyped-call]
        try:
            said = _text(self.read_response())
        except ResponseError:  # an ACL forbids it
            return
        self.wants_replicas = "min_slaves_good_slaves:" in said
        if "role:master" not in said:
            self.disconnect()  # type: ignore[no-untyped-call]
            raise NotPrimary(f"{self.host}:{self.port} is no primary, though the Sentinels say so")

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super(SentinelManagedConnection, self).read_response(*args, **kwargs)
        except redis.ReadOnlyError as e:  # for redis-py a lost connection; but nothing was done
            self.disconnect()  # type: ignore[no-untyped-call]
            raise NotPrimary(f"{self.host}:{self.port} is a replica now") from e


class PrimaryConnection(_ToPrimary):
    """Without TLS."""


class PrimarySSLConnection(_ToPrimary, SentinelManagedSSLConnection):
    """With TLS."""


class Watch:
    """A thread that hears from a Sentinel that the primary has changed, and shuts the connections to any other."""

    def __init__(self, sentinel: Sentinel, service: str) -> None:
        self._sentinel, self._service = sentinel, service
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def look_after(self, connection: Connection) -> None:
        """It is connected to what is the primary now."""
        with self._lock:
            self._connections.add(connection)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="jobq-sentinel", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        backoff = Backoff()
        while self._is_needed():
            for sentinel in list(self._sentinel.sentinels):
                try:
                    self._listen(sentinel, backoff)
                except (RedisError, OSError) as e:  # the next one may know more
                    log.debug("a Sentinel does not answer: %s", e)
            time.sleep(backoff.failed())

    def _is_needed(self) -> bool:
        with self._lock:
            if self._connections:
                return True
            self._thread = None
            return False

    def _listen(self, sentinel: redis.Redis, backoff: Backoff) -> None:
        with Listener(sentinel.connection_pool) as listener:
            listener.subscribe("+switch-master")
            look_at = 0.0  # at once: it may have changed before we listened
            while self._connections:
                message = listener.get_message(ignore_subscribe_messages=True, timeout=LOOK / 2)
                backoff.reset()
                now = time.monotonic()
                if now >= look_at or (message and _text(message["data"]).split(" ")[0] == self._service):
                    look_at = now + LOOK
                    self._look(sentinel)

    def _look(self, sentinel: redis.Redis) -> None:
        masters: Any = sentinel.sentinel_masters()
        if state := masters.get(self._service):
            self._shut_all_but((str(state["ip"]), int(state["port"])))

    def _shut_all_but(self, primary: tuple[str, int]) -> None:
        with self._lock:
            others = [c for c in self._connections if (str(c.host), int(c.port)) != primary]
        for connection in others:
            log.debug("%s:%s is the primary no more", connection.host, connection.port)
            with contextlib.suppress(OSError, AttributeError):  # its thread has closed it meanwhile
                sock: Any = connection._sock
                sock.shutdown(socket.SHUT_RDWR)  # who waits for an answer sees the end


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


_watches: dict[tuple[Any, ...], Watch] = {}
_lock = threading.Lock()


def watch_of(sentinel: Sentinel, service: str) -> Watch:
    """The one of this process for these Sentinels and this service."""
    nodes = [s.connection_pool.connection_kwargs for s in sentinel.sentinels]
    key = (service, *sorted((str(n.get("host")), int(n.get("port", 0))) for n in nodes))
    with _lock:
        if key not in _watches:
            _watches[key] = Watch(sentinel, service)
        return _watches[key]


def _begin_anew() -> None:
    """In a child: the threads are the parent's, and so are the sockets, which must not be shut from here."""
    global _lock
    _lock = threading.Lock()
    _watches.clear()


os.register_at_fork(after_in_child=_begin_anew)
