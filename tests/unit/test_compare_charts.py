"""The charts of jobq compare: their contents and places, their text for screen readers, and the guide's files."""

from __future__ import annotations

import copy
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from jobqueue.compare.charts import __main__ as command
from jobqueue.compare.charts import of_task
from jobqueue.compare.charts.bars import Bars
from jobqueue.compare.charts.draw import Chart, draw
from jobqueue.compare.charts.drawing import LINE, NARROW, WIDE, spread, ticks
from jobqueue.compare.charts.files import pictures
from jobqueue.compare.charts.lines import Plot
from jobqueue.compare.markup import DASH, el, exact, milliseconds, short, text

EXAMPLE = Path(__file__).parents[1] / "compare_example.json"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def report() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(EXAMPLE.read_text())
    return loaded


def task(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(part for part in report["tasks"] if part["task"] == name)


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def every_chart(report: dict[str, Any]) -> list[Chart]:
    machine = report["machine"]
    made = []
    for part in report["tasks"]:
        made += [of_task.throughput(part, machine), of_task.latency(part, machine)]
        made += [of_task.memory(part), of_task.price(part)]
    return [chart for chart in made if chart]


# -- text ----------------------------------------------------------------------------------------------------------


def test_text_is_escaped_unless_it_was_built_here() -> None:
    assert el("p", "<b>", el("i", "&"), None, class_='"') == '<p class="&quot;">&lt;b&gt;<i>&amp;</i></p>'
    assert text("a\x00b\x1bc\ud800\nd") == "a\ufffdb\ufffdc\ufffd\nd"


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, DASH), (9800.0, "9,800"), (0.0003, "0.0003"), (3333333.33, "3,333,333.33"), (True, "yes")],
)
def test_exact_figures_are_those_of_the_json(value: Any, said: str) -> None:
    assert exact(value) == said


def test_short_figures_and_times() -> None:
    assert [short(v) for v in (0, 0.21, 38.83, 143.2, 12400.4)] == ["0", "0.21", "38.8", "143", "12,400"]
    assert [milliseconds(v) for v in (0.0003, 0.102, 50.4, 3021.0)] == ["0.3 µs", "102 µs", "50.4 ms", "3.02 s"]


# -- places --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [[10, 10, 10, 10], [5, 200, 6, 201], [200, 5, 199], [0, 300], [150]])
def test_labels_keep_their_distance_and_stay_inside(wanted: list[float]) -> None:
    places = spread(wanted, 0, 210)
    assert all(0 <= place <= 210 for place in places)
    in_order = [places[i] for i in sorted(range(len(wanted)), key=lambda i: wanted[i])]
    assert all(b - a >= LINE - 1e-6 for a, b in pairwise(in_order))


def test_a_single_label_stays_at_its_place() -> None:
    assert spread([50, 120], 0, 210) == [50, 120]


@pytest.mark.parametrize(("most", "expected"), [(286, [0, 100, 200]), (38.8, [0, 10, 20, 30]), (0, [0])])
def test_grid_lines_stand_at_round_numbers(most: float, expected: list[float]) -> None:
    assert ticks(most) == expected


# -- what is drawn -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_every_chart_is_valid_named_and_inside_its_picture(report: dict[str, Any], width: int) -> None:
    charts = every_chart(report)
    assert len(charts) == 4 * 4  # the task that failed has none
    for chart in charts:
        svg = parsed(draw(chart, width))
        wide, high = map(float, svg.attrib["viewBox"].split()[2:])
        assert (svg[0].tag, svg[0].text) == ("title", chart.words.title)
        assert svg[1].tag == "desc"
        assert len(svg[1].text or "") > 40
        for mark in svg.iter():
            x, y = (float(mark.get(a) or mark.get(b) or 0) for a, b in (("x", "cx"), ("y", "cy")))
            assert 0 <= x <= wide, (chart.words.title, mark.attrib)
            assert 0 <= y <= high


def test_a_point_stands_at_its_value_over_a_zero_baseline(report: dict[str, Any]) -> None:
    plot = of_task.throughput(task(report, "heavy"), report["machine"])
    assert isinstance(plot, Plot)
    svg = parsed(draw(plot, WIDE))
    base = next(float(line.attrib["y1"]) for line in svg.iter("line") if line.get("class") == "base")
    squares = [mark for mark in svg.iter("rect") if mark.get("class") == "point"]
    heights = [base - float(mark.attrib["y"]) - 5 for mark in squares]
    assert heights[1] / heights[0] == pytest.approx(38.8 / 19.4, rel=0.01)
    steps = [float(b.attrib["x"]) - float(a.attrib["x"]) for a, b in pairwise(squares)]
    assert steps == pytest.approx([steps[0]] * 4, abs=0.1)  # 1 2 4 8 16 at even distances
    assert [mark.findtext("title") for mark in squares][1] == "2 processes: 38.8 jobs/s"


def test_the_advised_point_is_ringed(report: dict[str, Any]) -> None:
    heavy, square = (of_task.throughput(task(report, name), report["machine"]) for name in ("heavy", "square"))
    assert heavy
    assert square
    assert 'class="ring"' in draw(heavy, WIDE)
    assert 'class="ring"' not in draw(square, WIDE)  # the advice is not to queue it


def test_a_value_that_would_flatten_the_chart_is_named_instead(report: dict[str, Any]) -> None:
    plot = of_task.throughput(task(report, "square"), report["machine"])
    assert isinstance(plot, Plot)
    assert [line.name for line in plot.off_scale()] == ["bare threads", "plain loop"]
    said = "".join(parsed(draw(plot, WIDE)).itertext())
    assert "off the scale: 3,333,333 plain loop" in said


def test_a_percentile_far_away_does_not_flatten_the_medians(report: dict[str, Any]) -> None:
    part = copy.deepcopy(task(report, "heavy"))
    last = next(run for run in part["runs"] if (run["mode"], run["workers"]) == ("process", 16))
    last["latency_ms"]["p95"] = 4000.0
    plot = of_task.latency(part, report["machine"])
    assert isinstance(plot, Plot)
    assert max(line.most for line in plot.drawn()) < 1000
    assert [line.name for line in plot.off_scale()] == ["processes, p95"]
    assert "off the scale: 58 ms to 4 s processes, p95" in "".join(parsed(draw(plot, WIDE)).itertext())


def test_figures_that_are_missing_are_left_out(report: dict[str, Any]) -> None:
    part = copy.deepcopy(task(report, "heavy"))
    for run in part["runs"]:
        run["pss_mb"] = run["uss_mb"] = None
        run["latency_ms"] = {"p50": None, "p95": None}
    assert of_task.memory(part) is None
    assert of_task.latency(part, report["machine"]) is None
    part["runs"][1]["uss_mb"] = 38.2
    chart = of_task.memory(part)
    assert chart is not None
    said = ["".join(label.itertext()) for label in parsed(draw(chart, WIDE)).iter("text")]
    assert said.count(DASH) == 19


def test_a_line_that_ends_early_says_where(report: dict[str, Any]) -> None:
    part = copy.deepcopy(task(report, "heavy"))
    part["runs"] = [run for run in part["runs"] if (run["mode"], run["workers"]) < ("process", 8)]
    plot = of_task.throughput(part, report["machine"])
    assert isinstance(plot, Plot)
    said = ["".join(label.itertext()) for label in parsed(draw(plot, WIDE)).iter("text")]
    assert "38.8 processes at 4" in said
    assert "38.8 bare processes" in said


def test_a_mode_in_which_all_jobs_failed_is_drawn_at_zero(report: dict[str, Any]) -> None:
    part = copy.deepcopy(task(report, "heavy"))
    for run in part["runs"]:
        run["jobs_per_s"] = 0.0
    plot = of_task.throughput(part, report["machine"])
    assert isinstance(plot, Plot)
    assert parsed(draw(plot, WIDE)) is not None
    assert of_task.price(part) is None


def test_one_width_and_one_run_are_enough(report: dict[str, Any]) -> None:
    part = copy.deepcopy(task(report, "heavy"))
    part["runs"] = [run for run in part["runs"] if run["mode"] == "thread" and run["workers"] == 4]
    chart = of_task.throughput(part, report["machine"])
    assert isinstance(chart, Bars)
    assert "4 threads: 19.6 jobs/s" in draw(chart, NARROW)
    assert of_task.price(part) is None


# -- the guide's pictures ------------------------------------------------------------------------------------------


def test_a_picture_per_task_and_one_of_memory(report: dict[str, Any]) -> None:
    made = dict(pictures(report))
    assert sorted(made) == ["download.svg", "heavy.svg", "memory.svg", "scrape.svg", "square.svg"]
    for content in made.values():
        svg = parsed(content)
        assert svg.tag == f"{SVG}svg"
        assert "prefers-color-scheme: dark" in (svg.findtext(f"{SVG}style") or "")
        assert "CPython 3.11.4" in content
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", content)
    assert "16 processes: USS 185.2 MB, PSS 218.5 MB" in made["memory.svg"]
    assert "for each job" in made["square.svg"]


def test_the_guides_pictures_are_what_is_drawn_from_its_figures() -> None:
    """If not, run: python -m jobqueue.compare.charts docs/images/figures.json docs/images"""
    images = EXAMPLE.parents[1] / "docs" / "images"
    made = dict(pictures(json.loads((images / "figures.json").read_text(encoding="utf-8"))))
    assert sorted(made) == sorted(path.name for path in images.glob("*.svg"))
    for name, content in made.items():
        assert (images / name).read_text(encoding="utf-8") == content, name


def test_memory_is_shown_where_threads_are_worth_having(report: dict[str, Any]) -> None:
    report["tasks"] = [part for part in report["tasks"] if part["task"] != "download"]
    for part in report["tasks"]:
        part["kind"] = part["kind"] and "unknown"
    task(report, "square")["kind"] = "tiny"
    task(report, "scrape")["advice"]["mode"] = "thread"
    assert "scrape: memory in MB" in dict(pictures(report))["memory.svg"]


def test_a_task_of_any_name_makes_a_harmless_file(report: dict[str, Any]) -> None:
    part = task(report, "heavy")
    part["task"] = "../../<script>:..//é<b>"
    report["tasks"] = [part]
    made = dict(pictures(report))
    assert all(re.fullmatch(r"[\w-]+\.svg", name, re.ASCII) for name in made)
    assert all(parsed(content) is not None for content in made.values())


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(EXAMPLE), str(tmp_path / "images")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(list((tmp_path / "images").iterdir())) == 5
    assert command.main([str(EXAMPLE)]) == 2
    assert command.main([str(tmp_path / "nothing.json"), str(tmp_path)]) == 1
    assert "nothing.json" in capsys.readouterr().err
