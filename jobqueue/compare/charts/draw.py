"""Draw any chart as an SVG element of any width."""

from __future__ import annotations

from jobqueue.compare.charts import bars, dots, lines
from jobqueue.compare.charts.bars import Bars
from jobqueue.compare.charts.dots import Signs
from jobqueue.compare.charts.lines import Plot
from jobqueue.compare.markup import Html

Chart = Plot | Bars | Signs


def draw(chart: Chart, width: float, class_: str | None = None) -> Html:
    """Return the chart as an SVG element so many units wide."""
    if isinstance(chart, Plot):
        return lines.draw(chart, width, class_)
    return bars.draw(chart, width, class_) if isinstance(chart, Bars) else dots.draw(chart, width, class_)
