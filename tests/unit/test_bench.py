"""The parts of ``jobq bench`` that need no store: the limit, the report, the widths, and a tree that is stopped."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import psutil
import pytest
from helpers import eventually

from jobqueue.bench import report
from jobqueue.bench.figures import BenchDrain, BenchFigures, BenchLatency, DrainRun, percentile
from jobqueue.bench.limits import limit_of
from jobqueue.bench.run import widths
from jobqueue.compare.plan import Cell
from jobqueue.harness.freezing import frozen


def drain(mode: str = "process", number: int = 1, *, worker: float = 0.5, store: float | None = 0.5) -> BenchDrain:
    """Return a run of 1,000 jobs in a second (worker, store: their CPU seconds), and two slower runs beside it."""
    typical = DrainRun(1000, 1.0, worker, store)
    return BenchDrain(Cell(mode, number), (DrainRun(1000, 2.0, 9.0, 9.0), typical, DrainRun(1000, 0.5, 9.0, 9.0)))


def figures(*drains: BenchDrain, round_trip: float = 0.00005, near: bool = False, others: float = 0.0) -> BenchFigures:
    latency = BenchLatency((0.001, 0.002, 0.003), (0.002, 0.003, 0.004))
    return BenchFigures(1e6, 5000.0, 50_000.0, drains or (drain(),), latency, round_trip, 2, near, 30.0, others)


# -- what limits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measured", "round_trip", "near", "what"),
    [
        (drain(store=0.95), 0.00005, False, "store"),
        (drain(worker=0.95), 0.00005, False, "worker"),
        (drain("thread", 8, worker=0.95), 0.00005, False, "worker"),
        (drain("process", 2, worker=0.95), 0.00005, False, "waiting"),
        (drain("process", 2, worker=1.8), 0.00005, False, "machine"),
        (drain("process", 2, worker=1.1, store=0.7), 0.00005, True, "machine"),
        (drain("process", 2, worker=1.1, store=0.7), 0.00005, False, "waiting"),
        (drain(worker=0.2, store=0.1), 0.002, False, "network"),
        (drain(worker=0.2, store=None), 0.00005, False, "unknown"),
        (drain(), 0.00005, False, "waiting"),
    ],
)
def test_the_busiest_part_is_named_as_the_limit(measured: BenchDrain, round_trip: float, near: bool, what: str) -> None:
    found = limit_of(figures(measured, round_trip=round_trip, near=near), measured)
    assert found.what == what
    assert found.sentence.endswith(".")


def test_other_programs_can_be_named_as_the_limit() -> None:
    busy = replace(drain(), runs=(replace(drain().typical, others=1.6),))
    found = limit_of(figures(busy), busy)
    assert found.what == "machine"
    assert "other programs 1.6" in found.sentence


def test_the_median_run_counts_as_typical() -> None:
    assert drain().typical.rate == 1000
    assert drain("process", 2, worker=1.0).child_busy == 0.5
    assert drain("thread", 8, worker=1.0).child_busy == 1.0


# -- the report ------------------------------------------------------------------------------------------------------


def test_the_report_as_a_table() -> None:
    lines = report.table(figures(drain(), drain("thread", 8, store=None)))
    text = "\n".join(lines)
    assert "enqueue, one by one" in text
    assert "run, 1 process" in text
    assert "worker 500 µs of CPU a job, store 500 µs" in text
    (threads,) = [line for line in lines if "8 threads" in line]
    assert "store" not in threads
    assert "from enqueue to start" in text
    assert max(map(len, lines)) <= 100


def test_the_report_as_json() -> None:
    said = report.as_json(figures(drain(), others=1.0))
    assert said["run"][0]["limit"] == "waiting"
    assert said["latency"]["start"]["p50"] == 0.002
    assert said["certain"] is False
    assert "other programs used 1.0 of 2 cores" in said["doubts"][0]
    assert report.as_json(figures())["doubts"] == []
    assert len(said["meaning"]) == 2


def test_percentiles_of_latencies() -> None:
    assert percentile([1.0], 99) == 1.0
    assert percentile([float(n) for n in range(101)], 95) == 95.0


def test_the_widths_that_are_measured() -> None:
    assert widths(1) == [Cell("process", 1), Cell("thread", 8)]
    assert widths(4) == [Cell("process", 1), Cell("process", 4), Cell("thread", 8)]


# -- a tree that is stopped ------------------------------------------------------------------------------------------


def test_a_stopped_tree_continues_afterwards() -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    with subprocess.Popen([sys.executable, "-c", child]) as root:
        try:
            eventually(lambda: len(psutil.Process(root.pid).children()) == 1)
            tree = [psutil.Process(root.pid), *psutil.Process(root.pid).children()]
            with frozen(root.pid):
                eventually(lambda: {process.status() for process in tree} == {psutil.STATUS_STOPPED})
            eventually(lambda: psutil.STATUS_STOPPED not in {process.status() for process in tree})
        finally:
            for process in reversed(tree):
                process.kill()
    with frozen(root.pid):  # it is gone
        pass
