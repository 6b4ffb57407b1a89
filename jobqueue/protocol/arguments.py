"""Convert the arguments and replies of scripts: names in the store may be any bytes, and are text here."""

from __future__ import annotations

from collections.abc import Iterable

Field = bytes | str | int | float


def text_of(value: bytes | str) -> str:
    """Any bytes; ``as_they_came`` makes them of it again."""
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


def bytes_of(text: str) -> bytes:
    """Return a name or a key as the store has it, which may not be UTF-8: the opposite of ``text_of``."""
    return text.encode(errors="surrogateescape")


def as_they_came(args: Iterable[Field]) -> list[Field]:
    """Return the arguments as redis-py can send them, as an id in the store may not be UTF-8."""
    return [bytes_of(arg) if isinstance(arg, str) else arg for arg in args]
