"""Connect to the server that the Sentinels call the primary, and close those connections when it is another server.

A connection that was opened before a planned fail-over still leads to the old primary, which accepts writes for some
seconds more until it is told that it is a replica, and then discards them. So each process with such connections
listens to a Sentinel (one thread), and closes those to any other server when the primary has changed; a new connection
is used only when the server itself says that it is a primary.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import redis
from redis.connection import Connection
from redis.exceptions import RedisError, ResponseError
from redis.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection

from jobqueue.network.backoff import Backoff
from jobqueue.network.failover import NotPrimary
from jobqueue.network.listening import Listener

log = logging.getLogger(__name__)

LOOK = 10.0  # seconds between two queries for the primary, in case a message was lost


class _ToPrimary(SentinelManagedConnection):
    """A connection to the server that the Sentinels call the primary. It raises NotPrimary if the server calls itself a
    replica."""

    wants_replicas = False  # whether the server has min-replicas-to-write set

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
            raise NotPrimary(f"{self.host}:{self.port} is not a primary, although the Sentinels say so")

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super(SentinelManagedConnection, self).read_response(*args, **kwargs)
        except redis.ReadOnlyError as e:  # redis-py treats it as a lost connection, but the command was not done
            self.disconnect()  # type: ignore[no-untyped-call]
            raise NotPrimary(f"{self.host}:{self.port} is a replica now") from e


class PrimaryConnection(_ToPrimary):
    """A connection to the primary without TLS."""


class PrimarySSLConnection(_ToPrimary, SentinelManagedSSLConnection):
    """A connection to the primary with TLS."""


class Watch:
    """A thread that learns from a Sentinel that the primary has changed, and closes the connections to any other
    server."""

    def __init__(self, sentinel: Sentinel, service: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sentinel, self._service = sentinel, service
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def look_after(self, connection: Connection) -> None:
        """Watch a connection to the present primary."""
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
                except (RedisError, OSError) as e:  # ask the next Sentinel
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
            look_at = 0.0  # at once: the primary may have changed before we listened
            while self._connections:
                message = listener.get_message(ignore_subscribe_messages=True, timeout=LOOK / 2)
                backoff.reset()
                now = self._clock()
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
            log.debug("%s:%s is no longer the primary", connection.host, connection.port)
            with contextlib.suppress(OSError, AttributeError):  # the connection's thread has closed it meanwhile
                sock: Any = connection._sock
                sock.shutdown(socket.SHUT_RDWR)  # a thread that waits for an answer sees the end of the connection


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


_watches: dict[tuple[Any, ...], Watch] = {}
_lock = threading.Lock()


def watch_of(sentinel: Sentinel, service: str) -> Watch:
    """Return this process's Watch for these Sentinels and this service."""
    nodes = [s.connection_pool.connection_kwargs for s in sentinel.sentinels]
    key = (service, *sorted((str(n.get("host")), int(n.get("port", 0))) for n in nodes))
    with _lock:
        if key not in _watches:
            _watches[key] = Watch(sentinel, service)
        return _watches[key]


def _begin_anew() -> None:
    """Drop all watches in a forked child: the threads are the parent's, and so are the sockets, which the child must
    not shut."""
    global _lock
    _lock = threading.Lock()
    _watches.clear()


os.register_at_fork(after_in_child=_begin_anew)
