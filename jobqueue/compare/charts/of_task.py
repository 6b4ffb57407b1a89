"""Make the charts of one task, and the words that describe them, from its part of the report (docs/compare.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from jobqueue.compare.charts.bars import Bar, Bars
from jobqueue.compare.charts.drawing import Words
from jobqueue.compare.charts.lines import OFF_SCALE, Line, Marks, Plot
from jobqueue.compare.charts.modes import LOOKS, MODES, POOLS, look
from jobqueue.compare.markup import exact, milliseconds, short

Run = dict[str, Any]


# -- over the width ------------------------------------------------------------------------------------------------


def throughput(task: dict[str, Any], machine: dict[str, Any]) -> Plot | Bars | None:
    """Return the chart of jobs per second by width: both modes, and for reference the bare pools and the loop."""
    made = [_line(task, mode, "jobs_per_s", "jobs/s", reference=mode not in MODES) for mode in LOOKS]
    words = Words(f"{task['task']}: jobs per second", _described(made, short, "jobs per second"))
    return _chart(task, Plot(words, tuple(made), (), short, Marks(machine.get("cores"), _advised(task))))


def latency(task: dict[str, Any], machine: dict[str, Any]) -> Plot | Bars | None:
    """Return the chart of how long a job runs by width: the median, and above it the 95th percentile."""
    medians = [_line(task, mode, "p50", "ms", beyond="p95") for mode in MODES]
    made = [line for median in medians for line in _apart(median, medians)]
    words = Words(f"{task['task']}: how long a job runs", f"Medians. {_described(made, milliseconds, '')}")
    return _chart(task, Plot(words, tuple(made), (), milliseconds, Marks(machine.get("cores"))))


def _chart(task: dict[str, Any], plot: Plot) -> Plot | Bars | None:
    """Return lines over the widths; with a single width, bars."""
    drawn, widths = tuple(line for line in plot.lines if line.points), tuple(_widths(task))
    if not any(not line.reference for line in drawn):
        return None
    if len(widths) > 1:
        return replace(plot, lines=drawn, widths=widths)
    return Bars(plot.words, tuple(_bar(line) for line in drawn if line.tells), say=plot.say)


def _bar(line: Line) -> Bar:
    name, _, _ = line.tells[-1].partition(":")
    return Bar(name, line.css, line.points[-1][1], tell=line.tells[-1])


def _apart(line: Line, medians: Sequence[Line]) -> list[Line]:
    """Return the line without a 95th percentile that would flatten all medians; that one becomes a reference, which is
    only named."""
    limit = OFF_SCALE * max((value for median in medians for _, value in median.points), default=0.0)
    if not line.beyond or max(value for _, value in line.beyond) <= limit:
        return [line]
    far = Line(f"{line.name}, p95", line.css, line.beyond, reference=True)
    return [replace(line, beyond=()), far]


def _plot(
    task: dict[str, Any],
    words: Words,
    made: Sequence[Line],
    marks: Marks,
    say: Callable[[float], str] = short,
) -> Plot | None:
    drawn = tuple(line for line in made if line.points)
    widths = tuple(sorted({run["workers"] for run in task["runs"] if run["mode"] != "loop"}))
    return Plot(words, drawn, widths, say, marks) if widths and any(not line.reference for line in drawn) else None


def _line(
    task: dict[str, Any], mode: str, field: str, unit: str, *, reference: bool = False, beyond: str | None = None
) -> Line:
    shown, points = look(mode), _points(task, mode, field)
    return Line(
        shown.many,
        shown.css,
        points,
        tuple(f"{shown.of(workers)}: {exact(value)} {unit}" for workers, value in points),
        reference=reference,
        level=mode == "loop",
        beyond=_points(task, mode, beyond) if beyond else (),
    )


def _points(task: dict[str, Any], mode: str, field: str) -> tuple[tuple[int, float], ...]:
    values = ((run["workers"], _value(run, field)) for run in _of(task, mode))
    return tuple((workers, value) for workers, value in values if value is not None)


def _described(made: Sequence[Line], say: Callable[[float], str], unit: str) -> str:
    """Return the course of each line in words: threads: 19.6 with 1, 19.7 with 16 workers."""
    parts = []
    for line in made:
        if line.points and line.level:
            parts.append(f"{line.name}: {say(line.points[0][1])} {unit}".strip())
        elif line.points:
            course = ", ".join(f"{say(value)} with {workers}" for workers, value in line.points)
            parts.append(f"{line.name}: {course}")
    return "; ".join(parts) + "."


def _advised(task: dict[str, Any]) -> tuple[str, int] | None:
    advice = task["advice"]
    if not advice or task["kind"] == "tiny" or advice.get("threads", 1) > 1:  # no line has such a point
        return None
    return look(advice["mode"]).css, advice["workers"]


# -- bars ----------------------------------------------------------------------------------------------------------


def memory(task: dict[str, Any]) -> Bars | None:
    """Return the chart of the memory of the whole tree by width and row: USS, and behind it PSS."""
    made = [bar for width in _widths(task) for bar in _memory_of(task, width)]
    if not any(bar.value is not None or bar.behind is not None for bar in made):
        return None
    words = Words(
        f"{task['task']}: memory in MB",
        "; ".join(bar.tell for bar in made) + ".",
    )
    return Bars(words, tuple(made), key=("USS: its own", "PSS: and its part of what is shared"))


def _widths(task: dict[str, Any]) -> list[int]:
    return sorted({run["workers"] for run in task["runs"] if run["mode"] != "loop"})


def _memory_of(task: dict[str, Any], width: int) -> list[Bar]:
    runs = [run for mode in (*MODES, *POOLS) for run in _of(task, mode) if run["workers"] == width]
    made = []
    for n, run in enumerate(runs):
        shown = look(run["mode"])
        tell = f"{shown.of(width)}: USS {exact(run['uss_mb'])} MB, PSS {exact(run['pss_mb'])} MB"
        made.append(Bar(shown.of(width), shown.css, run["uss_mb"], run["pss_mb"], tell, first=n == 0))
    return made


def price(task: dict[str, Any]) -> Bars | None:
    """Return the chart of the wall time per job with one worker: of the loop, and what a pool and the queue add."""
    made = []
    for mode in ("loop", *POOLS, *MODES):
        for run in _of(task, mode):
            if run["workers"] == 1 and run["jobs_per_s"]:
                each = 1000 / run["jobs_per_s"]
                name = look(mode).of(1)
                made.append(Bar(name, look(mode).css, each, tell=f"{name}: {milliseconds(each)} for each job"))
    words = Words(
        f"{task['task']}: time for each job, with one worker",
        "; ".join(bar.tell for bar in made) + ".",
    )
    return Bars(words, tuple(made), say=milliseconds) if len(made) > 1 else None


# -- the report's fields -------------------------------------------------------------------------------------------


def _of(task: dict[str, Any], mode: str) -> list[Run]:
    return sorted((run for run in task["runs"] if run["mode"] == mode), key=lambda run: run["workers"])


def _value(run: Run, field: str) -> float | None:
    if field in ("p50", "p95"):
        return (run["latency_ms"] or {}).get(field)
    value: float | None = run[field]
    return value
