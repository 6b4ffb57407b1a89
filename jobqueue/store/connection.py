"""Build the clients of the store, which never repeat a command.

This is the only module that builds clients. redis-py's own retries are off: they repeat commands silently, and an
enqueue or a claim that ran twice is a bug that nobody sees. Code that repeats a request does so explicitly, with
RECONCILE or a job id.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Mapping
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.retry import Retry
from redis.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from jobqueue.errors import StoreRefused, UsageError
from jobqueue.network.failover import Following
from jobqueue.network.primary import PrimaryConnection, PrimarySSLConnection
from jobqueue.network.silence import ANSWER, COMMAND, WAITS_AT_MOST, asking, asks, keepalive, limited
from jobqueue.store.address import NO_CLUSTER, Address, redis_options, sentinel_url
from jobqueue.store.error_texts import explain

__all__ = [
    "Address",
    "check",
    "client",
    "explain",
    "like",
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
    socket_timeout: float = ANSWER,
    connect_timeout: float = 5.0,
    decode_responses: bool = False,
    for_jobs: bool = False,
    patient: bool = False,
) -> redis.Redis:
    """Build a client (thread-safe, connects on first use) that sends each command once.

    Timeouts are in seconds; no client waits for ever, because a connection may die silently. for_jobs: commands that
    wait in the store (BLPOP) get the time that they ask for, others the usual limit. patient: behind Sentinels, repeat
    for half a minute what is refused during a fail-over, and so was not done; jobs' clients do that too.

    What is set here overrides the URL's query. A command whose reply is lost raises redis.ConnectionError or
    redis.TimeoutError: it may have run. Raises UsageError for a URL that is not one.
    """
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "retry_on_timeout": False,
        "health_check_interval": 0,
        "protocol": 2,  # no HELLO, and maintenance notifications (which need RESP3) stay off
        "max_connections": 2**31,  # redis-py 8 made it 100, which a process of many threads can reach
        "socket_timeout": WAITS_AT_MOST if for_jobs else socket_timeout,
        "socket_connect_timeout": connect_timeout,
        "decode_responses": decode_responses,
        **_NO_SETINFO,
    }
    if address.unix_socket_path:
        options |= {"connection_class": UnixDomainSocketConnection, "path": address.unix_socket_path}
    elif address.scheme == "redis+sentinel":
        return _sentinel_client(address, options, for_jobs, patient or for_jobs)
    else:
        options = redis_options(address) | options
        if address.scheme == "rediss":
            _speak_first(options)
    kind = options.pop("connection_class", Connection)
    options |= keepalive() if issubclass(kind, Connection) else {}
    return redis.Redis.from_pool(
        ConnectionPool(connection_class=limited(kind) if for_jobs else asking(kind), **options)
    )


def takes_bytes(theirs: redis.Redis) -> redis.Redis:
    """Return the client. Raises UsageError for one that would fail later: it is asynchronous, or decodes replies, while
    job data is bytes."""
    if any(base.__module__.startswith("redis.asyncio") for base in type(theirs).__mro__):
        raise UsageError("This connection is one of redis.asyncio: give a redis.Redis.")
    if theirs.connection_pool.connection_kwargs.get("decode_responses"):
        raise UsageError("This connection has decode_responses=True, and jobs are bytes: give a connection without it.")
    return theirs


def _speak_first(options: dict[str, Any]) -> None:
    """Make a TLS connection send CLIENT SETINFO at once. Behind a TLS 1.3 handshake the server sends session tickets;
    unread, they look like a reply to no request, and redis-py drops such a connection."""
    for name in _NO_SETINFO:
        del options[name]


# What redis-py 8 adds to a pool's options for maintenance notifications, which need RESP3.
_OF_RESP3 = ("maint_notifications_", "oss_cluster_", "orig_")


def like(theirs: redis.Redis, socket_timeout: float = ANSWER, *, patient: bool = False) -> redis.Redis:
    """Build a client to the same place as ``theirs``, with its credentials, that sends each command once and has
    timeouts. It has a pool of its own."""
    pool = theirs.connection_pool
    once: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "health_check_interval": 0,
        "protocol": 2,
        "socket_timeout": socket_timeout,
        "socket_connect_timeout": min(5.0, socket_timeout),
        "decode_responses": False,
        **_NO_SETINFO,
    }
    kind = pool.connection_class
    if kind in _REDIS_PYS:  # tests with fake servers have connection classes of their own
        kind = asking(_REDIS_PYS[kind])
    if asks(kind):
        once |= keepalive()
    if issubclass(kind, SSLConnection):
        _speak_first(once)
    theirs_kept = {k: v for k, v in pool.connection_kwargs.items() if not k.startswith(_OF_RESP3)}
    options = {**theirs_kept, **once}
    if isinstance(pool, SentinelConnectionPool):
        options["connection_class"] = kind
        options.pop("connection_pool", None)
        own: ConnectionPool = SentinelConnectionPool(pool.service_name, pool.sentinel_manager, **options)
        return (Following if patient else redis.Redis).from_pool(own)
    return redis.Redis.from_pool(ConnectionPool(connection_class=kind, **options))


def bounded(theirs: redis.Redis) -> redis.Redis:
    """Return ``theirs`` if its timeouts are short and it follows a fail-over; else a client like it that does, one for
    all callers."""
    pool = theirs.connection_pool
    timeout = pool.connection_kwargs.get("socket_timeout")
    is_bounded = timeout is not None and timeout <= COMMAND and not isinstance(pool, SentinelConnectionPool)
    if pool.connection_class not in _REDIS_PYS or is_bounded:
        return theirs
    with _bounded_lock:
        if (ours := _bounded.get(pool)) is None:
            ours = _bounded[pool] = like(theirs, patient=True)
        return ours


# Tests with fake servers have connection classes of their own, which need no limit.
_REDIS_PYS: dict[Any, Any] = {  # redis-py's class → the class used in its place
    **{kind: kind for kind in (Connection, SSLConnection, UnixDomainSocketConnection)},
    SentinelManagedConnection: PrimaryConnection,
    SentinelManagedSSLConnection: PrimarySSLConnection,
}
_bounded: weakref.WeakKeyDictionary[ConnectionPool, redis.Redis] = weakref.WeakKeyDictionary()
_bounded_lock = threading.Lock()


def limit_commands(client: redis.Redis) -> None:
    """Give this client's commands that do not wait in the store the usual time limit, whatever its socket timeout is,
    and turn on keepalive; open connections are closed, so that new ones are made."""
    pool = client.connection_pool
    if pool.connection_class in _REDIS_PYS:
        pool.connection_class = limited(_REDIS_PYS[pool.connection_class])
        if issubclass(pool.connection_class, Connection):
            pool.connection_kwargs.update(keepalive())
        pool.disconnect(inuse_connections=False)
        pool.reset()


SENTINELS_ANSWER = 2.0  # seconds until the next Sentinel is asked


def _sentinel_client(address: Address, options: dict[str, Any], for_jobs: bool, patient: bool) -> redis.Redis:
    """Build a client that follows the primary which the Sentinels name."""
    url = sentinel_url(address)
    options |= keepalive()
    own = {k: v for k, v in options.items() if k not in ("max_connections", "retry_on_timeout")}
    own |= {"socket_timeout": SENTINELS_ANSWER, "socket_connect_timeout": SENTINELS_ANSWER}
    sentinel = Sentinel(url.nodes, sentinel_kwargs=own | url.for_sentinels)
    options["connection_class"] = limited(PrimaryConnection) if for_jobs else asking(PrimaryConnection)
    kind = Following if patient else redis.Redis
    primary: redis.Redis = sentinel.master_for(url.service, kind, **url.for_primary, **options)
    return primary


def check(r: redis.Redis, address: Address) -> dict[str, Any]:
    """PING the store and return its ``INFO server``, empty where an ACL forbids INFO.

    Raises StoreUnreachable or StoreRefused (also for a cluster, a Sentinel, a replica), with one line that says what to
    do.
    """
    pipeline = r.pipeline(transaction=False)
    pipeline.info("server")
    pipeline.role()
    try:
        # Not in a pipeline: a server that refuses clients answers the first command with the reason and hangs up.
        r.ping()
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
