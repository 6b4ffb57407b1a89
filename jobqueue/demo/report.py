"""Report what the demo measured: a table of the two modes and two sentences, or one JSON object."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from jobqueue.compare.figures import Sample, what
from jobqueue.compare.noise import in_words, is_noisy
from jobqueue.demo.run import DemoResult, others
from jobqueue.harness.colours import STYLES
from jobqueue.insight.capacity import cores as usable_cores
from jobqueue.words import plural

EVEN = 1.1  # two wall times that differ by less than this factor count as the same
FIGURES = ("jobs/s", "wall s", "cores")
WAITING = ("downloads", "page titles")


# -- the table -----------------------------------------------------------------------------------------------------


def table(outcomes: Sequence[DemoResult], width: int) -> Table:
    """Return the table: a row per kind of work and one for all, then memory and module state; three columns per mode.

    It takes 94 columns, or 80 where width is less; below that there is one column per mode, and the title says so.
    """
    shown = FIGURES if width >= 80 else FIGURES[:1]
    title = f"The same jobs in both modes (cores: the CPU used, of {usable_cores()})"
    if shown != FIGURES:
        title = "The same jobs in both modes (wall time and cores: from 80 columns on)"
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    made.padding = (0, 1) if width >= 94 else 0
    made.add_column("\nwork", no_wrap=True)
    for outcome in outcomes:
        style = STYLES[outcome.mode.mode]
        for second in shown:
            first = what(*outcome.mode) if second == shown[0] else ""
            made.add_column(f"{first}\n{second}", justify="right", style=style, header_style=style, no_wrap=True)
    made.add_column("\nfaster", no_wrap=True)
    for name in outcomes[0].kinds:
        _add_work(made, name, outcomes, [o.kinds[name] for o in outcomes], len(shown))
    made.add_section()
    _add_work(made, "in all", outcomes, [o.total for o in outcomes], len(shown))
    made.add_section()
    _add_fact(made, "memory, USS", [_megabytes(o.memory.uss) for o in outcomes], len(shown))
    if all(o.memory.pss for o in outcomes):
        _add_fact(made, "memory, PSS", [_megabytes(o.memory.pss) for o in outcomes], len(shown))
    _add_fact(made, "module state", [_state(o) for o in outcomes], len(shown))
    return made


def _add_work(made: Table, name: str, outcomes: Sequence[DemoResult], figures: Sequence[Sample], columns: int) -> None:
    cells = [cell for f in figures for cell in (_rate(f), f"{f.wall:.2f}", f"{f.cores:.2f}")[:columns]]
    best = min(range(len(figures)), key=lambda i: figures[i].wall)
    factor = max(f.wall for f in figures) / figures[best].wall
    winner = outcomes[best].mode
    noisy = any(is_noisy(f.others, usable_cores()) for f in figures)
    style = "bright_black" if noisy else STYLES[winner.mode]
    faster = f"{plural(winner.mode)} {factor:.1f}x" if factor >= EVEN else "even"
    faster = f"[{style}]{faster}?[/]" if noisy else f"[{style if factor >= EVEN else 'dim'}]{faster}[/]"
    made.add_row(f"{figures[0].jobs:,} {name}", *cells, faster)


def _add_fact(made: Table, name: str, values: Sequence[str], columns: int) -> None:
    made.add_row(name, *[cell for value in values for cell in (value, "", "")[:columns]], "")


def _rate(f: Sample) -> str:
    return f"{f.rate:,.0f}" if f.rate >= 100 else f"{f.rate:.1f}"


def _megabytes(size: int | None) -> str:
    return f"{(size or 0) / 1e6:.0f} MB"


def _state(outcome: DemoResult) -> str:
    return "shared" if outcome.counter.shared else "not shared"


# -- the sentences -------------------------------------------------------------------------------------------------


def sentences(outcomes: Sequence[DemoResult]) -> list[str]:
    """Return two sentences, with figures, that say what the table means."""
    threads, processes = outcomes
    return [_about_computing(threads, processes), _about_waiting(threads, processes)]


def uncertain(outcomes: Sequence[DemoResult]) -> str:
    """Return why the result is not certain; "" when it is."""
    if not is_noisy(others(outcomes), usable_cores()):
        return ""
    noise = in_words(others(outcomes), usable_cores())
    return f"Not certain: {noise}, and took from the two modes unevenly. Run it again when this machine is quiet."


def _about_computing(threads: DemoResult, processes: DemoResult) -> str:
    t, p = threads.kinds["heavy"], processes.kinds["heavy"]
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    turns = "which take turns at the GIL" if gil else "which need no GIL on this Python"
    if _faster(p, t):
        advice = "give processes the work that computes, one per core"
    else:
        advice = "neither mode wins here" if gil else "threads do for the work that computes as well"
    return (
        f"Computing needs cores: in {what(*threads.mode)}, {turns}, the heavy jobs kept {t.cores:.1f} of "
        f"{usable_cores()} cores busy, in {what(*processes.mode)} {p.cores:.1f}, and there they were done "
        f"{_compared(p.wall, t.wall)}, so {advice}."
    )


def _about_waiting(threads: DemoResult, processes: DemoResult) -> str:
    t = sum(threads.kinds[name].wall for name in WAITING)
    p = sum(processes.kinds[name].wall for name in WAITING)
    caution = ", and guard what they share" if threads.counter.shared else ""
    return (
        f"Waiting needs no core, only somebody who waits: {what(*threads.mode)} fetched files and pages "
        f"{_compared(t, p)} as {what(*processes.mode)}, with {_megabytes(threads.memory.uss)} of memory against "
        f"{_megabytes(processes.memory.uss)}, so give threads the work that waits{caution}."
    )


def _faster(mine: Sample, other: Sample) -> bool:
    return other.wall / mine.wall >= EVEN


def _compared(mine: float, other: float) -> str:
    """Return in words how ``mine`` compares to the other wall time."""
    factor = other / mine
    if factor >= EVEN:
        return f"{factor:.1f} times as fast"
    return "about as fast" if factor > 1 / EVEN else f"only {factor:.1f} times as fast"


# -- for programs --------------------------------------------------------------------------------------------------


def as_json(outcomes: Sequence[DemoResult], seconds: float) -> dict[str, Any]:
    """Return all figures; in seconds, bytes, and jobs per second."""
    return {
        "python": platform.python_version(),
        "cores": usable_cores(),
        "seconds": round(seconds, 2),
        "modes": {o.mode.mode: _mode_as_json(o) for o in outcomes},
        "certain": not uncertain(outcomes),
        "doubts": [doubt] if (doubt := uncertain(outcomes)) else [],
        "meaning": sentences(outcomes),
    }


def _mode_as_json(outcome: DemoResult) -> dict[str, Any]:
    kinds = {name: _figures_as_json(f) for name, f in outcome.kinds.items()}
    return {
        "consumers": outcome.mode.workers,
        "boot": round(outcome.boot, 3),
        "kinds": kinds,
        "all": _figures_as_json(outcome.total),
        "memory": {"uss": outcome.memory.uss, "pss": outcome.memory.pss},
        "state": {name: getattr(outcome.counter, name) for name in ("jobs", "consumers", "processes", "shared")},
    }


def _figures_as_json(f: Sample) -> dict[str, Any]:
    return {
        "jobs": f.jobs,
        "jobs_per_second": round(f.rate, 2),
        "wall": round(f.wall, 3),
        "cpu": round(f.cpu, 3),
        "cores": round(f.cores, 3),
        "others_cores": round(f.others, 3),
    }
