"""Provide what all charts share: sizes, scales, text, and places for labels that must not overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from jobqueue.compare.markup import Html, el

WIDE = 540  # units; half of a page on a desktop
NARROW = 344  # units; a phone
# Widths of letters at the size of charts.css, in the widest of its fonts (DejaVu Sans).
LETTER, THIN, BROAD = 7.6, 4.4, 11.5
BOLD = 1.1
LINE = 16.0  # between two labels


@dataclass(frozen=True)
class Words:
    """The title of a chart, and a description of it in words for readers who do not see it."""

    title: str
    description: str


@dataclass(frozen=True)
class Frame:
    """The plot's place inside the picture, and the values at its edges: lowest and highest x, 0 and highest y."""

    left: float
    right: float
    top: float
    bottom: float
    low: float
    high: float
    most: float

    def x(self, width: float) -> float:
        """Return the position of a number of workers, on a logarithmic scale."""
        if self.high == self.low:
            return (self.left + self.right) / 2
        part = math.log2(width / self.low) / math.log2(self.high / self.low)
        return self.left + part * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - value / self.most * (self.bottom - self.top)


def picture(words: Words, width: float, height: float, *parts: object, class_: str | None = None) -> Html:
    """Return an SVG element with a title and a description."""
    return el(
        "svg",
        el("title", words.title),
        el("desc", words.description),
        *parts,
        viewbox=f"0 0 {width:g} {height:g}",
        role="img",
        class_=f"chart {class_}" if class_ else "chart",
    )


def label(x: float, y: float, *said: object, class_: str = "", anchor: str | None = None) -> Html:
    return el("text", *said, x=float(x), y=float(y), class_=class_ or None, text_anchor=anchor)


def length(said: str, bold: bool = False) -> float:
    """Estimate how many units wide the text will be; rather too many than too few."""
    widths = [THIN if letter in " .,:;/ijl" else BROAD if letter in "mwMW" else LETTER for letter in said]
    return sum(widths) * (BOLD if bold else 1)


def ticks(most: float, wanted: int = 4) -> list[float]:
    """Return round numbers from 0 up to the highest value, about as many as wanted."""
    if most <= 0:
        return [0.0]
    rough = most / wanted
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * 0.9999)
    return [round(step * n, 12) for n in range(math.floor(most / step + 1e-9) + 1)]


def spread(wanted: Sequence[float], low: float, high: float, gap: float = LINE) -> list[float]:
    """Return positions near the wanted ones, in the same order, at least ``gap`` apart and between low and high.

    If there are more labels than fit, they reach above ``low``.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[list[int]] = []
    for i in order:  # labels that would overlap become one group around the mean of their wanted positions
        groups.append([i])
        while len(groups) > 1 and _end(groups[-2], wanted, gap) > _start(groups[-1], wanted, gap) - gap + 1e-9:
            last = groups.pop()
            groups[-1] += last
    places = [0.0] * len(wanted)
    for group in groups:
        for n, i in enumerate(group):
            places[i] = _start(group, wanted, gap) + n * gap
    floor = low
    for i in order:
        places[i] = floor = max(places[i], floor)
        floor += gap
    ceiling = high
    for i in reversed(order):
        places[i] = ceiling = min(places[i], ceiling)
        ceiling -= gap
    return places


def _start(group: list[int], wanted: Sequence[float], gap: float) -> float:
    return sum(wanted[i] for i in group) / len(group) - gap * (len(group) - 1) / 2


def _end(group: list[int], wanted: Sequence[float], gap: float) -> float:
    return _start(group, wanted, gap) + gap * (len(group) - 1)


def style() -> str:
    """Return the colours and lines of all charts, as CSS."""
    return resources.files(__package__).joinpath("charts.css").read_text(encoding="utf-8")
