"""Read a store key by key, without what differs between two runs of the same jobs: times, ids, names."""

from __future__ import annotations

import base64
import pickle
import re
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import redis

SLACK = 40.0  # seconds that two runs may differ where a distance in time is compared
TIMES = {"created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat", "birth", "death"}
TIMES |= {"execution_started_at", "execution_ended_at"}
OF_A_PROCESS = {"pid", "hostname", "ip_address", "version", "python_version", "total_working_time"}


class Seconds:
    """A time relative to now; two of them are equal when they are near each other."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Seconds) and abs(self.value - other.value) <= SLACK

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return f"{self.value:.0f} s"


def snapshot(client: redis.Redis, workers: set[str]) -> dict[str, Any]:
    """Read every key: ``{name: (type, content, expiry)}``. ``workers``: the workers' names, which differ between
    runs."""
    mask = _masking(workers)
    seen = {}
    for key in sorted(client.scan_iter(count=1000)):
        kind = client.type(key).decode()
        content = _READ[kind](client, key) if kind in _READ else None
        pttl = int(client.pttl(key))
        if content is None:  # a lock that was released meanwhile
            continue
        seen[mask(key.decode())] = (kind, _plain(content, mask), Seconds(pttl / 1000) if pttl >= 0 else "for ever")
    return seen


def differences(a: dict[str, Any], b: dict[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield (key, field or another part of the key, value in a, value in b); None means that it is missing."""
    for key in sorted(a.keys() | b.keys()):
        one, other = a.get(key), b.get(key)
        if one is None or other is None:
            yield key, "key", one, other
            continue
        for what, x, y in zip(("type", "content", "expiry"), one, other, strict=True):
            if isinstance(x, dict) and isinstance(y, dict):
                for field in sorted(x.keys() | y.keys()):
                    if x.get(field) != y.get(field):
                        yield key, field, x.get(field), y.get(field)
            elif x != y:
                yield key, what, x, y


# -- reading -----------------------------------------------------------------------------------------------------------

_READ: dict[str, Callable[[redis.Redis, bytes], Any]] = {
    "string": lambda r, k: r.get(k),
    "list": lambda r, k: r.lrange(k, 0, -1),
    "set": lambda r, k: r.smembers(k),
    "hash": lambda r, k: r.hgetall(k),
    "zset": lambda r, k: dict(r.zrange(k, 0, -1, withscores=True)),
    "stream": lambda r, k: [fields for _, fields in r.xrange(k)],
}


def _masking(workers: set[str]) -> Callable[[str], str]:
    names = re.compile("|".join(map(re.escape, sorted(workers))) or "(?!)")

    def mask(text: str) -> str:
        return re.sub(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", "<execution>", names.sub("<worker>", text))

    return mask


def _plain(content: Any, mask: Callable[[str], str]) -> Any:
    if isinstance(content, set):
        return {_text(member, mask) for member in content}
    if isinstance(content, list):
        return [_plain(member, mask) for member in content]
    if not isinstance(content, dict):
        return _text(content, mask)
    return {name.decode(): _value(name.decode(), value, mask) for name, value in _masked(content, mask).items()}


def _masked(content: dict[bytes, Any], mask: Callable[[str], str]) -> dict[bytes, Any]:
    return {mask(name.decode()).encode(): value for name, value in content.items()}


def _value(name: str, value: Any, mask: Callable[[str], str]) -> Any:
    if isinstance(value, float):  # a score
        return Seconds(value - time.time()) if 1e9 < value < 1e11 else value
    if name in OF_A_PROCESS or (name in TIMES and value):
        return f"<{name}>"
    if name == "data":
        return _unzipped(value)
    if name == "return_value":
        return _loaded(base64.b64decode(value))
    if name in ("exc_string", "exc_info"):
        return _end_of(_unzipped(base64.b64decode(value) if name == "exc_string" else value))
    return _text(value, mask)


def _text(value: bytes, mask: Callable[[str], str]) -> str:
    return mask(value.decode(errors="backslashreplace"))


def _unzipped(value: bytes) -> bytes:
    try:
        return zlib.decompress(value)
    except zlib.error:
        return value


def _loaded(value: bytes) -> str:
    return repr(pickle.loads(value))


def _end_of(traceback: bytes) -> tuple[str, ...]:
    """Return a traceback without the frames of RQ and jobq, in which the two differ: the user's code and the last
    line."""
    text = traceback.decode()
    frames = [name for path, name in re.findall(r'File "([^"]*)", line \d+, in (\S+)', text) if "samples" in path]
    return (*frames, text.strip().splitlines()[-1] if text.strip() else "")
