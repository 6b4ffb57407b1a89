"""The parts of ``benchmarks/peers`` that need neither a peer nor a store: stamps, plan, tables, page, driver."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "peers"]:
        del sys.modules[name]


def peers(name: str) -> Any:
    return importlib.import_module(f"peers.{name}")


# -- stamps ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stamps(tmp_path: Path) -> Iterator[Any]:
    made = peers("stamps").Stamps.create(tmp_path / "stamps", 100)
    yield made
    made.close()


def test_a_stamp_is_visible_through_another_mapping_of_the_file(stamps: Any, tmp_path: Path) -> None:
    other = peers("stamps").Stamps(tmp_path / "stamps")
    other.write(7, 5)
    began, ended, pid = stamps.read(7)
    assert (began, ended > began, pid > 0) == (5, True, True)
    assert stamps.read(6) == stamps.read(8) == (0, 0, 0)
    other.close()


def test_jobs_that_have_not_ended_are_found(stamps: Any) -> None:
    for number in (0, 1, 3):
        stamps.write(number, 1)
    assert stamps.first_missing(range(4)) == 2
    assert stamps.ended(range(4)) == 3
    stamps.clear(range(1, 4))
    assert stamps.first_missing(range(4)) == 1
    assert stamps.records == 100


def test_a_body_writes_its_number(stamps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(peers("stamps").VARIABLE, str(tmp_path / "stamps"))
    body = peers("body")
    assert [body.TASKS[name](number) for number, name in enumerate(body.TASKS)] == [0, 1, 2]
    assert asyncio.run(body.COROUTINES["sleep"](3)) == 3
    began, ended, _ = stamps.read(1)
    assert ended - began >= body.LONG * 1e9
    peers("stamps").mine().close()


# -- adapters ----------------------------------------------------------------------------------------------------------


def test_each_adapter_names_its_packages() -> None:
    environments = peers("environments")
    names = environments.names()
    assert names[0] == "jobq"
    assert names[-1] == "bare"
    assert set(names) > {"rq", "celery", "dramatiq", "huey", "taskiq", "saq", "streaq", "arq"}
    for name in names:
        assert isinstance(environments.dependencies(name), list)
    assert environments.dependencies("bare") == []


def test_a_peer_that_cannot_be_installed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environments = peers("environments")
    monkeypatch.setattr(environments, "PLACE", tmp_path)
    monkeypatch.setattr(environments, "_source", lambda _package: [str(tmp_path / "nowhere")])
    with pytest.raises(environments.CannotInstall, match="nowhere"):
        environments.environment("huey")
    assert not (tmp_path / "huey" / "made-with.txt").exists()


# -- the driver --------------------------------------------------------------------------------------------------------


def adapter(**more: Any) -> Any:
    fields = {"SLOTS": "threads", "SETTINGS": "", "PROMISE": "", "REFERENCE": "", "VERSIONS": ("rq",)}
    return types.SimpleNamespace(**fields, **more)


@pytest.fixture
def drive() -> Iterator[Callable[[Any], Any]]:
    with contextlib.ExitStack() as stack:
        yield lambda made: stack.enter_context(contextlib.closing(peers("driver").Driver(made)))


def test_the_driver_enqueues_for_a_while(drive: Callable[[Any], Any]) -> None:
    sent: list[int] = []
    driver = drive(adapter(enqueue=lambda _task, number: sent.append(number)))
    said = driver.enqueue(0.01, 5)
    assert said["jobs"] == 5
    driver.fill("noop", 3, 4)
    assert sent[-4:] == [3, 4, 5, 6]


def test_the_driver_runs_coroutines(drive: Callable[[Any], Any]) -> None:
    sent: list[int] = []

    async def enqueue(_task: str, number: int) -> int:
        sent.append(number)
        return number

    async def result(handle: int, _within: float) -> int:
        return handle

    driver = drive(adapter(enqueue=enqueue, result=result))
    assert driver.enqueue(60, 5)["jobs"] == 5
    driver.fill("noop", 0, 3)
    assert sent[-3:] == [0, 1, 2]
    times = driver.latency(4, 0.0001)
    assert all(back >= began for began, back in times)
    assert len(times) == 4
    assert driver.describe()["bulk"] is False


# -- the report --------------------------------------------------------------------------------------------------------


def cells(rate: float, memory: float) -> dict[str, Any]:
    figures = {"drain: 1 process": {"rate": [rate, rate * 2, 1.0]}, "memory: 4 slots": {"pss": [memory]}}
    return {name: {"figures": found, "error": None} for name, found in figures.items()}


@pytest.fixture
def report() -> dict[str, Any]:
    said = {"promise": "lost | gone", "reference": "docs", "versions": {"x": "1"}, "settings": "none",
            "slots": "threads", "python": "3"}  # fmt: skip
    found = {
        "jobq": {"said": said, "error": None, "cells": cells(9000, 30e6)},
        "huey": {"said": said, "error": None, "cells": cells(3000, 20e6)},
        "celery": {"said": {}, "error": "no wheel", "cells": {}},
        "bare": {"said": said, "error": None, "cells": cells(90_000, 10e6)},
    }
    found["huey"]["cells"]["drain: 2 processes"] = {"figures": {}, "error": "it hangs"}
    machine = {"cores": 2, "processor": "x", "python": "3", "platform": "Linux", "others": 1.0}
    options = {"rounds": 3, "seconds": 2.0, "tables": ("drain", "memory")}
    return {"when": "today", "commit": "abc", "store": "valkey 9", "machine": machine, "options": options,
            "peers": found}  # fmt: skip


def test_the_tables_compare_with_the_best_peer(report: dict[str, Any]) -> None:
    tables = peers("tables")
    drain, *_ = tables.measured(report)
    head, jobq, huey, bare, ratio = tables.rows(report, drain)
    assert head[1] == "1 process"
    assert (jobq[1], huey[1], bare[1], ratio[1]) == ("9,000", "3,000", "90,000", "3.00 x")
    assert (jobq[2], huey[2]) == (tables.DASH, "failed")
    memory = tables.measured(report)[-1]
    assert tables.rows(report, memory)[-1][1] == "0.67 x"


def test_failures_and_uncertain_figures_are_named_in_the_report(report: dict[str, Any]) -> None:
    said = peers("report").for_terminal(report)
    assert "celery: no wheel" in said
    assert "huey, drain: 2 processes: it hangs" in said
    assert "other programs used 1.0 of 2 cores" in said
    assert "3 rounds" in said


def test_the_page_and_its_pictures(report: dict[str, Any], tmp_path: Path) -> None:
    written = peers("report").write(report, tmp_path / "RESULTS.md")
    assert {path.name for path in written} == {"RESULTS.md", "drain-light.svg", "drain-dark.svg"}
    page = (tmp_path / "RESULTS.md").read_text()
    assert "| jobq | 9,000 |" in page
    assert "lost \\| gone" in page
    drawn = ElementTree.parse(tmp_path / "drain-dark.svg").getroot()
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[1:] == ["jobq", "9,000", "huey", "3,000"]


def test_every_column_is_measured_by_a_cell() -> None:
    names = {cell.name for cell in peers("plan").CELLS}
    columns = [column for table in peers("tables").TABLES for column in table.columns]
    assert {column.cell for column in columns} <= names
    assert {table.name for table in peers("tables").TABLES} == set(peers("plan").TABLES)


def test_a_page_in_a_directory_that_is_not_there_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        peers("__main__").parser().parse_args(["--write", str(tmp_path / "nowhere" / "RESULTS.md")])
    assert "nowhere is no directory: make it first" in capsys.readouterr().err
