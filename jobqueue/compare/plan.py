"""Plan how much is measured: which rows at which widths, how many jobs each, and what fits into the time.

Pure arithmetic over what one job costs in a plain loop, and over the rates measured so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jobqueue.compare.figures import MIXED, MODES, POOLS

WIDTHS = (1, 2, 4, 8, 16)
SLICE = 0.5  # seconds that one run should take
SLICES = (0.1, 2.0)
FIXED = 14.0  # seconds for starting the store and the site, and for the trials of isolation, crashes and limits
TRIAL_SECONDS = 10.0  # those trials alone
OVERTIME = 1.25  # times the budget: no run is begun that would leave no time for the trials before that
PER_WIDTH = 2.8  # seconds in which two workers and two pools start, warm up and stop
PER_RUN = 1.15  # a run takes so many times its slice, with the last jobs, reading the times and deleting the jobs
CEILINGS = {
    "thread": 6000.0,
    "process": 6000.0,
    MIXED: 6000.0,
    "ProcessPoolExecutor": 8000.0,
}  # jobs/s that no row is expected to exceed
MOSTLY_CPU = 0.9  # share of CPU time above which threads inside processes are not measured
TINY = 0.0005  # seconds; of a shorter task it is measured what the queue costs
PLAIN = 50_000.0  # jobs/s of the loop and of threads without a queue
MOST_JOBS = 20_000
DEFAULT_SECONDS = 75.0


class Cost(NamedTuple):
    """What one job costs in a plain loop: seconds of wall time and of CPU time."""

    wall: float
    cpu: float


class Cell(NamedTuple):
    """One row to measure: a mode at one width."""

    mode: str
    workers: int


@dataclass(frozen=True)
class CompareOptions:
    """The options of a comparison. seconds: the budget; None computes it from the other options."""

    widths: tuple[int, ...] = WIDTHS
    jobs: int | None = None
    repeat: int = 1
    seconds: float | None = None
    url: str | None = None
    trials: bool = True


def widths_up_to(largest: int) -> tuple[int, ...]:
    """Return 1, 2, 4, 8, ... and the largest itself."""
    return tuple(sorted({*(w for w in (1 << n for n in range(10)) if w < largest), largest}))


def runs_of(widths: Sequence[int], repeat: int) -> int:
    """Return how many runs a task has that is measured at all these widths."""
    return (len(widths) * len(MODES + POOLS) + 1) * repeat


def budget(options: CompareOptions, tasks: int) -> float:
    """Return the seconds that the whole comparison may take."""
    if options.seconds is not None:
        return options.seconds
    need = tasks * runs_of(options.widths, options.repeat) * SLICE * PER_RUN
    return max(DEFAULT_SECONDS, FIXED + PER_WIDTH * len(options.widths) + need)


def measuring(seconds: float, trials: bool) -> float:
    """Return the seconds of the budget after which no run is begun. The trials follow, unless a small budget would
    leave too little time for the measurements."""
    before_trials = OVERTIME * seconds - TRIAL_SECONDS
    return before_trials if trials and before_trials >= 0.75 * seconds else seconds


def slice_of(options: CompareOptions, tasks: int) -> float:
    """Return the seconds that each run should take: SLICE, or less when the budget is small."""
    if options.seconds is None:
        return SLICE
    left = options.seconds - FIXED - PER_WIDTH * len(options.widths)
    fair = left / (tasks * runs_of(options.widths, options.repeat) * PER_RUN)
    return min(SLICES[1], max(SLICES[0], fair))


def rest_slice(slice_s: float, left: float, runs: int) -> float:
    """Return the seconds for each of the remaining runs in the time that is left: shorter runs rather than fewer."""
    return min(slice_s, max(SLICES[0], left / max(1, runs) / PER_RUN))


def in_order(widths: Sequence[int], cores: int) -> list[int]:
    """Order the widths by how much they tell, in case the time runs out: one, the largest, the number of cores, the
    rest."""
    nearest = min(widths, key=lambda w: abs(w - cores))
    return list(dict.fromkeys([min(widths), max(widths), nearest, *sorted(widths)]))


# -- how fast a row will be -------------------------------------------------------------------------------------------


def expected_rate(cell: Cell, cost: Cost, cores: int, before: Mapping[Cell, float]) -> float:
    """Estimate the jobs/s of a row from the cores, the waiting time, and the rates at narrower widths."""
    bound = min(cell.workers / max(cost.wall, 1e-7), cores / max(cost.cpu, 1e-7), CEILINGS.get(cell.mode, PLAIN))
    known = sorted((c.workers, rate) for c, rate in before.items() if c.mode == cell.mode and c.workers < cell.workers)
    if not known:
        return bound
    width, rate = known[-1]
    growth = cell.workers / width
    if len(known) > 1:
        growth = min(growth, max(1.0, rate / known[-2][1]))
    return min(bound, rate * growth)


def jobs_for(cell: Cell, rate: float, seconds: float) -> int:
    """Return how many jobs take about so many seconds: at least one per consumer, and a multiple of the consumers when
    they are few."""
    jobs = max(cell.workers, min(MOST_JOBS, round(rate * seconds)))
    return -(-jobs // cell.workers) * cell.workers if jobs < 10 * cell.workers else jobs


# -- what fits --------------------------------------------------------------------------------------------------------


def cells(widths: Sequence[int]) -> list[Cell]:
    """Return all rows at all widths except the loop, narrow ones first."""
    return [Cell(mode, width) for width in widths for mode in MODES + POOLS]


def mixed_cells(widths: Sequence[int], cost: Cost, cores: int) -> list[Cell]:
    """Return rows with a process for each core and threads in each, for tasks that both wait and compute."""
    share = cost.cpu / max(cost.wall, 1e-9)
    if cores < 2 or share > MOSTLY_CPU or cost.wall < TINY:
        return []
    return [Cell(MIXED, width) for width in widths if width >= 2 * cores and width % cores == 0]


def worst_seconds(cell: Cell, cost: Cost, cores: int, jobs: int | None) -> float:
    """Return how long the fewest jobs take in this row if its threads take turns."""
    parallel = 1 if cell.mode in ("thread", "ThreadPoolExecutor") else cores
    n = jobs or cell.workers
    return max(cost.wall * -(-n // cell.workers), cost.cpu * n / parallel)


def fitting(widths: Sequence[int], cost: Cost, cores: int, options: CompareOptions, seconds: float) -> list[Cell]:
    """Return the rows that fit into so many seconds; none when not even one width does.

    Where not all fit, drop the bare pools first, then the widest rows; the row with as many processes as cores goes
    last.
    """
    jobs = options.jobs
    wanted = cells(widths)
    if _needs(wanted, cost, cores, options, jobs) <= seconds:
        return wanted
    for keep in _fewer(widths, cores):
        for modes in (MODES + POOLS, MODES):
            some = [cell for cell in wanted if cell.workers in keep and cell.mode in modes]
            if _needs(some, cost, cores, options, jobs) <= seconds:
                return some
    return []


def _needs(some: Sequence[Cell], cost: Cost, cores: int, options: CompareOptions, jobs: int | None) -> float:
    return options.repeat * sum(worst_seconds(cell, cost, cores, jobs) for cell in some)


def _fewer(widths: Sequence[int], cores: int) -> list[tuple[int, ...]]:
    """Return all widths, then the widths without the widest, and so on; the last one is the width nearest to the
    cores."""
    nearest = min(widths, key=lambda w: abs(w - cores))
    return [*(tuple(widths[:n]) for n in range(len(widths), 1, -1)), (nearest,)]
