"""How to reach the store: clients that never repeat a command, and ``open_store``, which finds or starts a store.

This is the only module that builds clients. redis-py's own retries are off: they repeat commands in silence, and an
enqueue or a claim that ran twice is a bug that nobody sees. Whoever repeats does it on purpose, with RECONCILE or a job
id.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from jobqueue import config
from jobqueue.address import NO_CLUSTER, Address, redis_options, sentinel_url
from jobqueue.errors import StoreRefused, UsageError
from jobqueue.trouble import explain

if TYPE_CHECKING:
    from jobqueue.store import LocalStore

__all__ = [
    "Address",
    "Store",
    "check",
    "client",
    "explain",
    "like",
    "open_store",
    "redis",
    "server_version",
    "takes_bytes",
]

# CLIENT SETINFO costs two round trips per connection. redis-py 7 renamed the switch and warns about the old name.
_NO_SETINFO: dict[str, Any] = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(AbstractConnection).parameters
    else {"lib_name": None, "lib_version": None}
)


def client(
    address: Address,
    *,
    socket_timeout: float | None = 10.0,
    connect_timeout: float = 5.0,
    decode_responses: bool = False,
) -> redis.Redis:
    """Build a client (thread-safe, connects on first use) that sends each command once.

    Timeouts in seconds; ``socket_timeout=None`` waits for ever, which blocking commands need. What is set here wins
    over the URL's query. A command whose reply is lost raises redis.ConnectionError or redis.TimeoutError: it may have
    run. Raises UsageError for a URL that is none.
    """
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "retry_on_timeout": False,
        "health_check_interval": 0,
        "protocol": 2,  # no HELLO, and maintenance notifications (which need RESP3) stay off
        "max_connections": 2**31,  # redis-py 8 made it 100, which a process of many threads can reach
        "socket_timeout": socket_timeout,
        "socket_connect_timeout": connect_timeout,
        "decode_responses": decode_responses,
        **_NO_SETINFO,
    }
    if address.unix_socket_path:
        options |= {"connection_class": UnixDomainSocketConnection, "path": address.unix_socket_path}
    elif address.scheme == "redis+sentinel":
        return _sentinel_client(address, options)
    else:
        options = redis_options(address) | options
        if address.scheme == "rediss":
            _speak_first(options)
    return redis.Redis.from_pool(ConnectionPool(**options))


def takes_bytes(theirs: redis.Redis) -> redis.Redis:
    """Return the client. Raises UsageError for one that turns replies into text: what jobs are made of is bytes, and it
    would fail somewhere in the middle."""
    if theirs.connection_pool.connection_kwargs.get("decode_responses"):
        raise UsageError("This connection has decode_responses=True, and jobs are bytes: give a connection without it.")
    return theirs


def _speak_first(options: dict[str, Any]) -> None:
    """Behind a TLS 1.3 handshake the server sends session tickets. Unread, they look like a reply that nobody asked
    for, and redis-py throws such a connection away: so something must be asked at once, and SETINFO will do."""
    for name in _NO_SETINFO:
        del options[name]


# What redis-py 8 adds to a pool's options for maintenance notifications, which need RESP3.
_OF_RESP3 = ("maint_notifications_", "oss_cluster_", "orig_")


def like(theirs: redis.Redis) -> redis.Redis:
    """Build a client to where ``theirs`` goes, with its credentials, that sends each command once and does not wait
    for ever. It has a pool of its own."""
    pool = theirs.connection_pool
    once: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "health_check_interval": 0,
        "protocol": 2,
        "socket_timeout": 10.0,
        "socket_connect_timeout": 5.0,
        "decode_responses": False,
        **_NO_SETINFO,
    }
    if issubclass(pool.connection_class, SSLConnection):
        _speak_first(once)
    theirs_kept = {k: v for k, v in pool.connection_kwargs.items() if not k.startswith(_OF_RESP3)}
    options = {**theirs_kept, **once}
    if isinstance(pool, SentinelConnectionPool):
        options.pop("connection_pool", None)
        own: ConnectionPool = SentinelConnectionPool(pool.service_name, pool.sentinel_manager, **options)
        return redis.Redis.from_pool(own)
    return redis.Redis.from_pool(ConnectionPool(connection_class=pool.connection_class, **options))


def _sentinel_client(address: Address, options: dict[str, Any]) -> redis.Redis:
    """Follow the primary that the Sentinels name."""
    url = sentinel_url(address)
    own = {k: v for k, v in options.items() if k not in ("max_connections", "retry_on_timeout")}
    sentinel = Sentinel(url.nodes, sentinel_kwargs=own | url.for_sentinels)
    primary: redis.Redis = sentinel.master_for(url.service, **url.for_primary, **options)
    return primary


def check(r: redis.Redis, address: Address) -> dict[str, Any]:
    """PING the store and return its ``INFO server``, empty where an ACL forbids INFO.

    Raises StoreUnreachable or StoreRefused (also a cluster, a Sentinel, a replica), one line that says what to do.
    """
    pipeline = r.pipeline(transaction=False)
    pipeline.info("server")
    pipeline.role()
    try:
        r.ping()  # by itself: a server that refuses us says why in answer to the first command, and hangs up
        info, role = pipeline.execute(raise_on_error=False)
    except (redis.RedisError, OSError, TypeError, ValueError) as e:
        raise explain(e, address) from e
    info = info if isinstance(info, dict) else {}
    _refuse_what_cannot_hold_a_queue(info, role, address)
    return info


def _refuse_what_cannot_hold_a_queue(info: Mapping[str, Any], role: Any, address: Address) -> None:
    mode = info.get("redis_mode") or info.get("server_mode")  # valkey 9 has only the second
    if mode == "cluster":
        raise StoreRefused(f"{address.describe()} {NO_CLUSTER}")
    if mode == "sentinel":
        raise StoreRefused(f"{address.describe()} is a Sentinel: use redis+sentinel://host:port/service")
    if isinstance(role, list) and role[0] in (b"slave", "slave"):
        raise StoreRefused(f"{address.describe()} is a replica and keeps no writes: use its primary's address")


def server_version(info: Mapping[str, Any]) -> tuple[str, str]:
    """Return (name, version) from INFO; valkey also reports a redis_version, for old clients."""
    if "valkey_version" in info:
        return "valkey", str(info["valkey_version"])
    return str(info.get("server_name", "redis")), str(info.get("redis_version", ""))


class Store:
    """A store that answered: its address, and, if it is the local one, the lease that keeps it running.

    Use it as a context manager. Build it with ``open_store``.
    """

    def __init__(self, address: Address, source: str, server: str = "", local: LocalStore | None = None) -> None:
        self.address = address
        self.local = local
        self._source = source
        self._server = server

    def client(self, **kwargs: Any) -> redis.Redis:
        """Build a new client; the arguments are those of ``connection.client``."""
        return client(self.address, **kwargs)

    def describe(self) -> str:
        """Return the line that says which store is in use."""
        if self.local is None:
            return f"store: {self.address.describe()} ({self._source})"
        started = ", started now" if self.local.started else ""
        return f"store: local, {self.address.describe()} ({self._server}{started})"

    def ensure(self) -> None:
        """Start the local server again if it died; nothing for a URL. Safe from any thread, safe to repeat."""
        if self.local is not None:
            self.local.ensure()

    def close(self) -> None:
        """Give the local store's lease back; the last one out stops the server. Safe to repeat."""
        if self.local is not None:
            self.local.release()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def open_store(url: str | None = None, *, env: Mapping[str, str] = os.environ) -> Store:
    """Open the store that ``url`` or the environment names, else the local store, started if need be.

    Raises UsageError (not a URL) or a StoreError: unreachable, refused, no server binary.
    """
    found, source = config.resolve_url(url, env)
    if found is not None:
        return _opened(Address(url=found), source, None)
    from jobqueue.store import LocalStore  # here: it builds its clients with this module

    local = LocalStore(config.home(env), env=env)
    try:
        return _opened(Address(unix_socket_path=local.ensure()), source, local)
    except BaseException:
        local.release()
        raise


def _opened(address: Address, source: str, local: LocalStore | None) -> Store:
    with client(address, socket_timeout=5.0) as r:
        info = check(r, address)
    return Store(address, source, " ".join(server_version(info)), local)
