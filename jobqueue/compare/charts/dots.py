"""Draw a row of small signs, one for each job: which jobs went on, which began again, which were lost."""

from __future__ import annotations

from dataclasses import dataclass

from jobqueue.compare.charts.drawing import Words, label, length, picture
from jobqueue.compare.markup import Html, el

STEP = 20.0
MOST = 12  # signs in a row; a larger number is shown in words only


@dataclass(frozen=True)
class Jobs:
    """One row: how many jobs went on undisturbed, ran again, were lost. said: the same in words."""

    name: str
    css: str
    calm: int
    again: int
    lost: int
    said: str


@dataclass(frozen=True)
class Signs:
    """The content of a chart of signs."""

    words: Words
    rows: tuple[Jobs, ...]


def draw(chart: Signs, width: float, class_: str | None = None) -> Html:
    """Return the chart; its height follows from the number of rows."""
    left = max(length(row.name) for row in chart.rows) + 14
    signs = min(MOST, max(row.calm + row.again + row.lost for row in chart.rows))
    said = left + signs * STEP + 6
    made = [_row(row, left, said, 6 + n * (STEP + 6)) for n, row in enumerate(chart.rows)]
    return picture(chart.words, width, len(chart.rows) * (STEP + 6) + 6, *made, class_=class_)


def _row(row: Jobs, left: float, said: float, top: float) -> Html:
    middle = top + STEP / 2
    kinds = ["calm"] * row.calm + ["again"] * row.again + ["lost"] * row.lost
    signs = [_sign(kind, left + (n + 0.5) * STEP, middle) for n, kind in enumerate(kinds[:MOST])]
    name = label(left - 10, middle + 4, row.name, anchor="end")
    return el("g", name, *signs, label(said, middle + 4, row.said), class_=row.css)


def _sign(kind: str, x: float, y: float) -> Html:
    if kind == "calm":
        return el("circle", cx=x, cy=y, r=6, class_="calm")
    if kind == "again":  # a ring with a gap and an arrow's head, which means "again"
        ring = f"M{x + 4.3:.1f} {y - 4.3:.1f}A6 6 0 1 0 {x + 6:.1f} {y:.1f}"
        head = f"M{x + 0.3:.1f} {y - 4.6:.1f}h4.4v-4.4"
        return el("path", d=ring + head, class_="again")
    return el("path", d=f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10", class_="lost")
