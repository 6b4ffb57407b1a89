"""The figures of a comparison: the sample of one run, the row of several samples, and the sums over them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobqueue.compare.measure import TreeMemory
from jobqueue.insight.capacity import cores as usable_cores
from jobqueue.words import count

MODES = ("thread", "process")
MIXED = "process x thread"  # a process for each core, with threads in each; the number of workers counts all threads
POOLS = ("ThreadPoolExecutor", "ProcessPoolExecutor")
LOOP = "loop"


@dataclass(frozen=True)
class Work:
    """A task as it was asked for: its name as typed, its dotted name, the arguments of its jobs."""

    task: str
    name: str
    argses: tuple[tuple[Any, ...], ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # of every job


@dataclass(frozen=True)
class Sample:
    """The figures of one run of some jobs. wall, cpu and latencies (of the jobs that succeeded) are in seconds.

    starved, for the plain loop: seconds of the wall time in which it was ready to run and had no core.
    """

    jobs: int
    wall: float
    cpu: float
    latencies: Sequence[float] = ()
    failed: int = 0
    error: str | None = None  # of the first job that failed
    starved: float = 0.0
    others: float = 0.0  # how many of the usable cores other programs took during the run

    @property
    def rate(self) -> float:
        return self.jobs / self.wall

    @property
    def cores(self) -> float:
        """Return how many cores the run kept busy, on average."""
        return self.cpu / self.wall

    @property
    def in_a_job(self) -> float:
        """Return the mean seconds that a job ran; 0 when none succeeded."""
        return statistics.fmean(self.latencies) if self.latencies else 0.0


@dataclass
class Row:
    """The samples of one mode at one width, and the memory after the last of them."""

    mode: str
    workers: int
    startup: float
    samples: list[Sample] = field(default_factory=list)
    memory: TreeMemory | None = None

    @property
    def rate(self) -> float:
        return statistics.median(sample.rate for sample in self.samples)

    @property
    def cores(self) -> float:
        return statistics.median(sample.cores for sample in self.samples)

    @property
    def others(self) -> float:
        return statistics.median(sample.others for sample in self.samples)

    @property
    def between(self) -> float:
        """Return the seconds per job in which a single worker was not running the job."""
        return statistics.median(sample.wall / sample.jobs - sample.in_a_job for sample in self.samples)

    @property
    def uss_mb(self) -> float | None:
        return self.memory.uss / 1e6 if self.memory else None

    @property
    def pss_mb(self) -> float | None:
        return self.memory.pss / 1e6 if self.memory and self.memory.pss else None

    @property
    def error(self) -> str | None:
        return next((sample.error for sample in self.samples if sample.error), None)

    @property
    def all_failed(self) -> bool:
        return all(sample.failed == sample.jobs for sample in self.samples)

    def as_json(self) -> dict[str, Any]:
        middle = statistics.median_low
        latencies = [seconds for sample in self.samples for seconds in sample.latencies]
        processes, threads = shape(self.workers) if self.mode == MIXED else (None, None)
        return {
            "mode": self.mode,
            "workers": self.workers,
            **({"processes": processes, "threads": threads} if processes else {}),
            "jobs": middle(sample.jobs for sample in self.samples),
            "failed": max(sample.failed for sample in self.samples),
            "wall_s": rounded(statistics.median(sample.wall for sample in self.samples)),
            "jobs_per_s": rounded(self.rate),
            "cores_used": round(self.cores, 2),
            "others_cores": round(self.others, 2),
            "latency_ms": {"p50": _ms(latencies, 50), "p95": _ms(latencies, 95)},
            "pss_mb": None if self.pss_mb is None else round(self.pss_mb, 2),
            "uss_mb": None if self.uss_mb is None else round(self.uss_mb, 2),
            "startup_s": round(self.startup, 3),
            "samples": [_sample(sample) for sample in self.samples],
        }


def _sample(sample: Sample) -> dict[str, Any]:
    return {
        "jobs": sample.jobs,
        "failed": sample.failed,
        "wall_s": rounded(sample.wall),
        "jobs_per_s": rounded(sample.rate),
        "cores_used": round(sample.cores, 2),
    }


def rounded(value: float) -> float:
    """Return four significant digits: times range from the microseconds of a plain loop to the minutes of a slow
    task."""
    return float(f"{value:.4g}")


def _ms(seconds: Sequence[float], percent: float) -> float | None:
    return rounded(1000 * percentile(seconds, percent)) if seconds else None


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least ``percent`` percent of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(percent * len(ordered)) // 100) - 1)]


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Return by how much y grows per x (least squares); None for fewer than two different x."""
    if len({x for x, _ in points}) < 2:
        return None
    x0, y0 = statistics.fmean(x for x, _ in points), statistics.fmean(y for _, y in points)
    return sum((x - x0) * (y - y0) for x, y in points) / sum((x - x0) ** 2 for x, _ in points)


def shape(workers: int) -> tuple[int, int]:
    """Return (processes, threads in each) of a MIXED row with so many threads in all."""
    return usable_cores(), workers // usable_cores()


def what(mode: str, width: int) -> str:
    """Return a row's name in words: "4 threads", "a ProcessPoolExecutor of 4"."""
    if mode == MIXED:
        processes, threads = shape(width)
        return f"{processes} processes x {threads} threads"
    if mode in MODES:
        return count(width, mode)
    return "a plain loop" if mode == LOOP else f"a {mode} of {width}"
