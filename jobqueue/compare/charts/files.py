"""Write the charts as files of their own, for the guide: with a background and a heading, in light or dark as the
reader's system is set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jobqueue.compare.charts.draw import Chart, draw
from jobqueue.compare.charts.drawing import label, style
from jobqueue.compare.charts.of_task import memory, price, throughput
from jobqueue.compare.markup import Html, el
from jobqueue.words import count

WIDTH = 620
MARGIN = 24
HEADER = 64
FOOTER = 40


def pictures(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield file names and contents: a picture per measured task, and memory.svg.

    For a task whose job costs less than its queue the picture shows the price of a job, for all others the throughput.
    """
    machine = report["machine"]
    for task in report["tasks"]:
        chart: Chart | None = price(task) if task["kind"] == "tiny" else throughput(task, machine)
        if chart:
            yield f"{_file_name(task['task'])}.svg", standalone(chart, machine)
    remembered = [chart for task in _waiting_first(report["tasks"]) if (chart := memory(task))]
    if remembered:
        yield "memory.svg", standalone(remembered[0], machine)


def standalone(chart: Chart, machine: dict[str, Any]) -> str:
    """Return the chart as the text of an SVG file."""
    drawn = draw(chart, WIDTH - 2 * MARGIN)
    height = float(re.findall(r'viewBox="0 0 \S+ (\S+)"', drawn)[0])
    total = height + HEADER + FOOTER
    inner = Html(drawn.replace("<svg ", f'<svg x="{MARGIN}" y="{HEADER}" width="{WIDTH - 2 * MARGIN}" '
                                        f'height="{height:g}" ', 1))  # fmt: skip
    return el(
        "svg",
        el("title", chart.words.title),
        el("desc", chart.words.description),
        el("style", Html(style())),
        el("rect", width=WIDTH, height=total, rx=8, style="fill: var(--card)"),
        label(MARGIN, 36, chart.words.title, class_="heading"),
        inner,
        label(MARGIN, total - 20, _measured_on(machine), class_="axis"),
        xmlns="http://www.w3.org/2000/svg",
        viewbox=f"0 0 {WIDTH} {total:g}",
        width=WIDTH,
        height=total,
        role="img",
        class_="chart",
    )


def _measured_on(machine: dict[str, Any]) -> str:
    gil = "GIL on" if machine["gil_enabled"] else "GIL off"
    cores = count(machine["cores"], "core")
    return f"jobq compare, {machine['implementation']} {machine['python']}, {gil}, {cores}"


def _waiting_first(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Order the tasks by how much memory matters: first those that wait, then those that do best in threads."""

    def rank(task: dict[str, Any]) -> tuple[bool, bool, bool]:
        in_threads = bool(task["advice"]) and task["advice"]["mode"] == "thread"
        return task["kind"] != "waits", task["kind"] == "tiny", not in_threads

    return sorted(tasks, key=rank)


def _file_name(task: str) -> str:
    return re.sub(r"[^\w.-]+", "-", task.rpartition(":")[2], flags=re.ASCII).strip("-.") or "task"
