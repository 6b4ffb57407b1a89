"""What scripts take and return: names in the store may be any bytes, and are text here all the same."""

from __future__ import annotations

from collections.abc import Iterable

Field = bytes | str | int | float


def text_of(value: bytes | str) -> str:
    """Any bytes; ``as_they_came`` makes them of it again."""
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


def as_they_came(args: Iterable[Field]) -> list[Field]:
    """What redis-py can send, where an id in the store is no UTF-8."""
    return [arg.encode(errors="surrogateescape") if isinstance(arg, str) else arg for arg in args]
