"""Show what each mode did with a leak, a crash, and a stuck job: a chart, a table and a plain sentence for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobqueue.compare.charts import of_trials
from jobqueue.compare.charts.modes import LOOKS, MODES, look
from jobqueue.compare.markup import Html, el, exact
from jobqueue.compare.page.tables import Column, TableRow, table
from jobqueue.compare.page.tasks import figure

UNTRIED = "This was not tried out: there was no time left. More is given with --seconds."
NONE_TRIED = "A leak, a crash and a time limit were not tried out: "

Sentence = Callable[[dict[str, Any]], tuple[str, Html | None, Html]]  # the explanation, the chart, the table


def section(report: dict[str, Any]) -> Html:
    """Return the part about isolation, crashes and time limits."""
    if not any(report[part] for part in ("isolation", "blast_radius", "time_limits")):
        measured = any(task["runs"] for task in report["tasks"])
        why = "there was no time left. More is given with --seconds." if measured else "no task could be measured."
        said = el("p", NONE_TRIED, why, class_="notice")
        return el("section", el("h2", "When something goes wrong"), said, class_="trials")
    return el(
        "section",
        el("h2", "When something goes wrong"),
        _part("isolation", "What one job leaves behind", report["isolation"], _isolation),
        _part("blast-radius", "What a crash takes with it", report["blast_radius"], _blast),
        _part("time-limits", "What ends a job that is stuck", report["time_limits"], _limits),
        class_="trials",
    )


def _part(name: str, title: str, found: dict[str, Any] | None, tell: Sentence) -> Html:
    if not found:
        return el("section", el("h3", title), el("p", UNTRIED, class_="notice"), id=name)
    explained, chart, rest = tell(found)
    said = el("div", el("p", found["meaning"], class_="verdict"), el("p", explained))
    return el("section", el("h3", title), el("div", said, chart, class_="beside"), rest, id=name)


# -- isolation -----------------------------------------------------------------------------------------------------


def _isolation(found: dict[str, Any]) -> tuple[str, Html | None, Html]:
    explained = (
        "Every job raised a counter in a module by one, and one job kept memory for ever. Threads see one module and "
        "one memory: what a job changes, the next one finds, and a leak is everybody's. Each process has its own: the "
        "counters differ, and a process that grew can be replaced alone."
    )
    chart = of_trials.leak(found)
    columns = (
        Column("Workers"),
        Column("Jobs that counted"),
        Column("Processes that counted"),
        Column("Highest count"),
        Column("One counter for all", words=True),
        Column("Leaked MB"),
        Column("Processes"),
        Column("Grew by MB", words=True),
    )
    rows = [_isolated(mode, found[mode]) for mode in MODES if found.get(mode)]
    drawn = figure(chart, "Memory kept after one job leaked", "Of each process, MB.") if chart else None
    return explained, drawn, table("A counter and a leak, seen in each mode", "Mode", columns, [rows])


def _isolated(mode: str, found: dict[str, Any]) -> TableRow:
    counter, leak = found["counter"], found["leak"]
    grew = ", ".join(exact(megabytes) for megabytes in leak["grew_mb"]) or None
    values = [found["workers"], *(counter[key] for key in ("jobs", "processes", "highest", "shared"))]
    return TableRow(look(mode).many, look(mode).css, [*values, leak["leaked_mb"], leak["processes"], grew])


# -- the crash -----------------------------------------------------------------------------------------------------


def _blast(found: dict[str, Any]) -> tuple[str, Html | None, Html]:
    explained = (
        "One job read memory that is not there, which ends its process at once, as a bug in C code or the kernel does "
        "when memory runs out. Threads share a process, so the neighbours end with it; processes do not. jobq runs "
        "the interrupted jobs again. A bare pool cannot: it breaks, and its jobs are lost."
    )
    columns = (
        Column("Workers"),
        Column("Neighbours"),
        Column("Interrupted"),
        Column("Finished"),
        Column("Lost"),
        Column("Recovery s", "no neighbour was interrupted, or none ran again"),
        Column("The job that crashed", "nothing was said about it", words=True),
    )
    keys = ("workers", "neighbours", "interrupted", "finished", "lost", "recovery_s", "crashed_job")
    rows = [TableRow(look(m).many, look(m).css, [found[m].get(key) for key in keys]) for m in LOOKS if found.get(m)]
    chart = of_trials.blast(found)
    note = "A disc went on undisturbed, an arrow had to begin again, a cross was lost."
    drawn = figure(chart, "The jobs beside it", note) if chart else None
    return explained, drawn, table("The neighbours of a job that crashed", "Row", columns, [rows])


# -- the limit -----------------------------------------------------------------------------------------------------


def _limits(found: dict[str, Any]) -> tuple[str, Html | None, Html]:
    explained = (
        f"A job with a limit of {exact(found['limit_s'])} s was stuck in C, where Python cannot reach it: once "
        "in a call that waits, as for a server that does not answer, and once in one that keeps the GIL, as a regular "
        "expression can. A process is interrupted by a signal and, if that does not help, killed. A thread can be "
        "neither: it is written off and replaced, and while it holds the GIL its neighbours stand still until their "
        "process is killed."
    )
    columns = (
        Column("Workers"),
        Column("Ended after s", "it had not ended when the trial was over"),
        Column("How", "it was not ended", words=True),
        Column("Neighbours interrupted"),
        Column("What the job says", "nothing was recorded", words=True),
    )
    groups = [[row for mode in MODES if (row := _stuck(mode, case, found))] for case in of_trials.CASES]
    chart = of_trials.limits(found)
    drawn = figure(chart, "Ended after", "Seconds from the job's start.") if chart else None
    return explained, drawn, table("Jobs that were stuck in C", "Job", columns, [group for group in groups if group])


def _stuck(mode: str, case: str, found: dict[str, Any]) -> TableRow | None:
    ended = (found.get(mode) or {}).get(case)
    if not ended:
        return None
    keys = ("ended_s", "how", "neighbours_interrupted", "error")
    values = [found[mode]["workers"], *(ended.get(key) for key in keys)]
    return TableRow(f"{look(mode).one} {of_trials.CASES[case]}", look(mode).css, values)
