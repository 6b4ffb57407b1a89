"""Make the URL of a store from a queue's settings, in the words of django-rq: URL; HOST, PORT, DB; SENTINELS; and so
on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from django.conf import settings

from jobqueue.store.address import Address, redis_options

ADDRESS = frozenset(
    {
        *("URL", "DB", "USE_REDIS_CACHE", "UNIX_SOCKET_PATH", "HOST", "PORT", "USERNAME", "PASSWORD"),
        *("SSL", "SSL_CERT_REQS", "REDIS_CLIENT_KWARGS", "SOCKET_TIMEOUT"),
        *("SENTINELS", "MASTER_NAME", "CONNECTION_KWARGS", "SENTINEL_KWARGS"),
    }
)
_SENTINEL_LOGIN = {"username", "password"}
_LIMITS = {"socket_timeout", "socket_connect_timeout", "retry_on_timeout", "health_check_interval"}  # jobq sets these


class BadAddress(ValueError):
    """These settings name no store that jobq can reach."""


def url_of(config: Mapping[str, Any]) -> str | None:
    """Return the URL that the settings of a queue mean; None if they name no store. Raises BadAddress."""
    if config.get("URL"):
        return _with_database(str(config["URL"]), config)
    if alias := config.get("USE_REDIS_CACHE"):
        return _of_cache(alias)
    if path := config.get("UNIX_SOCKET_PATH"):
        return f"unix://{_login(config)}{path}{_query({'db': config['DB']} if config.get('DB') else {})}"
    if config.get("SENTINELS"):
        return _of_sentinels(config)
    if config.get("HOST"):
        scheme = "rediss" if config.get("SSL") else "redis"
        options = _options(config.get("REDIS_CLIENT_KWARGS") or {}) | _certificates(config)
        place = f"{_login(config)}{_host(config['HOST'])}:{config.get('PORT') or 6379}"
        return f"{scheme}://{place}/{config.get('DB') or 0}{_query(options)}"
    return None


def identity(url: str | None) -> object:
    """Return what is equal for two URLs of one store, as far as the URLs show."""
    address = Address(url=url)
    if address.scheme not in ("redis", "rediss", "unix"):
        return url
    options = redis_options(address)
    place = options.get("path") or (options.get("host", "localhost"), options.get("port", 6379))
    return address.scheme, place, options.get("db", 0), options.get("username"), options.get("password")


def _with_database(url: str, config: Mapping[str, Any]) -> str:
    """Add DB and the TLS settings to a URL that does not say them itself, as redis-py does with its arguments."""
    parts = urlsplit(url)
    more: dict[str, Any] = {}
    if config.get("DB") and "db=" not in parts.query and (parts.scheme == "unix" or parts.path in ("", "/")):
        more["db"] = config["DB"]
    if parts.scheme == "rediss" and "ssl_cert_reqs=" not in parts.query:
        more |= _certificates(config)
    if not more:
        return url
    return f"{url}{'&' if parts.query else '?'}{urlencode(more)}"


def _of_cache(alias: str) -> str:
    cache = (getattr(settings, "CACHES", None) or {}).get(alias)
    place = (cache or {}).get("LOCATION")
    first = place[0] if isinstance(place, list | tuple) and place else place
    if not isinstance(first, str) or "://" not in first:
        raise BadAddress(
            f"USE_REDIS_CACHE: the cache {alias!r} has no LOCATION that is a URL, as in redis://host:6379/1."
        )
    return first.split(",")[0].strip()


def _of_sentinels(config: Mapping[str, Any]) -> str:
    if not config.get("MASTER_NAME"):
        raise BadAddress("SENTINELS goes with MASTER_NAME, the name of the primary.")
    more, login = dict(config.get("CONNECTION_KWARGS") or {}), dict(config.get("SENTINEL_KWARGS") or {})
    if unknown := [name for name in more if name not in _LIMITS] + [n for n in login if n not in _SENTINEL_LOGIN]:
        raise BadAddress(f"jobq cannot reach Sentinels with the option {unknown[0]!r}.")
    nodes = ",".join(f"{_host(host)}:{port}" for host, port in config["SENTINELS"])
    query = _query({f"sentinel_{name}": value for name, value in login.items() if value})
    service = quote(str(config["MASTER_NAME"]), safe="")
    return f"redis+sentinel://{_login(config)}{nodes}/{service}/{config.get('DB') or 0}{query}"


def _login(config: Mapping[str, Any]) -> str:
    user, password = config.get("USERNAME"), config.get("PASSWORD")
    if not user and not password:
        return ""
    return f"{quote(str(user or ''), safe='')}:{quote(str(password or ''), safe='')}@"


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _certificates(config: Mapping[str, Any]) -> dict[str, Any]:
    if "SSL_CERT_REQS" not in config:
        return {}
    wanted = config["SSL_CERT_REQS"]
    return {"ssl_cert_reqs": "none" if wanted is None else str(wanted)}


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return redis-py's arguments as options of a URL; those are left out that jobq sets itself."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name in _LIMITS:
            continue
        if name == "ssl_cert_reqs":
            found |= _certificates({"SSL_CERT_REQS": value})
        elif isinstance(value, str | int | float):
            found[name] = value
        else:
            raise BadAddress(f"REDIS_CLIENT_KWARGS: {name} cannot stand in a URL; give get_queue() a connection.")
    return found


def _query(options: Mapping[str, Any]) -> str:
    return f"?{urlencode(options)}" if options else ""
