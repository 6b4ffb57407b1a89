"""One task of a comparison: what was asked for, what its rows have shown, and why rows are missing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jobqueue.compare.figures import LOOP, MODES, POOLS, Row, Work, percentile, rounded, slope
from jobqueue.compare.plan import Cell, Cost
from jobqueue.insight.profile import Profile

GREW_MB = 10.0  # less growth than that in a whole run may be noise
SHOWN = 4  # values that the report shows


@dataclass
class Subject:
    """A task and its rows; ``error`` says why it was not measured."""

    work: Work
    values: Sequence[Any]
    rows: dict[Cell, Row] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)  # the rows that fit into the time
    left_out: set[Cell] = field(default_factory=set)  # the rows that there was no time for
    notes: list[str] = field(default_factory=list)
    error: str | None = None
    grew_mb: float | None = None  # per job, in the plain loop
    peak_mb: float | None = None  # the most memory that a job held at once, in the plain loop

    @property
    def loop(self) -> Row | None:
        row = self.rows.get(Cell(LOOP, 1))
        return row if row and row.samples else None

    @property
    def cost(self) -> Cost:
        """Return what one job costs in the plain loop: wall and CPU time per job."""
        assert self.loop
        samples = self.loop.samples
        return Cost(
            statistics.median(s.wall / s.jobs for s in samples), statistics.median(s.cpu / s.jobs for s in samples)
        )

    def profile(self) -> Profile:
        """Return the figures of the plain loop as the Profile by which `jobq advise` judges."""
        assert self.loop
        samples, cost = self.loop.samples, self.cost
        latencies = [seconds for sample in samples for seconds in sample.latencies] or [cost.wall]
        starved = statistics.median(s.starved / s.jobs for s in samples)
        return Profile(
            task=self.work.task,
            runs=sum(sample.jobs for sample in samples),
            errors=sum(sample.failed for sample in samples),
            wall_s_mean=max(cost.cpu, cost.wall - starved),
            cpu_s_mean=cost.cpu,
            wall_s_p50=percentile(latencies, 50),
            wall_s_p95=percentile(latencies, 95),
            memory_growth_mb=self.grew_mb,
            memory_peak_mb=self.peak_mb,
            gil_wait=None,
        )

    def of(self, mode: str) -> list[Row]:
        """Return the rows of a mode, narrow ones first."""
        return sorted((row for row in self.rows.values() if row.mode == mode and row.samples), key=lambda r: r.workers)

    def at(self, mode: str, workers: int) -> Row | None:
        row = self.rows.get(Cell(mode, workers))
        return row if row and row.samples else None

    @property
    def others(self) -> float:
        """Return how many of the usable cores other programs took during the runs, on average."""
        samples = [sample for row in self.rows.values() for sample in row.samples]
        wall = sum(sample.wall for sample in samples)
        return sum(sample.others * sample.wall for sample in samples) / wall if wall else 0.0

    def rates(self) -> dict[Cell, float]:
        return {cell: row.rate for cell, row in self.rows.items() if row.samples}

    # -- sums over the rows --------------------------------------------------------------------------------------------

    def ratios(self) -> list[dict[str, Any]]:
        """Return the ratio of the jobs/s of process mode to those of thread mode per width, with a sample for each pair
        of neighbouring runs."""
        found = []
        for threads in self.of("thread"):
            processes = self.at("process", threads.workers)
            if processes:
                pairs = zip(threads.samples, processes.samples, strict=False)
                samples = [p.rate / t.rate for t, p in pairs]
                ratio = round(statistics.median(samples), 2)
                found.append({"workers": threads.workers, "ratio": ratio, "samples": [round(s, 2) for s in samples]})
        return found

    def ratio_at(self, workers: int) -> float | None:
        return next((r["ratio"] for r in self.ratios() if r["workers"] == workers), None)

    def memory_per_worker(self) -> dict[str, dict[str, float | None]]:
        found = {}
        for mode in MODES + POOLS:
            rows = self.of(mode)
            uss = slope([(row.workers, row.uss_mb) for row in rows if row.uss_mb is not None])
            pss = slope([(row.workers, row.pss_mb) for row in rows if row.pss_mb is not None])
            if uss is not None:
                found[mode] = {"pss_mb": None if pss is None else round(pss, 3), "uss_mb": round(uss, 3)}
        return found

    def queue_price(self) -> dict[str, float] | None:
        """Return what the queue adds to a job, with one worker of the better mode.

        That is the time in which the worker was not running the job. The difference to the plain loop would count a job
        that only ran slower, for want of a core.
        """
        rows = [row for row in (self.at(mode, 1) for mode in MODES) if row]
        if not rows or not self.loop:
            return None
        better = max(rows, key=lambda row: row.rate)
        loop_ms, queue_ms = 1000 * self.cost.wall, 1000 / better.rate
        extra_ms = 1000 * max(0.0, better.between)
        found = {"loop_ms": loop_ms, "queue_ms": queue_ms, "extra_ms": extra_ms, "times": queue_ms / loop_ms}
        return {name: rounded(value) for name, value in found.items()}
