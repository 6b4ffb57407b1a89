"""The report of `jobq compare` on a terminal, made from the example in the docs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jobqueue.compare import terminal

EXAMPLE = Path(__file__).parents[1] / "compare_example.json"


@pytest.fixture
def report() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(EXAMPLE.read_text())
    return read


def printed(report: dict[str, Any], width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    for part in terminal.parts(report, width):
        console.print(part, highlight=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 46, 60, 64, 79, 80, 100, 120])
def test_nothing_is_cut_off_and_nothing_is_wider_than_the_terminal(report: dict[str, Any], width: int) -> None:
    lines = printed(report, width)
    assert max(len(line.rstrip()) for line in lines) <= width
    assert not [line for line in lines if "…" in line]


def test_the_verdicts_come_first(report: dict[str, Any]) -> None:
    lines = printed(report, 120)
    first_table = next(n for n, line in enumerate(lines) if "plain loop: " in line and "jobs/s" in line and n > 3)
    text = " ".join(lines[:first_table])
    for task in report["tasks"]:
        assert " ".join(task["verdict"].split()) in " ".join(text.split())


def test_the_advised_row_is_marked(report: dict[str, Any]) -> None:
    marked = [line for line in printed(report, 120) if "◀" in line]
    advised = [t for t in report["tasks"] if t["advice"] and t["kind"] != "tiny"]
    assert len(marked) == len(advised) == 3


def test_rates_of_a_column_have_as_many_digits(report: dict[str, Any]) -> None:
    runs = report["tasks"][1]["runs"]
    for run, rate in zip(
        [run for run in runs if run["mode"] == "ThreadPoolExecutor"], (17.0, 17.06, 99.99), strict=False
    ):
        run["jobs_per_s"] = rate
    said = "\n".join(printed(report, 100))
    assert "17.0" in said
    assert "17.1" in said
    assert "100 " in said
    assert "100." not in said


def test_a_task_that_failed_has_no_table(report: dict[str, Any]) -> None:
    text = "\n".join(printed(report, 80))
    assert "broken: not measured. It fails every time: ValueError: no such image." in text
    assert "broken   plain loop" not in text


def test_a_module_that_turned_the_gil_on_is_named(report: dict[str, Any]) -> None:
    machine = report["machine"]
    assert "GIL on" in terminal.facts(machine)
    machine |= {"free_threaded": True, "gil_enabled_by": ["lxml.etree"]}
    assert "free-threaded build, but the GIL is on, turned on by lxml.etree" in terminal.facts(machine)
    machine |= {"gil_enabled": False, "gil_enabled_by": []}
    assert "GIL off" in terminal.facts(machine)


def test_a_busy_machine_is_mentioned(report: dict[str, Any]) -> None:
    report["machine"]["load_before"] = 8.4
    assert any("This machine was busy before it began (load 8.4)" in line for line in printed(report, 120))


def test_rows_that_were_not_measured_for_want_of_time_are_named(report: dict[str, Any]) -> None:
    report |= {"isolation": None, "blast_radius": None, "time_limits": None, "not_tried": "there was no time for it"}
    assert any("not tried out: there was no time for it." in line for line in printed(report, 120))


def test_bars_have_a_resolution_of_an_eighth() -> None:
    assert terminal.bar(1.0, 4) == "████"
    assert terminal.bar(0.5, 4) == "██"
    assert terminal.bar(0.0, 4) == "▏"
    assert terminal.bar(0.28, 4) == "█▏"
