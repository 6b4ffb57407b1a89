"""The report of ``jobq bench``: a table, sentences, and the same for programs."""

from __future__ import annotations

import platform
from typing import Any

from jobqueue.bench.figures import BenchDrain, BenchFigures, percentile
from jobqueue.bench.limits import limit_of
from jobqueue.compare.noise import in_words, is_noisy
from jobqueue.words import count, duration

PARTS = (50, 95, 99)
RATES = 34  # columns before the rates


def table(figures: BenchFigures) -> list[str]:
    """Return the lines of the table."""
    lines = ["jobs per second"]
    lines += _row("enqueue, one by one", figures.one_by_one)
    lines += _row("enqueue, in bulk", figures.bulk)
    for drain in figures.drains:
        run = drain.typical
        said = [f"worker {duration(run.worker_cpu / run.jobs)} of CPU a job"]
        if run.store_cpu is not None:
            said.append(f"store {duration(run.store_cpu / run.jobs)}")
        lines += _row(f"run, {_name(drain)}", run.rate, ", ".join(said))
    lines += _row("the same calls in a plain loop", figures.loop)
    heads = "".join(f"p{part}".rjust(10) for part in PARTS)
    lines += ["", "one job on an idle worker".ljust(RATES) + heads]
    for name, values in (("from enqueue to start", figures.latency.starts), ("to its result", figures.latency.results)):
        found = "".join(f"{duration(percentile(values, part)):>10}" for part in PARTS)
        lines.append(f"  {name:<{RATES - 2}}{found}")
    return [*lines, f"  {'one round trip to the store':<{RATES - 2}}{duration(figures.round_trip):>10}"]


def _row(name: str, rate: float, more: str = "") -> list[str]:
    return [f"  {name:<{RATES - 2}}{rate:>10,.0f}{f'   {more}' if more else ''}"]


def _name(drain: BenchDrain) -> str:
    return count(drain.cell.workers, drain.cell.mode)


def sentences(figures: BenchFigures) -> list[str]:
    """Say what limits, and what the queue costs."""
    fastest = figures.fastest
    cost = 1 / fastest.typical.rate
    return [
        *(f"With {_name(drain)}, what limits is {limit_of(figures, drain).sentence}" for drain in figures.drains),
        f"The queue costs {duration(cost)} a job at best (with {_name(fastest)}): jobs that take much longer than that "
        "run as fast as without it.",
    ]


def uncertain(figures: BenchFigures) -> str:
    """Say why nothing of it is certain; "" when it is."""
    if not is_noisy(figures.others, figures.cores):
        return ""
    return f"Not certain: {in_words(figures.others, figures.cores)}. Run it again when this machine is quiet."


def as_json(figures: BenchFigures) -> dict[str, Any]:
    """Return all figures: jobs per second, seconds, shares of the time."""
    doubt = uncertain(figures)
    return {
        "python": platform.python_version(),
        "cores": figures.cores,
        "store_is_here": figures.is_near,
        "seconds": round(figures.seconds, 2),
        "loop": round(figures.loop),
        "enqueue": {"one_by_one": round(figures.one_by_one), "bulk": round(figures.bulk)},
        "run": [_drain_as_json(figures, drain) for drain in figures.drains],
        "latency": {
            name: {f"p{part}": percentile(values, part) for part in PARTS}
            for name, values in (("start", figures.latency.starts), ("result", figures.latency.results))
        },
        "round_trip": figures.round_trip,
        "certain": not doubt,
        "doubts": [doubt] if doubt else [],
        "meaning": sentences(figures),
    }


def _drain_as_json(figures: BenchFigures, drain: BenchDrain) -> dict[str, Any]:
    run = drain.typical
    return {
        "mode": drain.cell.mode,
        "number": drain.cell.workers,
        "jobs_per_second": round(run.rate, 1),
        "runs": [round(one.rate, 1) for one in drain.runs],
        "worker_cpu_per_job": run.worker_cpu / run.jobs,
        "store_cpu_per_job": None if run.store_cpu is None else run.store_cpu / run.jobs,
        "worker_busy": round(drain.child_busy, 3),
        "store_busy": None if drain.store_busy is None else round(drain.store_busy, 3),
        "others_cores": round(run.others, 3),
        "limit": limit_of(figures, drain).what,
    }
