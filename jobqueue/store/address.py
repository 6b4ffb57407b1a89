"""The address of a store, which can be passed to other processes, and the checked parts of its URL."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from redis.connection import parse_url

from jobqueue.errors import UsageError

SCHEMES = "redis://, rediss://, unix:// or redis+sentinel://"
SENTINEL_PORT = 26379
NO_CLUSTER = (
    "is a Redis Cluster, where one script cannot reach all of a queue's keys: "
    "use a single server, or Sentinel for fail-over"
)


@dataclass(frozen=True)
class Address:
    """How to connect to a store: a URL, or the path of a unix socket (which, unlike a URL, needs no quoting)."""

    url: str | None = None
    unix_socket_path: str | None = None

    def to_json(self) -> str:
        """Return the address as JSON text, for another process. It contains the password, so it must not be logged."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Address:
        """Return the address that ``to_json`` wrote."""
        return cls(**json.loads(text))

    @property
    def scheme(self) -> str:
        """The URL's scheme in lower case, "" when there is none."""
        scheme, separator, _ = (self.url or "").partition("://")
        return scheme.lower() if separator else ""

    def describe(self) -> str:
        """Return the address for people, passwords hidden."""
        return self.unix_socket_path or _hide_passwords(self.url or "")

    def __repr__(self) -> str:  # tracebacks and logs must not show a password either
        return f"Address({self.describe()!r})"


_PASSWORD = re.compile(r"(?i)([?&][^=&]*password[^=&]*=)[^&]*")


def _hide_passwords(url: str) -> str:
    """Hide every part that may be a password, rather too much than too little.

    Before the last @ only a user's name is left, and only if a colon shows that a password follows.
    (``redis://PASSWORD@host``, an easy mistake, has none.)
    """
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    secret, at, host = rest.rpartition("@")
    if at:
        user, colon, _ = secret.partition(":")
        rest = f"{user}:***@{host}" if colon and "/" not in user else f"***@{host}"
    return _PASSWORD.sub(r"\1***", f"{scheme}{separator}{rest}")


def redis_options(address: Address) -> dict[str, Any]:
    """Return redis-py's options for the URL. Raises UsageError where redis-py's ``parse_url`` would silently guess."""
    shown, url, scheme = repr(address.describe()), address.url or "", address.scheme
    if scheme == "redis+cluster":
        raise UsageError(f"{address.describe()} {NO_CLUSTER}")
    if scheme not in ("redis", "rediss", "unix"):
        raise UsageError(f"{shown} is not a Redis URL: it must start with {SCHEMES}")
    try:
        options: dict[str, Any] = parse_url(url)
        database = urlsplit(url).path.strip("/")
    except ValueError:  # the error's own text may quote a piece of the password
        hint = "is the port a number, is ?option=value right?"
        if "@" in url and any(mark in url.split("://", 1)[1].rpartition("@")[0] for mark in "#/?"):
            hint = "in a password write # as %23, / as %2F and ? as %3F"
        raise UsageError(f"{shown} is not a Redis URL: {hint}") from None
    if scheme == "unix" and not options.get("path"):
        raise UsageError(f"{shown}: a unix URL has three slashes and a path, as in unix:///run/redis.sock")
    if scheme != "unix" and database and not database.isdecimal():
        raise UsageError(f"{shown}: the database after the port must be a number, as in …:6379/0")
    return options


class SentinelUrl(NamedTuple):
    """The parts of a Sentinel URL: the Sentinels' addresses, the primary's name, and redis-py's options for each."""

    nodes: list[tuple[str, int]]
    service: str
    for_primary: dict[str, Any]
    for_sentinels: dict[str, Any]


def sentinel_url(address: Address) -> SentinelUrl:
    """Read ``redis+sentinel://[user:pass@]host:port[,host:port]/service[/db]``. Raises UsageError.

    User and password are the primary's; the Sentinels' own stand in ``?sentinel_username=…&sentinel_password=…``.
    """
    try:
        return _sentinel_url(address.url or "")
    except ValueError:
        shown = repr(address.describe())
        raise UsageError(f"{shown} should read redis+sentinel://host:26379,host2:26379/service/0") from None


def _sentinel_url(url: str) -> SentinelUrl:
    _, netloc, rest = re.split(r"://([^/?#]*)", url, maxsplit=1)
    parts = urlsplit(rest)  # without the hosts: recent Pythons refuse a bracket behind a comma as a broken address
    userinfo, _, hosts = netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError
    nodes = [
        (n.hostname or "localhost", n.port or SENTINEL_PORT) for n in (urlsplit(f"//{h}") for h in hosts.split(","))
    ]
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return SentinelUrl(
        nodes,
        unquote(service),
        {"db": int(database or 0), "username": unquote(user) or None, "password": unquote(password) or None},
        {"username": query.get("sentinel_username"), "password": query.get("sentinel_password")},
    )
