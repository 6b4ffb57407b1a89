"""Make the top of the page: where it was measured, and a card with the verdict for each task."""

from __future__ import annotations

import re
from typing import Any

from jobqueue.compare.charts import lines
from jobqueue.compare.charts.lines import Plot
from jobqueue.compare.charts.modes import look
from jobqueue.compare.charts.of_task import throughput
from jobqueue.compare.facts import busy
from jobqueue.compare.markup import Html, el, exact
from jobqueue.words import count


def title(report: dict[str, Any]) -> str:
    names = [task["task"] for task in report["tasks"]]
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"Threads or processes: {shown}" if shown else "Threads or processes"


def header(report: dict[str, Any]) -> Html:
    """Return the heading and the facts about interpreter, machine and run."""
    return el(
        "header",
        el("h1", "Threads or processes?"),
        el("p", _lead(report), class_="lead"),
        el("dl", [el("div", el("dt", term), el("dd", text)) for term, text in _facts(report)], class_="facts"),
        _lock_is_back(report["machine"]),
        el("p", warning, class_="notice") if (warning := busy(report["machine"])) else None,
    )


def _lead(report: dict[str, Any]) -> str:
    tasks, settings = len(report["tasks"]), report["settings"]
    if not any(task["runs"] for task in report["tasks"]):
        return f"{count(tasks, 'task')}; nothing could be measured."
    *fewer, most = settings["widths"]
    widths = f"{', '.join(map(str, fewer))} and {count(most, 'worker')}" if fewer else count(most, "worker")
    runs = "" if settings["repeat"] == 1 else f" Each figure is the median of {count(settings['repeat'], 'run')}."
    each = f" {count(settings['jobs'], 'job')} in each run." if settings["jobs"] else ""
    return (
        f"{count(tasks, 'task')}, run by jobq workers in threads and in processes, with {widths}, beside bare "
        f"pools and a plain loop.{runs}{each}"
    )


def _facts(report: dict[str, Any]) -> list[tuple[str, object]]:
    machine = report["machine"]
    build = ", free-threaded build" if machine["free_threaded"] else ""
    return [
        ("Python", f"{machine['implementation']} {machine['python']}{build}"),
        ("GIL", "on: one thread of a process computes" if machine["gil_enabled"] else "off: all threads may compute"),
        ("Cores", exact(machine["cores"])),
        ("Machine", machine["platform"]),
        ("Store", str(machine["store"]).removeprefix("store: ")),
        ("jobq", machine["jobq"]),
        ("Measured in", f"{exact(report['took_s'])} s, of {exact(report['settings']['seconds'])} s allowed"),
    ]


def _lock_is_back(machine: dict[str, Any]) -> Html | None:
    """Return a note when the GIL was on in a Python built without it, and which module turned it on."""
    if not (machine["free_threaded"] and machine["gil_enabled"]):
        return None
    names = [el("code", module) for module in machine["gil_enabled_by"]]
    named = [part for each in names for part in (", ", each)][1:]
    by = [" It was turned on again by ", *named, "."] if names else [" What turned it on is not known."]
    return el("p", "This Python can run without the GIL, but the GIL was on.", by, class_="notice")


# -- the verdicts --------------------------------------------------------------------------------------------------


def verdicts(report: dict[str, Any]) -> Html | None:
    """Return a card for each task: its name, the advice, the verdict, and a small chart.

    With one task there are no cards: its section follows at once.
    """
    if len(report["tasks"]) == 1:
        return None
    cards = [_card(task, report["machine"], n) for n, task in enumerate(report["tasks"], 1)]
    return el("section", el("h2", "Which to use"), el("ul", cards, class_="cards"), class_="verdicts")


def _card(task: dict[str, Any], machine: dict[str, Any], number: int) -> Html:
    plot = None if task["error"] else throughput(task, machine)
    return el(
        "li",
        el("h3", el("a", name(task["task"]), href=f"#task-{number}")),
        chip(task),
        el("p", said(task)),
        lines.spark(plot) if isinstance(plot, Plot) else None,
        class_=f"card {_css(task)}",
    )


def name(task: str) -> Html:
    """Return a task's name; browsers may break it behind dots and underscores, and its direction of writing is
    isolated."""
    parts = re.split(r"(?<=[._:])(?=\w)", task)
    return el("bdi", parts[0], [(el("wbr"), part) for part in parts[1:]])


def said(task: dict[str, Any]) -> str:
    """Return the verdict without the task's name, which is the card's heading."""
    verdict = str(task["verdict"]).removeprefix(f"{task['task']}: ")
    return verdict[:1].upper() + verdict[1:]


def chip(task: dict[str, Any]) -> Html:
    """Return the advice in two words, with the mode's shape and colour."""
    certain = task["advice"] is None or task["advice"].get("certain", True)
    note, doubtful = ("", "") if certain else (", not certain", " doubtful")
    return el("span", f"{_advice(task)}{note}", class_=f"chip {_css(task)}{doubtful}")


def _advice(task: dict[str, Any]) -> str:
    if task["advice"] is None:
        return "not measured"
    if task["kind"] == "tiny":
        return "call it directly"
    advised = look(task["advice"]["mode"]).of(task["advice"]["workers"])
    threads = task["advice"].get("threads", 1)
    return f"{advised} x {threads} threads" if threads > 1 else advised


def _css(task: dict[str, Any]) -> str:
    if task["advice"] is None:
        return "failed"
    return "tiny" if task["kind"] == "tiny" else look(task["advice"]["mode"]).css
