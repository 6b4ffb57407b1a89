"""How claimed jobs end, and what CYCLE says to that."""

from __future__ import annotations

from typing import NamedTuple

RETURNED, RAISED = 1, 2
RECORDED, LOST, GONE, HAS_DEPENDENTS = 1, 0, 2, 3  # acks of an outcome


class JobOutcome(NamedTuple):
    """How a claimed job ended; what CYCLE writes about it. Times are RQ's text and seconds since the epoch."""

    id: str
    claim: int
    queue: str
    kind: int  # RQ's result type: 1 returned, 2 raised
    ttl: int
    payload: bytes  # as RQ's Result.restore reads it; b"" for a job that returned None
    started_at: str
    ended_at: str
    started: float
    ended: float
    by_rq: bool = False  # RQ's own finish is at it: not for CYCLE, a rescue leaves it to RQ's code again
