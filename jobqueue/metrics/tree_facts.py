"""What a supervisor knows of its worker, for the metrics. No library is needed for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TreeFacts:
    """What a supervisor knows of its tree at one moment."""

    worker: str
    why_not: str  # why it cannot claim jobs; "": it can
    slots: int
    slots_busy: int
    pids: tuple[int, ...]  # of the processes that run jobs
    lease_age: float | None  # seconds since the store confirmed the lease; None: it never has
    deaths: Mapping[str, int] = field(default_factory=dict)  # by cause
