"""Define how claimed jobs end, and CYCLE's answers to that."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Literal, NamedTuple

# RQ's result types. Plain numbers and no enum: an outcome goes through marshal, which refuses a member of one, and
# through redis-py, which sends its repr.
ResultKind = Literal[1, 2]
RETURNED: Final = 1
RAISED: Final = 2


class Ack(IntEnum):
    """CYCLE's answer to an outcome; scripts/cycle.lua has the meanings. In the order of their numbers."""

    LOST = 0  # the token is gone, nothing was written
    RECORDED = 1
    GONE = 2  # the job was deleted or canceled meanwhile, and is released
    HAS_DEPENDENTS = 3  # RQ's own finish must record it, nothing was written


ACKS = tuple(Ack)


class JobOutcome(NamedTuple):
    """How a claimed job ended; what CYCLE writes about it. Times are RQ's text and seconds since the epoch."""

    id: str
    claim: int
    queue: str
    kind: ResultKind
    ttl: int
    payload: bytes  # as RQ's Result.restore reads it; b"" for a job that returned None
    started_at: str
    ended_at: str
    started: float
    ended: float
    by_rq: str = (
        ""  # the verdict by which a rescue leaves it to RQ's own finish again, which is at it; "": CYCLE does it
    )
