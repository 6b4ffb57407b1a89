"""Who holds a job, and by what right it writes about it."""

from __future__ import annotations

from typing import NamedTuple


class Token(NamedTuple):
    """The right to write about a job: the store knows that ``owner`` holds job ``id`` of ``queue`` under ``claim``."""

    owner: str
    id: str
    claim: int
    queue: str


class Claimed(NamedTuple):
    """A job in the hands of a child: (id, claim) is its token."""

    id: str
    claim: int
    queue: str
    data: bytes  # as in the hash: raw or zlib
    timeout: float | None  # None: the default; negative: no limit
    result_ttl: int | None
    failure_ttl: int | None
    retries_left: int
    features: str  # one letter each; cycle.lua says which
