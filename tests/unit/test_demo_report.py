"""The demo's table and sentences, from given figures."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from jobqueue.compare.figures import Sample
from jobqueue.compare.measure import TreeMemory
from jobqueue.compare.trial_runs import Counter
from jobqueue.demo import report
from jobqueue.demo.run import MODES, DemoResult

NAMES = ("squares", "heavy", "downloads", "page titles")


def outcomes(others: float = 0.0) -> list[DemoResult]:
    """Return results in which threads are faster at waiting and processes at computing. others: cores that other
    programs used."""
    walls = ((1.0, 3.4, 0.6, 0.6), (1.1, 2.1, 2.1, 2.1))
    made = []
    for mode, times in zip(MODES, walls, strict=True):
        kinds = {name: Sample(60, wall, wall, others=others) for name, wall in zip(NAMES, times, strict=True)}
        counter = Counter(40, mode.workers, 1, 40, shared=mode.mode == "thread")
        made.append(DemoResult(mode, 0.5, kinds, counter, TreeMemory(40_000_000, 45_000_000)))
    return made


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "usable_cores", lambda: 2)


def shown(outcomes: list[DemoResult], width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(report.table(outcomes, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 70, 77, 80, 94, 120])
def test_no_line_is_cut_off(width: int) -> None:
    text = shown(outcomes(), width)
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "processes 1.6x" in text
    assert "threads 3.5x" in text
    assert ("wall s" in text) is (width >= 80)
    assert ("from 80 columns on" in text) is (width < 80)


def test_a_quiet_machine_makes_firm_conclusions() -> None:
    assert report.uncertain(outcomes()) == ""
    assert report.as_json(outcomes(), 20.0)["certain"] is True
    assert "?" not in shown(outcomes(), 100)


def test_a_busy_machine_makes_doubtful_conclusions() -> None:
    noisy = outcomes(others=0.9)
    assert "other programs used 0.9 of 2 cores meanwhile" in report.uncertain(noisy)
    figures = report.as_json(noisy, 20.0)
    assert (figures["certain"], figures["doubts"]) == (False, [report.uncertain(noisy)])
    assert "processes 1.6x?" in shown(noisy, 100)


def test_only_the_kind_that_was_disturbed_is_doubted() -> None:
    threads, processes = outcomes()
    threads.kinds["heavy"] = replace(threads.kinds["heavy"], others=1.2)
    text = shown([threads, processes], 100)
    assert "processes 1.6x?" in text
    assert "threads 3.5x " in text
