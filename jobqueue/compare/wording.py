"""Word rows, rates and sizes as the report of a comparison does."""

from __future__ import annotations

from collections.abc import Sequence

from jobqueue.compare.figures import MIXED, Row, shape
from jobqueue.words import count


def consumers(row: Row) -> str:
    """Return the row's workers in words: 4 threads, 1 process, 2 processes with 4 threads each."""
    if row.mode == MIXED:
        processes, threads = shape(row.workers)
        return f"{processes} processes with {threads} threads each"
    return count(row.workers, row.mode)


def listed(names: Sequence[str]) -> str:
    """Join names: threads; threads and processes; threads, processes and bare threads."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def mb(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f} MB" if value >= 10 else f"{max(value, 0.0):.1f} MB"
