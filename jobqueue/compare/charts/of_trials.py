"""Make the charts of a leak, a crash and a time limit in each mode, from the report (docs/compare.md)."""

from __future__ import annotations

from typing import Any

from jobqueue.compare.charts.bars import Bar, Bars
from jobqueue.compare.charts.dots import Jobs, Signs
from jobqueue.compare.charts.drawing import Words
from jobqueue.compare.charts.modes import LOOKS, MODES, look
from jobqueue.compare.markup import seconds, short

CASES = {"blocking": "waits in C", "gil": "holds the GIL"}


def leak(isolation: dict[str, Any]) -> Bars | None:
    """Return the chart of how much each process grew after one job leaked."""
    made = []
    for mode in MODES:
        grew = isolation[mode]["leak"]["grew_mb"] if isolation.get(mode) else []
        for n, megabytes in enumerate(grew):
            name = f"{look(mode).many}: process {n + 1}"
            tell = f"{name}: grew by {short(megabytes)} MB"
            made.append(
                Bar(name, look(mode).css, max(megabytes, 0), tell=tell, says=(_mb(megabytes), ""), first=n == 0)
            )
    words = Words("Memory that each process kept after one job leaked", "; ".join(bar.tell for bar in made) + ".")
    return Bars(words, tuple(made)) if made else None


def _mb(megabytes: float) -> str:
    return f"{short(megabytes)} MB"


def limits(found: dict[str, Any]) -> Bars | None:
    """Return the chart of how long after its start each stuck job was ended, beside its limit."""
    made = []
    for case, name in CASES.items():
        for mode in MODES:
            ended = (found.get(mode) or {}).get(case)
            if ended and ended["ended_s"] is not None:
                made.append(_limit(mode, name, ended, first=mode == MODES[0]))
    words = Words("How long after its start each stuck job was ended", "; ".join(bar.tell for bar in made) + ".")
    limit = (found["limit_s"], f"limit {seconds(found['limit_s'])}")
    return Bars(words, tuple(made), say=seconds, limit=limit) if made else None


def _limit(mode: str, case: str, ended: dict[str, Any], first: bool) -> Bar:
    name = f"{look(mode).one} {case}"
    says = (seconds(ended["ended_s"]), f", {ended['how']}")
    tell = f"{name}: {ended['how']} after {seconds(ended['ended_s'])}"
    return Bar(name, look(mode).css, ended["ended_s"], tell=tell, says=says, first=first)


def blast(found: dict[str, Any]) -> Signs | None:
    """Return the chart of what became of the jobs beside one that crashed."""
    rows = [_jobs(mode, found[mode]) for mode in LOOKS if found.get(mode)]
    said = "; ".join(f"{row.name}: {row.said}" for row in rows)
    return Signs(Words("The jobs that ran beside one that crashed", f"{said}."), tuple(rows)) if rows else None


def _jobs(mode: str, found: dict[str, Any]) -> Jobs:
    lost, interrupted = found["lost"], found["interrupted"]
    again = max(0, interrupted - lost)
    parts = [f"{again} ran again"] if again else []
    parts += [f"{lost} lost"] if lost else []
    said = ", ".join(parts) or "none disturbed"
    return Jobs(look(mode).many, look(mode).css, max(0, found["neighbours"] - again - lost), again, lost, said)
