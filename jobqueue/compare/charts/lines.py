"""Draw lines over the number of workers, from a zero baseline, each line named at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from jobqueue.compare.charts.drawing import NARROW, Frame, Words, label, length, picture, spread, ticks
from jobqueue.compare.markup import Html, el, short
from jobqueue.words import count

OFF_SCALE = 2.0  # a reference line that is so many times above the modes' highest point is named and not drawn
NOTE = 16.0  # the height of a line of notes above the plot
Say = Callable[[float], str]


@dataclass(frozen=True)
class Line:
    """One line: points are (workers, value). css: its class; tells: its points in exact words, for the mouse pointer.

    A reference line stretches the scale only a little. A level has no width of its own and goes across the plot.
    """

    name: str
    css: str
    points: tuple[tuple[int, float], ...]
    tells: tuple[str, ...] = ()
    reference: bool = False
    level: bool = False
    beyond: tuple[tuple[int, float], ...] = ()  # a second, fainter line above: the 95th percentile

    @property
    def most(self) -> float:
        return max(value for _, value in (*self.points, *self.beyond))


@dataclass(frozen=True)
class Marks:
    """What else is marked: the machine's cores on the axis, and the advised point (css, workers)."""

    cores: int | None = None
    advised: tuple[str, int] | None = None


@dataclass(frozen=True)
class Plot:
    """The content of a chart of lines."""

    words: Words
    lines: tuple[Line, ...]
    widths: tuple[int, ...]
    say: Say = short
    marks: Marks = field(default=Marks())

    def drawn(self) -> list[Line]:
        return [line for line in self.lines if line.points and line.most <= self.limit]

    def off_scale(self) -> list[Line]:
        return [line for line in self.lines if line.points and line.most > self.limit]

    @property
    def limit(self) -> float:
        own = [value for line in self.lines if not line.reference for _, value in line.points]
        return OFF_SCALE * max(own) if own else float("inf")


def draw(plot: Plot, width: float, class_: str | None = None) -> Html:
    """Return the chart. At least one line must have a point."""
    lines = plot.drawn()
    height = (296.0 if width <= NARROW else 316.0) + NOTE * len(plot.off_scale())
    ends = [_end(line, plot) for line in lines]
    frame = _frame(plot, lines, ends, width, height)
    return picture(
        plot.words,
        width,
        height,
        _grid(frame, ticks(_most(lines)), plot.say),
        _axis(frame, plot),
        [_line(line, frame) for line in sorted(lines, key=lambda line: not line.reference)],
        # reversed, so that circles lie on top of squares
        [_markers(line, frame) for line in reversed(lines) if not line.reference],
        _ring(plot, lines, frame),
        _names(lines, ends, frame),
        _notes(plot, width),
        class_=class_,
    )


def _end(line: Line, plot: Plot) -> tuple[str, str]:
    """Return the texts at a line's end: its last figure and its name, and the width where it ended if that is not the
    edge."""
    workers, value = line.points[-1]
    early = not line.level and workers < max(plot.widths)
    return plot.say(value), f" {line.name} at {workers}" if early else f" {line.name}"


def _frame(plot: Plot, lines: Sequence[Line], ends: Sequence[tuple[str, str]], width: float, height: float) -> Frame:
    most = _most(lines)
    return Frame(
        left=max(length(plot.say(tick)) for tick in ticks(most)) + 8,
        right=width - max(length(figure, bold=True) + length(name) for figure, name in ends) - 18,
        top=14.0 + NOTE * len(plot.off_scale()),
        bottom=height - 40,
        low=min(plot.widths),
        high=max(plot.widths),
        most=1.03 * most or 1.0,
    )


def _most(lines: Sequence[Line]) -> float:
    return max(line.most for line in lines)


def _grid(frame: Frame, scale: Sequence[float], say: Say) -> list[Html]:
    made = []
    for tick in scale:
        y = round(frame.y(tick), 1)
        css = "base" if tick == 0 else "grid"
        made.append(el("line", x1=frame.left, x2=frame.right, y1=y, y2=y, class_=css))
        made.append(label(frame.left - 8, y + 4, say(tick) if tick else "0", class_="axis", anchor="end"))
    return made


def _axis(frame: Frame, plot: Plot) -> list[Html]:
    made = [label(frame.x(w), frame.bottom + 18, f"{w:,}", class_="axis", anchor="middle") for w in _shown(frame, plot)]
    end = frame.x(max(plot.widths)) + length(f"{max(plot.widths):,}") / 2
    made.append(label(end + 4, frame.bottom + 18, "workers", class_="axis"))
    cores = plot.marks.cores
    if cores and len(plot.widths) > 1 and frame.low <= cores <= frame.high:
        x = round(frame.x(cores), 1)
        made.append(el("line", x1=x, x2=x, y1=frame.top, y2=frame.bottom, class_="cores"))
        made.append(label(x, frame.bottom + 34, count(cores, "core"), class_="axis", anchor="middle"))
    return made


def _shown(frame: Frame, plot: Plot) -> list[int]:
    """Return the widths that have room on the axis, chosen from the largest down."""
    shown: list[int] = []
    for width in sorted(plot.widths, reverse=True):
        needed = (length(f"{width:,}") + length(f"{shown[-1]:,}")) / 2 + 6 if shown else 0
        if not shown or frame.x(shown[-1]) - frame.x(width) >= needed:
            shown.append(width)
    return shown


def _line(line: Line, frame: Frame) -> Html:
    points = [(frame.left, line.points[0][1]), (frame.right, line.points[0][1])] if line.level else []
    places = [(x, frame.y(value)) for x, value in points] or _places(line.points, frame)
    beyond = el("path", d=_path(_places(line.beyond, frame)), class_="beyond") if line.beyond else None
    return el("g", beyond, el("path", d=_path(places), class_="run"), class_=line.css)


def _places(points: Sequence[tuple[int, float]], frame: Frame) -> list[tuple[float, float]]:
    return [(frame.x(workers), frame.y(value)) for workers, value in points]


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _markers(line: Line, frame: Frame) -> Html:
    tells = line.tells or ("",) * len(line.points)
    places = zip(_places(line.points, frame), tells, strict=True)
    return el("g", *[_marker(line.css, x, y, tell) for (x, y), tell in places], class_=line.css)


def _marker(css: str, x: float, y: float, tell: str) -> Html:
    """Return a circle for threads, a square for processes, so that they differ without colour too."""
    title = el("title", tell) if tell else None
    if css.endswith("process"):
        return el("rect", title, x=x - 5, y=y - 5, width=10, height=10, class_="point")
    return el("circle", title, cx=x, cy=y, r=4.0, class_="point")


def _ring(plot: Plot, lines: Sequence[Line], frame: Frame) -> Html | None:
    for line in lines:
        for workers, value in line.points:
            if plot.marks.advised == (line.css, workers):
                ring = el("circle", cx=frame.x(workers), cy=frame.y(value), r=9.5, class_="ring")
                return el("g", ring, class_=line.css)
    return None


def _names(lines: Sequence[Line], ends: Sequence[tuple[str, str]], frame: Frame) -> list[Html]:
    places = [frame.y(line.points[-1][1]) for line in lines]
    made = []
    spots = spread(places, frame.top, frame.bottom - 2)
    for line, (figure, name), end, y in zip(lines, ends, places, spots, strict=True):
        start = frame.right if line.level else frame.x(line.points[-1][0])
        lead = f"M{start + 7:.1f} {end:.1f}L{frame.right + 12:.1f} {y:.1f}"
        said = label(frame.right + 16, y + 4, el("tspan", figure, class_="figure"), name)
        made.append(el("g", el("path", d=lead, class_="lead"), said, class_=line.css))
    return made


def _notes(plot: Plot, width: float) -> list[Html]:
    made = []
    for n, line in enumerate(plot.off_scale()):
        values = [value for _, value in line.points]
        span = plot.say(values[0]) if len(set(values)) == 1 else f"{plot.say(min(values))} to {plot.say(max(values))}"
        figure = el("tspan", span, class_="figure")
        text = label(width - 4, 14 + NOTE * n, "↑ off the scale: ", figure, f" {line.name}", anchor="end")
        made.append(el("g", text, class_=line.css))
    return made


def spark(plot: Plot, width: float = 104, height: float = 36) -> Html:
    """Return only the modes' lines, as an ornament beside words that say the same."""
    lines = [line for line in plot.drawn() if not line.reference]
    most = _most(lines) or 1.0
    frame = Frame(6, width - 6, 6, height - 4, min(plot.widths), max(plot.widths), most)
    base = el("line", x1=2, x2=width - 2, y1=height - 4, y2=height - 4, class_="base")
    runs = [_line(replace(line, beyond=()), frame) for line in lines]
    ends = [_markers(replace(line, points=line.points[-1:], tells=()), frame) for line in reversed(lines)]
    return el("svg", base, runs, ends, viewbox=f"0 0 {width:g} {height:g}", class_="chart spark", aria_hidden="true")
