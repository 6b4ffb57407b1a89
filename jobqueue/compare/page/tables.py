"""Make tables of exact figures: aligned at the point, with a dash for a missing figure and a note why it is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobqueue.compare.markup import DASH, Html, el, exact


@dataclass(frozen=True)
class Column:
    """One column. missing: why a figure may be None; a column of words is aligned left and may wrap."""

    name: str
    missing: str = ""
    words: bool = False


@dataclass(frozen=True)
class TableRow:
    """One line: its name, the class that colours it, a value for each column."""

    name: str
    css: str
    values: Sequence[Any]


def table(caption: str, first: str, columns: Sequence[Column], groups: Sequence[Sequence[TableRow]]) -> Html:
    """Return a table with a caption, a row header in each line, a tbody per group, and notes on what is missing."""
    rows = [row for group in groups for row in group]
    pads = [_pads([row.values[n] for row in rows]) for n in range(len(columns))]
    head = el("tr", el("th", first, scope="col"), [_head(column) for column in columns])
    bodies, line = [], 0
    for group in groups:
        made = []
        for row in group:
            cells = [_cell(c, v, pads[n][line]) for n, (c, v) in enumerate(zip(columns, row.values, strict=True))]
            made.append(el("tr", el("th", row.name, scope="row"), cells, class_=row.css))
            line += 1
        bodies.append(el("tbody", made))
    made_table = el("table", el("caption", caption), el("thead", head), bodies)
    scrolled = el("div", made_table, class_="scroll", role="region", aria_label=caption, tabindex="0")
    return el("div", scrolled, _notes(columns, rows), class_="figures")


def _head(column: Column) -> Html:
    return el("th", column.name, scope="col", class_="words" if column.words else None)


def _cell(column: Column, value: Any, pad: float) -> Html:
    if value is None:
        return el("td", DASH, el("span", "not known", class_="unseen"), class_="words" if column.words else None)
    if column.words:
        return el("td", exact(value), class_="words")
    return el("td", exact(value), style=f"--pad:{pad:g}" if pad else None)


def _pads(values: Sequence[Any]) -> list[float]:
    """Return by how many digits each figure must move to the left so that the points are aligned."""
    decimals = [_decimals(value) for value in values]
    most = max(decimals, default=0)
    return [most - own + (0.5 if most and not own else 0) for own in decimals]


def _decimals(value: Any) -> int:
    said = exact(value)
    return len(said.partition(".")[2]) if isinstance(value, float) and "e" not in said else 0


def _notes(columns: Sequence[Column], rows: Sequence[TableRow]) -> Html | None:
    """Return one note per column that says why some of its figures are missing."""
    said: dict[str, list[str]] = {}
    for n, column in enumerate(columns):
        if any(row.values[n] is None for row in rows):
            said.setdefault(column.missing or "not measured", []).append(column.name)
    notes = [f"{', '.join(names)}: {why}." for why, names in said.items()]
    return el("p", f"{DASH} ", " ".join(notes), class_="missing") if notes else None
