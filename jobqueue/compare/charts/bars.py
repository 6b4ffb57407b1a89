"""Draw horizontal bars from zero: each with its name on the left and its figure on the right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jobqueue.compare.charts.drawing import Words, label, length, picture
from jobqueue.compare.markup import DASH, Html, el, short

HEIGHT = 12.0  # of a bar
STEP = 18.0  # from bar to bar
APART = 9.0  # additional space between groups


@dataclass(frozen=True)
class Bar:
    """One bar, with a paler one behind it that may reach further. A value of None has no bar and shows a dash."""

    name: str
    css: str
    value: float | None
    behind: float | None = None
    tell: str = ""
    says: tuple[str, str] | None = None  # shown in place of the values: a figure, and the text behind it
    first: bool = False  # whether it is the first of a group

    @property
    def reach(self) -> float:
        return max(self.value or 0.0, self.behind or 0.0)


@dataclass(frozen=True)
class Bars:
    """The content of a chart of bars. key: the meaning of the bar and of the one behind it; limit: a named line
    across."""

    words: Words
    bars: tuple[Bar, ...]
    say: Callable[[float], str] = short
    key: tuple[str, str] | None = None
    limit: tuple[float, str] | None = None


def draw(chart: Bars, width: float, class_: str | None = None) -> Html:
    """Return the chart; its height follows from the number of bars."""
    left = max((length(bar.name) for bar in chart.bars), default=0) + 10
    room = max((_room(chart, bar) for bar in chart.bars), default=0) + 8
    most = max([bar.reach for bar in chart.bars] + [chart.limit[0] if chart.limit else 0.0]) or 1.0
    scale = (width - left - room) / most
    top = 26.0 if chart.key or chart.limit else 4.0
    tops = _tops(chart.bars, top)
    height = tops[-1] + STEP + 4
    return picture(
        chart.words,
        width,
        height,
        _key(chart.key),
        el("line", x1=left, x2=left, y1=top - 4, y2=height - 6, class_="base"),
        [_bar(chart, bar, left, y, scale) for bar, y in zip(chart.bars, tops, strict=True)],
        _limit(chart.limit, left, scale, top, height),
        class_=class_,
    )


def _tops(bars: Sequence[Bar], top: float) -> list[float]:
    made = []
    for n, bar in enumerate(bars):
        top += APART if bar.first and n else 0
        made.append(top)
        top += STEP
    return made


def _bar(chart: Bars, bar: Bar, left: float, y: float, scale: float) -> Html:
    middle = y + HEIGHT / 2 + 4
    made: list[object] = [label(left - 8, middle, bar.name, anchor="end", class_="name")]
    if bar.behind is not None:
        made.append(_rect(left, y, bar.behind * scale, "behind"))
    if bar.value is not None:
        made.append(_rect(left, y, bar.value * scale, "bar"))
    figure, rest = _said(chart, bar)
    made.append(label(left + bar.reach * scale + 6, middle, el("tspan", figure, class_="figure"), rest, class_="halo"))
    return el("g", el("title", bar.tell) if bar.tell else None, *made, class_=bar.css)


def _rect(x: float, y: float, width: float, css: str) -> Html:
    return el("rect", x=x, y=y, width=max(width, 1.0), height=HEIGHT, class_=css)


def _room(chart: Bars, bar: Bar) -> float:
    figure, rest = _said(chart, bar)
    return length(figure, bold=True) + length(rest)


def _said(chart: Bars, bar: Bar) -> tuple[str, str]:
    if bar.says:
        return bar.says
    figure = DASH if bar.value is None else chart.say(bar.value)
    return figure, "" if bar.behind is None else f" / {chart.say(bar.behind)}"


def _key(key: tuple[str, str] | None) -> Html | None:
    if key is None:
        return None
    second = length(key[0], bold=True) + 30
    return el(
        "g",
        el("rect", x=1, y=2, width=12, height=10, class_="bar"),
        label(18, 11, el("tspan", key[0], class_="figure")),
        el("rect", x=second, y=2, width=12, height=10, class_="behind"),
        label(second + 17, 11, key[1]),
        class_="key",
    )


def _limit(limit: tuple[float, str] | None, left: float, scale: float, top: float, height: float) -> list[Html]:
    if limit is None:
        return []
    x = left + limit[0] * scale
    line = el("line", x1=x, x2=x, y1=top - 8, y2=height - 6, class_="limit")
    return [line, label(x, top - 12, limit[1], anchor="middle", class_="axis")]
