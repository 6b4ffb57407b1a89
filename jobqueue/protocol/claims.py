"""Define the token by which a process may write about a job, and what it knows of the job."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple


class Token(NamedTuple):
    """The right to write about a job: the store knows that ``owner`` holds job ``id`` of ``queue`` under ``claim``."""

    owner: str
    id: str
    claim: int
    queue: str


class Features(NamedTuple):
    """The special features of a job. Tested for each job several times, so each is an attribute, not a flag of an enum
    (docs/decisions.md has the figures). The letters are those of scripts/cycle.lua; here they get their names."""

    marked_first: bool = False  # m: mark its start before it runs
    success_by_rq: bool = False  # s: RQ's own code finishes a success
    failure_by_rq: bool = False  # f: RQ's own code finishes a failure
    alone: bool = False  # a: it may have killed a process that ran several jobs, so it runs without company
    fails_at_crash: bool = False  # x: its own --on-crash is fail
    repeats_at_crash: bool = False  # r: its own --on-crash is retry
    attempt: int = 1  # a number behind the letters: which run of the job this is


_LETTERS = b"msfaxr"  # in the order of the fields


@cache
def features_of(letters: bytes) -> Features:
    """Return the features for the letters of CYCLE. Raises ValueError for an unknown letter."""
    names = letters.rstrip(b"0123456789")
    if unknown := set(names) - set(_LETTERS):
        raise ValueError(f"CYCLE has a feature that has no name here: {bytes(unknown)!r}")
    features = Features(*(letter in names for letter in _LETTERS))
    return features._replace(attempt=int(letters[len(names) :] or 1))


class Claimed(NamedTuple):
    """A job that a child has claimed."""

    id: str
    claim: int
    queue: str
    data: bytes  # as in the hash: raw or zlib
    timeout: float | None  # None: the default; negative: no limit
    result_ttl: int | None
    failure_ttl: int | None
    retries_left: int
    features: Features = Features()
    ready_at: float = 0.0  # when it came to its queue, in seconds since the epoch; 0: unknown

    def token(self, owner: str) -> Token:
        """Return its token, in the hands of ``owner``."""
        return Token(owner, self.id, self.claim, self.queue)


class StartMark(NamedTuple):
    """What START MARK writes about a job that starts: the time as RQ's text, and for how many seconds the mark is
    valid."""

    job: Claimed
    started_at: str
    ttl: int
