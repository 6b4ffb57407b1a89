"""The tables of a report: which figures of which cells stand in which column, and how they are written."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jobqueue.compare.markup import DASH
from peers.plan import CELLS, ONE, Cell

Report = dict[str, Any]
LIMIT = "bare"  # the row of the plain pools, which are no peer
BETTER = "jobq better than the best peer by"  # below 1: the peer is better


def per_second(value: float) -> str:
    return f"{value:,.0f}"


def microseconds(value: float) -> str:
    return f"{value * 1e6:,.0f}"


def milliseconds(value: float) -> str:
    return f"{value * 1e3:.2f}"


def megabytes(value: float) -> str:
    return f"{value / 1e6:.1f}"


def one_decimal(value: float) -> str:
    return f"{value:.1f}"


class Column(NamedTuple):
    """One figure of one cell. more: whether more of it is better."""

    head: str
    cell: str
    metric: str
    write: Callable[[float], str]
    more: bool = False


class Table(NamedTuple):
    """A title, what it says in words, and columns."""

    name: str
    title: str
    says: str
    columns: Sequence[Column]


def _drained(cells: Sequence[Cell]) -> list[Column]:
    return [Column(cell.width.name, cell.name, "rate", per_second, True) for cell in cells if cell.width]


def _of(table: str) -> list[Cell]:
    return [cell for cell in CELLS if cell.table == table]


_ONE = f"drain: {ONE.name}"
_LATE = f"latency: {ONE.name}"
_GROWTH = f"growth: {ONE.name}"
_SLEEP = _of("sleep")[0].name
TABLES = (
    Table("drain", "No-op jobs per second", "From a backlog, results kept.", _drained(_of("drain"))),
    Table("drain", "What a no-op job costs", "One process; CPU in microseconds; commands count those inside scripts.", [
        Column("worker CPU, µs", _ONE, "worker_cpu", microseconds),
        Column("store CPU, µs", _ONE, "store_cpu", microseconds),
        Column("store commands", _ONE, "commands", one_decimal),
        Column("store CPU to enqueue, µs", _ONE, "enqueue_cpu", microseconds),
    ]),
    Table("enqueue", "Enqueues per second", "One producer, no worker. In bulk: 1,000 jobs a call.", [
        Column("one by one", "enqueue", "rate", per_second, True),
        Column("in bulk", "enqueue", "bulk", per_second, True),
    ]),
    Table("sleep", "Jobs per second that sleep for 20 ms", "50 per slot are possible. The costs: with 16 slots.", [
        *_drained(_of("sleep")),
        Column("worker CPU, µs", _SLEEP, "worker_cpu", microseconds),
        Column("store CPU, µs", _SLEEP, "store_cpu", microseconds),
        Column("store commands", _SLEEP, "commands", one_decimal),
    ]),
    Table("cpu", "Jobs per second that compute for 20 ms", "50 per core are possible.", _drained(_of("cpu"))),
    Table("latency", "Latency of an idle system, milliseconds",
          "One process, one job at a time, from before the enqueue to the body's first line, and to the result.",
          [Column(f"{name} {part}", _LATE, f"{name}_{part}", milliseconds)
           for name in ("start", "result") for part in ("p50", "p95", "p99")]),
    Table("memory", "Memory of the idle tree, MB", "PSS of all its processes.",
          [Column(cell.width.name, cell.name, "pss", megabytes) for cell in _of("memory") if cell.width]),
    Table("growth", "A no-op job with few and with many that wait, µs", "One process, by the wall clock.", [
        Column("1,000 wait", _GROWTH, "few", microseconds),
        Column("many wait", _GROWTH, "many", microseconds),
    ]),
)  # fmt: skip


def median(report: Report, peer: str, column: Column) -> float | None:
    """Return the median over the rounds; None where it was not measured."""
    cell = report["peers"][peer]["cells"].get(column.cell, {})
    values = cell.get("figures", {}).get(column.metric)
    return statistics.median(values) if values else None


def rows(report: Report, table: Table) -> list[list[str]]:
    """Return the table as text: a head, a row per peer, and how many times better jobq is than the best other."""
    made = [["", *(column.head for column in table.columns)]]
    for peer, found in report["peers"].items():
        if found["cells"]:
            name = f"{peer} (the limit)" if peer == LIMIT else peer
            made.append([name, *(_written(report, peer, column) for column in table.columns)])
    if "jobq" in report["peers"]:
        made.append([BETTER, *(_ratio(report, column) for column in table.columns)])
    return made


def _written(report: Report, peer: str, column: Column) -> str:
    value = median(report, peer, column)
    if value is not None:
        return column.write(value)
    return "failed" if report["peers"][peer]["cells"].get(column.cell, {}).get("error") else DASH


def _ratio(report: Report, column: Column) -> str:
    mine = median(report, "jobq", column)
    others = [median(report, peer, column) for peer in report["peers"] if peer not in ("jobq", LIMIT)]
    there = [value for value in others if value is not None]
    if not mine or not there:
        return DASH
    better = mine / max(there) if column.more else min(there) / mine
    return f"{better:.2f} x"


def measured(report: Report) -> list[Table]:
    """Return the tables of which something was measured."""
    return [table for table in TABLES if table.name in report["options"]["tables"]]


def failures(report: Report) -> list[str]:
    """Return a line for each peer and cell that could not be measured."""
    lines = []
    for name, found in report["peers"].items():
        if found["error"]:
            lines.append(f"{name}: {found['error']}")
        lines += [f"{name}, {cell}: {one['error']}" for cell, one in found["cells"].items() if one.get("error")]
    return lines
