"""Make a section for each task: the verdict, four charts, and all figures in tables."""

from __future__ import annotations

import json
import re
from typing import Any

from jobqueue.compare.charts import of_task
from jobqueue.compare.charts.draw import Chart, draw
from jobqueue.compare.charts.drawing import NARROW, WIDE
from jobqueue.compare.charts.lines import Plot
from jobqueue.compare.charts.modes import LOOKS, look
from jobqueue.compare.markup import Html, el, exact
from jobqueue.compare.page.tables import Column, TableRow, table
from jobqueue.compare.page.top import chip, name, said
from jobqueue.words import count

KINDS = {
    "waits": "waits: most of its time nothing is computed",
    "takes turns": "waits, but not side by side in one process",
    "computes": "computes: it keeps a core busy",
    "mixed": "waits and computes",
    "grows memory": "leaves memory behind",
    "tiny": "hardly any work",
    "unknown": "too little was measured to say",
}
LINUX = "only Linux tells it"
RUNS = (
    Column("Jobs"),
    Column("Failed"),
    Column("Wall s"),
    Column("Jobs/s"),
    Column("Cores", "could not be measured"),
    Column("p50 ms", "no job ended well, so none was timed"),
    Column("p95 ms", "no job ended well, so none was timed"),
    Column("USS MB", "could not be read"),
    Column("PSS MB", LINUX),
    Column("Start-up s", "not measured"),
)
SPREAD = (Column("Lowest jobs/s"), Column("Highest jobs/s"))


def sections(report: dict[str, Any]) -> list[Html]:
    """Return a section for each task."""
    alone = len(report["tasks"]) == 1
    return [_section(task, report, n, alone) for n, task in enumerate(report["tasks"], 1)]


def _section(task: dict[str, Any], report: dict[str, Any], number: int, alone: bool) -> Html:
    return el(
        "section",
        el("h2", name(task["task"]), " ", chip(task)),
        el("p", said(task), class_="verdict"),
        el("div", [el("p", _unbroken(note)) for note in task["notes"]], class_="notice") if task["notes"] else None,
        _facts(task),
        _charts(task, report["machine"]) if task["runs"] else None,
        _tables(task, report["settings"], alone) if task["runs"] else None,
        id=f"task-{number}",
        class_="task",
    )


def _unbroken(note: str) -> list[object]:
    """Keep command line flags in one piece: browsers break a line behind a hyphen."""
    return [el("span", bit, class_="flag") if bit.startswith("--") else bit for bit in re.split(r"(--[a-z-]+)", note)]


def _facts(task: dict[str, Any]) -> Html:
    made: list[tuple[str, str]] = [("Called with", _values(task))]
    if task.get("kwargs"):
        made.append(("And each time", ", ".join(f"{k}={_json(value)}" for k, value in task["kwargs"].items())))
    if task["kind"]:
        made.append(("What it does", KINDS.get(task["kind"], task["kind"])))
    if task["profile"]:
        profile = task["profile"]
        cpu = f"{exact(profile['wall_ms'])} ms, of that {exact(profile['cpu_ms'])} ms CPU"
        starved = profile["cpu_ms"] < 0.95 * profile["cpu_share"] * profile["wall_ms"]
        of = " of the time that it had a core" if starved else ""
        made.append(("One call", f"{cpu} (share {exact(profile['cpu_share'])}{of})"))
    if task["queue_price"]:
        made.append(("The queue adds", _price(task["queue_price"])))
    if task["advice"] and not _said_already(task["advice"]["reason"], task["verdict"]):
        made.append(("Advice", task["advice"]["reason"]))
    return el("dl", [el("div", el("dt", term), el("dd", text)) for term, text in made], class_="given")


def _said_already(reason: str, verdict: str) -> bool:
    return reason.rstrip(".").casefold() in verdict.casefold()


def _values(task: dict[str, Any]) -> str:
    shown = ", ".join(map(_json, task["values"])) or "nothing"
    given = task["values_given"]
    return f"{shown} (the first of {given:,} values)" if given > len(task["values"]) else shown


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _price(price: dict[str, Any]) -> str:
    sure = "" if price["extra_ms"] > 0 else "nothing that could be measured, "
    return (
        f"{sure}{exact(price['extra_ms'])} ms between two jobs; with them, {exact(price['queue_ms'])} ms through the "
        f"queue are {exact(price['times'])} times the {exact(price['loop_ms'])} ms in a loop"
    )


# -- charts --------------------------------------------------------------------------------------------------------


def _charts(task: dict[str, Any], machine: dict[str, Any]) -> Html:
    rates, times = of_task.throughput(task, machine), of_task.latency(task, machine)
    made: list[tuple[Chart | None, str, str]] = [
        (rates, "Jobs per second", _of_rates(task, rates)),
        (times, "How long a job runs", _of_times(times)),
        (of_task.memory(task), "Memory, MB", "Of all processes together, after the jobs. Shorter is better."),
        (of_task.price(task), "Time for each job, with one worker", "What a pool and a queue cost. Shorter is better."),
    ]
    return el("div", [figure(chart, title, note) for chart, title, note in made if chart], class_="charts")


def _of_rates(task: dict[str, Any], chart: Chart | None) -> str:
    if not isinstance(chart, Plot):
        return "Longer is better."
    advised = task["advice"] and task["kind"] != "tiny"
    return "Higher is better. The ring marks the advice." if advised else "Higher is better."


def _of_times(chart: Chart | None) -> str:
    lines = isinstance(chart, Plot)
    return "Median; dotted: 95 of 100 are faster. Lower is better." if lines else "Median. Shorter is better."


def figure(chart: Chart, title: str, note: str) -> Html:
    """Return a chart under its heading in two sizes, for wide and for narrow pages; the style sheet shows one of
    them."""
    heading = el("figcaption", el("h3", title), el("p", note))
    return el("figure", heading, draw(chart, WIDE, "wide"), draw(chart, NARROW, "narrow"))


# -- tables --------------------------------------------------------------------------------------------------------


def _tables(task: dict[str, Any], settings: dict[str, Any], alone: bool) -> Html:
    summary = el("summary", f"All figures: {count(len(task['runs']), 'row')}, and what each worker adds")
    made = [_runs(task, settings["repeat"] > 1), el("div", _ratios(task), _memory(task), class_="pair")]
    return el("details", summary, made, open=True if alone else None)


def _runs(task: dict[str, Any], repeated: bool) -> Html:
    modes = [mode for mode in LOOKS if any(run["mode"] == mode for run in task["runs"])]
    modes += sorted({run["mode"] for run in task["runs"]} - set(modes))
    groups = [[_run(run, repeated) for run in task["runs"] if run["mode"] == mode] for mode in modes]
    caption = f"{task['task']}: every row that was measured" + (", medians of its repetitions" if repeated else "")
    return table(caption, "Row", (*RUNS, *SPREAD) if repeated else RUNS, groups)


def _run(run: dict[str, Any], repeated: bool) -> TableRow:
    latency = run["latency_ms"] or {}
    fields = ("jobs", "failed", "wall_s", "jobs_per_s", "cores_used")
    values = [run.get(field) for field in fields] + [latency.get("p50"), latency.get("p95")]
    values += [run.get(field) for field in ("uss_mb", "pss_mb", "startup_s")]
    if repeated:
        rates = [sample["jobs_per_s"] for sample in run.get("samples", []) if sample["jobs_per_s"] is not None]
        values += [min(rates, default=None), max(rates, default=None)]
    name = look(run["mode"]).of(run["workers"])
    if "processes" in run:
        name = f"{count(run['processes'], 'process')} x {count(run['threads'], 'thread')}"
    return TableRow(name, look(run["mode"]).css, values)


def _ratios(task: dict[str, Any]) -> Html | None:
    if not task["process_over_thread"]:
        return None
    most = max(len(ratio["samples"]) for ratio in task["process_over_thread"])
    columns = [Column("Times", "not measured in both modes")]
    columns += [Column(f"Sample {n + 1}", "not repeated as often") for n in range(most)] if most > 1 else []
    rows = []
    for ratio in task["process_over_thread"]:
        samples = list(ratio["samples"]) + [None] * (most - len(ratio["samples"]))
        rows.append(TableRow(count(ratio["workers"], "worker"), "", [ratio["ratio"], *(samples if most > 1 else [])]))
    return table("Jobs/s in processes over jobs/s in threads", "Width", columns, [rows])


def _memory(task: dict[str, Any]) -> Html | None:
    adds = task["memory_per_worker"]
    if not adds:
        return None
    rows = [
        TableRow(look(mode).many, look(mode).css, [adds[mode].get("uss_mb"), adds[mode].get("pss_mb")])
        for mode in (*LOOKS, *sorted(set(adds) - set(LOOKS)))
        if adds.get(mode)
    ]
    columns = (Column("USS MB", "could not be read"), Column("PSS MB", LINUX))
    return table("Memory that each added worker takes", "Row", columns, [rows])
