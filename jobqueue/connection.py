"""How to reach the store: an Address that other processes can be given, and clients that never repeat a command.

Everyone who needs redis-py imports this module first (see ``_keep_the_gil_off``). Beside ``store.py`` it is the only
one that builds clients. redis-py's own retries are off: they repeat commands in silence, and an enqueue or a claim
that ran twice is a bug that nobody sees. Whoever repeats does it on purpose, with RECONCILE or a job id.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from jobqueue import config
from jobqueue.errors import JobqError, StoreRefused, StoreUnreachable, UsageError

if TYPE_CHECKING:
    from jobqueue.store import LocalStore


def _keep_the_gil_off() -> None:
    """On a free-threaded Python, hide hiredis from ``import redis``: loading it turns the GIL on again (measured)."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        sys.modules.setdefault("hiredis", None)  # type: ignore[arg-type]  # None makes the import fail, redis expects that


_keep_the_gil_off()

import inspect  # noqa: E402  # below this line redis may be imported

import redis  # noqa: E402
from redis.backoff import NoBackoff  # noqa: E402
from redis.connection import AbstractConnection, ConnectionPool, UnixDomainSocketConnection, parse_url  # noqa: E402
from redis.retry import Retry  # noqa: E402
from redis.sentinel import MasterNotFoundError, Sentinel  # noqa: E402

__all__ = [  # redis too: `from jobqueue.connection import redis` is the import that cannot be done in the wrong order
    "Address",
    "Store",
    "check",
    "client",
    "examine",
    "explain",
    "open_store",
    "redis",
    "server_version",
]

SCHEMES = "redis://, rediss://, unix:// or redis+sentinel://"
SENTINEL_PORT = 26379
# CLIENT SETINFO costs two round trips per connection. redis-py 7 renamed the switch and warns about the old name.
_NO_SETINFO: dict[str, Any] = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(AbstractConnection).parameters
    else {"lib_name": None, "lib_version": None}
)


@dataclass(frozen=True)
class Address:
    """How to connect to a store: a URL, or the path of a unix socket (a path needs no quoting, a URL would)."""

    url: str | None = None
    unix_socket_path: str | None = None

    def to_json(self) -> str:
        """Return the address as JSON text, for another process. It holds the password: not for logs."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Address:
        """Return the address that ``to_json`` wrote."""
        return cls(**json.loads(text))

    def describe(self) -> str:
        """Return the address for people, passwords hidden."""
        return self.unix_socket_path or _hide_passwords(self.url or "")

    def __repr__(self) -> str:  # a password must not reach a traceback or a log either
        return f"Address({self.describe()!r})"


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
    elif _scheme(address.url) == "redis+sentinel":
        return _sentinel_client(address, options)
    else:
        options = _parse(address) | options
    return redis.Redis.from_pool(ConnectionPool(**options))


def _scheme(url: str | None) -> str:
    """Return a URL's scheme in lower case, "" when it has none."""
    scheme, separator, _ = (url or "").partition("://")
    return scheme.lower() if separator else ""


def _parse(address: Address) -> dict[str, Any]:
    """Return redis-py's options for the URL; where ``parse_url`` would guess in silence, refuse."""
    url = address.url or ""
    if _scheme(url) == "redis+cluster":
        raise UsageError(_NO_CLUSTER.format(where=address.describe()))
    if _scheme(url) not in ("redis", "rediss", "unix"):
        raise UsageError(f"{address.describe()!r} is not a Redis URL: it must start with {SCHEMES}")
    try:
        options: dict[str, Any] = parse_url(url)
        database = urlsplit(url).path.strip("/")
    except ValueError:  # its text may quote a piece of the password
        raise UsageError(
            f"{address.describe()!r} is not a Redis URL: is the port a number, is ?option=value right?"
        ) from None
    if _scheme(url) != "unix" and database and not database.isdecimal():
        raise UsageError(f"{address.describe()!r}: the database after the port must be a number, as in …:6379/0")
    if _scheme(url) == "unix" and not options.get("path"):
        raise UsageError(
            f"{address.describe()!r}: a unix URL has three slashes and a path, as in unix:///run/redis.sock"
        )
    return options


def _sentinel_client(address: Address, options: dict[str, Any]) -> redis.Redis:
    """Follow the primary of ``redis+sentinel://[user:pass@]host:port[,host:port]/service[/db]``.

    User and password are the primary's; the Sentinels' own stand in ``?sentinel_username=…&sentinel_password=…``.
    """
    try:
        parts = urlsplit(address.url or "")
        userinfo, _, hosts = parts.netloc.rpartition("@")
        nodes = [
            (n.hostname or "localhost", n.port or SENTINEL_PORT) for n in (urlsplit(f"//{h}") for h in hosts.split(","))
        ]
        service, _, database = parts.path.strip("/").partition("/")
        db = int(database or 0)
    except ValueError:
        service, db, nodes, userinfo, parts = "", 0, [], "", urlsplit("")
    if not service:
        raise UsageError(f"{address.describe()!r} should read redis+sentinel://host:26379,host2:26379/service/0")
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    user, _, password = userinfo.partition(":")
    own = {k: v for k, v in options.items() if k not in ("max_connections", "retry_on_timeout")}
    own |= {"username": query.get("sentinel_username"), "password": query.get("sentinel_password")}
    primary = {"db": db, "username": unquote(user) or None, "password": unquote(password) or None}
    sentinel = Sentinel(nodes, sentinel_kwargs=own)
    followed: redis.Redis = sentinel.master_for(unquote(service), **primary, **options)
    return followed


def check(r: redis.Redis, address: Address) -> None:
    """PING the store. Raises StoreUnreachable or StoreRefused, one line that says what to do."""
    examine(r, address)


def examine(r: redis.Redis, address: Address) -> dict[str, Any]:
    """Do what ``check`` does and return ``INFO server``; empty where an ACL forbids INFO."""
    pipeline = r.pipeline(transaction=False)
    pipeline.info("server")
    pipeline.role()
    try:
        r.ping()  # by itself: a server that refuses us says why in answer to the first command, and hangs up
        info, role = pipeline.execute(raise_on_error=False)
    except (redis.RedisError, OSError, TypeError, ValueError) as e:
        raise explain(e, address) from e
    info = info if isinstance(info, dict) else {}
    mode = info.get("redis_mode") or info.get("server_mode")  # valkey 9 has only the second
    if mode == "cluster":
        raise StoreRefused(_NO_CLUSTER.format(where=address.describe()))
    if mode == "sentinel":
        raise StoreRefused(f"{address.describe()} is a Sentinel: use redis+sentinel://host:port/service")
    if isinstance(role, list) and role[0] in (b"slave", "slave"):
        raise StoreRefused(f"{address.describe()} is a replica and keeps no writes: use its primary's address")
    return info


_NO_CLUSTER = (
    "{where} is a Redis Cluster, where one script cannot reach all of a queue's keys: "
    "use a single server, or Sentinel for fail-over"
)


def explain(error: Exception, address: Address) -> JobqError:
    """Turn an exception of redis-py into ours: one line, where, what, and what to do."""
    where, said = address.describe(), (str(error).splitlines() or [""])[0]
    cause = _system_error(error)
    match error:
        case redis.AuthenticationError() if "required" in said.lower():
            return StoreRefused(f"{where} wants a password: put it into the URL, as in redis://:PASSWORD@host:6379/0")
        case redis.AuthenticationError():
            return StoreRefused(f"{where} refuses the user name or password in the URL ({said})")
        case redis.BusyLoadingError():
            return StoreRefused(f"{where} is still loading its data: try again in a moment")
        case MasterNotFoundError():
            return StoreUnreachable(f"{where}: no Sentinel there answers and knows a primary of this name")
        case TypeError():  # redis-py passes ?anything=… on as a keyword argument
            return UsageError(
                f"{where}: the URL has an option that redis-py does not know ({said.rpartition(') ')[2]})"
            )
        case redis.TimeoutError() | TimeoutError() if _scheme(address.url) == "rediss":
            return StoreUnreachable(f"{where} does not answer: does it speak TLS on this port? If not: redis://")
        case redis.TimeoutError() | TimeoutError():
            return StoreUnreachable(
                f"{where} does not answer: is the address right, and does a firewall stand between?"
            )
    match cause:
        case socket.gaierror():
            return StoreUnreachable(f"{where}: there is no host of this name")
        case ConnectionRefusedError():
            return StoreUnreachable(f"{where}: nobody listens there (connection refused); is the server running?")
        case FileNotFoundError():
            return StoreUnreachable(f"{where}: there is no such socket; is the server running?")
        case PermissionError():
            return StoreUnreachable(f"{where}: permission denied; the socket belongs to somebody else")
        case OSError():
            return StoreUnreachable(f"{where}: {cause.strerror or cause}")
    if isinstance(error, redis.InvalidResponse):
        return StoreUnreachable(f"{where} answers, but not as Redis does: is this the right port?")
    if isinstance(error, redis.ConnectionError):
        return StoreUnreachable(f"{where}: {said}")
    return StoreRefused(f"{where}: {said}")


def _system_error(error: BaseException) -> OSError | None:
    """Return the OSError below redis-py's exception, which tells refused from unknown better than its text."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, OSError):
        seen = seen.__cause__ or seen.__context__
    return seen


def _hide_passwords(url: str) -> str:
    """Rather hide too much: everything between the first colon of the user part and the last @ goes."""
    url = re.sub(r"://([^:@/]*):.*@", r"://\1:***@", url)
    return re.sub(r"([?&][a-z_]*password=)[^&]*", r"\1***", url)


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
    from jobqueue.store import LocalStore  # here: store.py builds its clients with this module

    local = LocalStore(config.home(env), env=env)
    try:
        return _opened(Address(unix_socket_path=local.ensure()), source, local)
    except BaseException:
        local.release()
        raise


def _opened(address: Address, source: str, local: LocalStore | None) -> Store:
    with client(address, socket_timeout=5.0) as r:
        info = examine(r, address)
    return Store(address, source, " ".join(server_version(info)), local)
