"""The figures of ``jobq bench``: frozen values, in seconds, and what follows from them by arithmetic alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from jobqueue.compare.plan import Cell


@dataclass(frozen=True)
class DrainRun:
    """The figures of one drain. store_cpu: CPU seconds of the store, None if it does not report them; others: cores
    that other programs used."""

    jobs: int
    wall: float
    worker_cpu: float
    store_cpu: float | None
    others: float = 0.0

    @property
    def rate(self) -> float:
        return self.jobs / self.wall


@dataclass(frozen=True)
class BenchDrain:
    """The runs of one worker; ``typical`` is the one with the median rate."""

    cell: Cell
    runs: tuple[DrainRun, ...]

    @property
    def typical(self) -> DrainRun:
        return sorted(self.runs, key=lambda run: run.rate)[len(self.runs) // 2]

    @property
    def interpreters(self) -> int:
        """How many cores its jobs can keep busy: one per process, since threads share a GIL."""
        return self.cell.workers if self.cell.mode == "process" else 1

    @property
    def store_busy(self) -> float | None:
        """Return the share of the time in which the store's thread worked."""
        run = self.typical
        return None if run.store_cpu is None else min(1.0, run.store_cpu / run.wall)

    @property
    def child_busy(self) -> float:
        """Return the share of the time in which each of its processes worked, on average."""
        return min(1.0, self.typical.worker_cpu / self.typical.wall / self.interpreters)

    @property
    def worker_cores(self) -> float:
        return self.typical.worker_cpu / self.typical.wall


@dataclass(frozen=True)
class BenchLatency:
    """How long single jobs took in an idle system, each in seconds: until they began, until their result was back."""

    starts: tuple[float, ...]
    results: tuple[float, ...]


@dataclass(frozen=True)
class BenchFigures:
    """All that was measured. loop: calls per second of the plain function; round_trip: seconds of a PING, the median;
    is_near: the store runs on this machine."""

    loop: float
    one_by_one: float
    bulk: float
    drains: tuple[BenchDrain, ...]
    latency: BenchLatency
    round_trip: float
    cores: int
    is_near: bool
    seconds: float
    others: float

    @property
    def fastest(self) -> BenchDrain:
        return max(self.drains, key=lambda drain: drain.typical.rate)


def percentile(values: Sequence[float], part: int) -> float:
    """Return a percentile of the values. values: at least one."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[part - 1]
