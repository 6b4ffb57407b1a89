"""The HTML report of jobq compare: its figures, its escaping, its reading aids, and how the file is written."""

from __future__ import annotations

import copy
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jobqueue.cli import main
from jobqueue.compare import page
from jobqueue.compare.charts.drawing import style
from jobqueue.compare.charts.modes import LOOKS
from jobqueue.compare.markup import DASH
from jobqueue.errors import UsageError

EXAMPLE = Path(__file__).parents[1] / "compare_example.json"
VOID = {"meta", "link", "br"}


@pytest.fixture
def report() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(EXAMPLE.read_text())
    return loaded


# -- a page as a tree ----------------------------------------------------------------------------------------------


@dataclass
class Node:
    """An element: its children are elements and texts."""

    tag: str
    attributes: dict[str, str | None]
    children: list[Node | str] = field(default_factory=list)

    def all(self, *tags: str) -> Iterator[Node]:
        for child in self.children:
            if isinstance(child, Node):
                if child.tag in tags or not tags:
                    yield child
                yield from child.all(*tags)

    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text() for child in self.children)


class Tree(HTMLParser):
    """A strict reader of a page: every element is closed, in order."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.root = Node("", {})
        self._open = [self.root]
        self.feed(content)
        self.close()
        assert self._open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs))
        assert len(node.attributes) == len(attrs)
        self._open[-1].children.append(node)
        if tag not in VOID:
            self._open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)


def tree(report: dict[str, Any]) -> Node:
    return Tree(page.render(report)).root


def with_id(root: Node, name: str) -> Node:
    return next(node for node in root.all() if node.attributes.get("id") == name)


def tables(node: Node) -> dict[str, list[dict[str, str]]]:
    """Return every table by its caption: for each row the cells by the column's name."""
    made = {}
    for table in node.all("table"):
        head = [cell.text() for cell in next(table.all("thead")).all("th")]
        rows = [[cell.text() for cell in row.all("th", "td")] for body in table.all("tbody") for row in body.all("tr")]
        made[next(table.all("caption")).text()] = [dict(zip(head, row, strict=True)) for row in rows]
    return made


def figure(said: str) -> float | None:
    return None if said.startswith(DASH) else float(said.replace(",", ""))


# -- the figures ---------------------------------------------------------------------------------------------------

FIELDS = {
    "Jobs": "jobs",
    "Failed": "failed",
    "Wall s": "wall_s",
    "Jobs/s": "jobs_per_s",
    "Cores": "cores_used",
    "USS MB": "uss_mb",
    "PSS MB": "pss_mb",
    "Start-up s": "startup_s",
}


def test_every_figure_of_every_run_is_that_of_the_json(report: dict[str, Any]) -> None:
    root = tree(report)
    for n, task in enumerate(report["tasks"][:4], 1):
        rows = tables(with_id(root, f"task-{n}"))[f"{task['task']}: every row that was measured"]
        assert len(rows) == len(task["runs"])
        by_name = {row["Row"]: row for row in rows}
        for run in task["runs"]:
            row = by_name[LOOKS[run["mode"]].of(run["workers"])]
            assert {name: figure(row[name]) for name in FIELDS} == {name: run[key] for name, key in FIELDS.items()}
            assert (figure(row["p50 ms"]), figure(row["p95 ms"])) == tuple(run["latency_ms"].values())


def test_the_figures_about_each_task_are_those_of_the_json(report: dict[str, Any]) -> None:
    root = tree(report)
    for n, task in enumerate(report["tasks"][:4], 1):
        section = with_id(root, f"task-{n}")
        ratios = tables(section)["Jobs/s in processes over jobs/s in threads"]
        assert [(row["Width"].split()[0], figure(row["Times"])) for row in ratios] == [
            (str(ratio["workers"]), ratio["ratio"]) for ratio in task["process_over_thread"]
        ]
        memory = tables(section)["Memory that each added worker takes"]
        adds = {LOOKS[mode].many: figures for mode, figures in task["memory_per_worker"].items()}
        found = {row["Row"]: {"pss_mb": figure(row["PSS MB"]), "uss_mb": figure(row["USS MB"])} for row in memory}
        assert found == adds
        given = next(node for node in section.all("dl")).text()
        said = [*task["profile"].values(), *task["queue_price"].values(), task["values_given"]]
        assert {f"{number:,}".removesuffix(".0") for number in said if number != 1} <= set(
            re.findall(r"[\d,]*\d(?:\.\d+)?", given)
        )
        assert task["advice"]["reason"].rstrip(".").casefold() in section.text().casefold()
        assert task["verdict"].partition(": ")[2][1:] in section.text()


def test_the_figures_of_the_trials_are_those_of_the_json(report: dict[str, Any]) -> None:
    found = tables(tree(report))
    for row, mode in zip(found["A counter and a leak, seen in each mode"], ("thread", "process"), strict=True):
        facts = report["isolation"][mode]
        assert figure(row["Workers"]) == facts["workers"]
        counted = [figure(row[f"{name} counted"]) for name in ("Jobs that", "Processes that")]
        assert [*counted, figure(row["Highest count"])] == list(facts["counter"].values())[:3]
        assert row["One counter for all"] == ("yes" if facts["counter"]["shared"] else "no")
        assert (figure(row["Leaked MB"]), figure(row["Processes"])) == (64, facts["leak"]["processes"])
        assert [float(each) for each in row["Grew by MB"].split(", ")] == facts["leak"]["grew_mb"]
    rows = {row["Row"]: row for row in found["The neighbours of a job that crashed"]}
    for mode, facts in report["blast_radius"].items():
        if mode != "meaning":
            row = rows[LOOKS[mode].many]
            names = ("Workers", "Neighbours", "Interrupted", "Finished", "Lost", "Recovery s")
            assert [figure(row[name]) for name in names] == list(facts.values())[:6]
            assert row["The job that crashed"] == facts["crashed_job"]
    stuck = found["Jobs that were stuck in C"]
    expected = [report["time_limits"][mode][case] for case in ("blocking", "gil") for mode in ("thread", "process")]
    for row, facts in zip(stuck, expected, strict=True):
        assert (figure(row["Ended after s"]), row["How"]) == (facts["ended_s"], facts["how"])
        assert figure(row["Neighbours interrupted"]) == facts["neighbours_interrupted"]
        assert row["What the job says"] == facts["error"]
    for part in ("isolation", "blast_radius", "time_limits"):
        assert report[part]["meaning"] in tree(report).text()


def test_the_page_contains_the_whole_json(report: dict[str, Any]) -> None:
    report["tasks"][0]["task"] = "module:é</pre><script>&amp;\u2028"
    assert json.loads(with_id(tree(report), "report").text()) == report


def test_repetitions_show_their_spread_and_their_samples(report: dict[str, Any]) -> None:
    report["settings"]["repeat"] = 2
    for task in report["tasks"]:
        for run in task["runs"]:
            first = run["samples"][0]
            run["samples"] = [first, {**first, "jobs_per_s": first["jobs_per_s"] * 2}]
        for ratio in task["process_over_thread"]:
            ratio["samples"] = [1.5, 2.5]
    found = tables(with_id(tree(report), "task-2"))
    row = found["heavy: every row that was measured, medians of its repetitions"][0]
    assert (row["Lowest jobs/s"], row["Highest jobs/s"]) == ("19.6", "39.2")
    assert found["Jobs/s in processes over jobs/s in threads"][0]["Sample 2"] == "2.5"
    assert "the median of 2 runs" in tree(report).text()


# -- what is missing -----------------------------------------------------------------------------------------------


def test_a_missing_figure_is_a_dash_with_its_reason(report: dict[str, Any]) -> None:
    for run in report["tasks"][1]["runs"]:
        run["pss_mb"] = None
        run["latency_ms"] = {"p50": None, "p95": None}
    section = with_id(tree(report), "task-2")
    row = tables(section)["heavy: every row that was measured"][0]
    assert row["PSS MB"].startswith(DASH)
    assert row["USS MB"] == "38.2"
    said = " ".join(node.text() for node in section.all("p") if node.attributes.get("class") == "missing")
    assert "PSS MB: only Linux tells it" in said
    assert "p50 ms, p95 ms: no job ended well" in said
    assert "USS" not in said


def test_flags_in_notes_are_not_broken_in_two(report: dict[str, Any]) -> None:
    report["tasks"][1]["notes"] = ["Not measured for want of time: threads at 8. --seconds gives more."]
    section = with_id(tree(report), "task-2")
    assert [node.text() for node in section.all("span") if node.attributes.get("class") == "flag"] == ["--seconds"]
    assert "threads at 8. --seconds gives more." in section.text()


def test_a_share_of_the_cpu_that_does_not_follow_from_its_times_is_explained(report: dict[str, Any]) -> None:
    assert "had a core" not in tree(report).text()
    report["tasks"][1]["profile"] = {"wall_ms": 104.4, "cpu_ms": 50.64, "cpu_share": 1.0}
    assert "50.64 ms CPU (share 1 of the time that it had a core)" in with_id(tree(report), "task-2").text()


def test_a_task_that_failed_says_why_and_has_no_charts(report: dict[str, Any]) -> None:
    section = with_id(tree(report), "task-5")
    assert "ValueError: no such image." in section.text()
    assert not list(section.all("svg", "table"))


def test_trials_that_were_not_made_are_named(report: dict[str, Any]) -> None:
    report["blast_radius"] = None
    assert "not tried out: there was no time left" in with_id(tree(report), "blast-radius").text()
    report["isolation"] = report["time_limits"] = None
    assert "a time limit were not tried out: there was no time left" in tree(report).text()
    report["tasks"] = report["tasks"][4:]
    assert "a time limit were not tried out: no task could be measured" in tree(report).text()


def test_with_one_task_nothing_is_repeated(report: dict[str, Any]) -> None:
    report["tasks"] = report["tasks"][1:2]
    root = tree(report)
    assert "Which to use" not in root.text()
    assert [node.text() for node in root.all("p")].count("Processes, 2 of them: 38.8 jobs/s, 2.0 times what threads "
                                                         "reach (19.6), because it computes and threads take turns at "
                                                         "the GIL.") == 1  # fmt: skip
    assert "open" in next(with_id(root, "task-1").all("details")).attributes


def test_one_width_is_one_worker_and_bars(report: dict[str, Any]) -> None:
    report["settings"]["widths"] = [1]
    for task in report["tasks"]:
        task["runs"] = [run for run in task["runs"] if run["workers"] == 1]
    root = tree(report)
    assert "in processes, with 1 worker, beside" in root.text()
    charts = {next(svg.all("title")).text(): svg for svg in root.all("svg") if list(svg.all("title"))}
    assert not [node for svg in charts.values() for node in svg.all("path") if node.attributes.get("class") == "run"]
    assert "19.8" in charts["heavy: jobs per second"].text()
    assert "ring" not in with_id(root, "task-2").text()


def test_trials_of_one_mode_or_without_an_end_are_shown(report: dict[str, Any]) -> None:
    report["isolation"].pop("process")
    report["blast_radius"].pop("ProcessPoolExecutor")
    report["time_limits"]["thread"]["gil"].update(ended_s=None, how=None, error=None)
    found = tables(tree(report))
    assert len(found["A counter and a leak, seen in each mode"]) == 1
    assert len(found["The neighbours of a job that crashed"]) == 3
    assert found["Jobs that were stuck in C"][2]["Ended after s"].startswith(DASH)


def test_a_report_of_failures_only_is_a_page(report: dict[str, Any]) -> None:
    report["tasks"] = report["tasks"][4:]
    assert "ValueError: no such image." in tree(report).text()
    report["tasks"] = []
    assert "0 tasks; nothing could be measured" in tree(report).text()


def test_a_lock_that_came_back_is_named(report: dict[str, Any]) -> None:
    assert "turned on again" not in tree(report).text()
    report["machine"].update(free_threaded=True, gil_enabled_by=["hiredis.hiredis", "numpy"])
    assert "It was turned on again by hiredis.hiredis, numpy." in tree(report).text()
    report["machine"].update(gil_enabled=False, gil_enabled_by=[])
    assert "off: all threads may compute" in tree(report).text()


def test_a_price_of_the_queue_that_could_not_be_measured_is_described_so(report: dict[str, Any]) -> None:
    assert "nothing that could be measured" not in tree(report).text()
    report["tasks"][1]["queue_price"]["extra_ms"] = 0.0
    assert "nothing that could be measured, 0 ms between two jobs" in with_id(tree(report), "task-2").text()


def test_a_busy_machine_is_mentioned(report: dict[str, Any]) -> None:
    assert "was busy" not in tree(report).text()
    report["machine"]["load_before"] = 4.4
    assert "This machine was busy before it began (load 4.4)" in tree(report).text()


# -- no harm -------------------------------------------------------------------------------------------------------

EVIL = "\"'></title></style></pre></svg><script>alert(1)</script><img src=x onerror=alert(1)>&\x00\x1b[31m\u202e\ud800"


def poison(value: Any) -> Any:
    """Return the same report with markup in every text."""
    if isinstance(value, dict):
        return {key: poison(each) for key, each in value.items()}
    if isinstance(value, list):
        return [poison(each) for each in value]
    return value + EVIL if isinstance(value, str) else value


def test_no_text_of_the_report_becomes_markup(report: dict[str, Any], tmp_path: Path) -> None:
    clean = tree(report)
    evil = poison(report)
    for task, before in zip(evil["tasks"], report["tasks"], strict=True):  # what decides about the page, as it was
        task["kind"] = before["kind"]
        for run, old in zip(task["runs"], before["runs"], strict=True):
            run["mode"] = old["mode"]
        if before["advice"]:
            task["advice"]["mode"] = before["advice"]["mode"]
    root = tree(evil)

    def shape(node: Node) -> list[tuple[str, tuple[str, ...]]]:
        return [(each.tag, tuple(each.attributes)) for each in node.all() if each.tag != "wbr"]  # in long names

    assert shape(root) == shape(clean)
    assert "<script>alert(1)</script>" in root.text()
    page.write(evil, tmp_path / "evil.html")
    assert not re.search(rb"[\x00-\x08\x1b]", (tmp_path / "evil.html").read_bytes())


def test_unknown_modes_and_kinds_add_no_markup(report: dict[str, Any]) -> None:
    """Fields and rows may be added in later versions."""
    evil = poison(report)
    assert not list(tree(evil).all("script", "img"))


def test_the_page_loads_nothing_and_has_no_script(report: dict[str, Any]) -> None:
    root = tree(report)
    assert not list(root.all("script", "img", "iframe", "object", "base", "form"))
    for node in root.all():
        assert not [name for name in node.attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert (node.attributes.get(name) or "#").startswith(("#", "data:,"))
    css = next(root.all("style")).text()
    assert not re.findall(r"url\(|@import|https?:", css)
    policy = next(node for node in root.all("meta") if node.attributes.get("http-equiv"))
    assert "default-src 'none'" in (policy.attributes["content"] or "")


# -- for every reader ----------------------------------------------------------------------------------------------


def test_the_page_has_a_language_a_title_and_headings_in_order(report: dict[str, Any]) -> None:
    root = tree(report)
    assert next(root.all("html")).attributes["lang"] == "en"
    assert next(root.all("title")).text() == "Threads or processes: square, heavy, download, scrape and 1 more"
    levels = [int(node.tag[1]) for node in root.all("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    names = [node.attributes["id"] for node in root.all() if "id" in node.attributes]
    assert len(names) == len(set(names))


def test_tables_and_charts_can_be_read_aloud(report: dict[str, Any]) -> None:
    root = tree(report)
    for table in root.all("table"):
        assert next(table.all("caption")).text()
        assert {cell.attributes.get("scope") for cell in table.all("th")} == {"row", "col"}
    charts = [svg for svg in root.all("svg") if svg.attributes.get("aria-hidden") != "true"]
    assert len(charts) == 2 * (4 * 4 + 3)  # each for wide and for narrow places
    for svg in charts:
        assert svg.attributes["role"] == "img"
        assert [child.tag for child in svg.children[:2] if isinstance(child, Node)] == ["title", "desc"]


def colours() -> list[dict[str, str]]:
    """Return the palette for light, and for dark."""
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in style().split("@media")[:2])
    return [light, light | dark]


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours as in WCAG 2.2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_enough_contrast(dark: bool) -> None:
    palette = colours()[dark]
    for ink in ("ink", "soft", "thread", "process", "loop", "bad"):
        for ground in ("paper", "card", "loop-wash"):
            assert contrast(palette[ink], palette[ground]) >= 4.5, (ink, ground)
    for mode in ("thread", "process"):
        assert contrast(palette[mode], palette[f"{mode}-wash"]) >= 4.5


# -- the file ------------------------------------------------------------------------------------------------------


def test_a_page_is_written_whole_with_the_usual_rights(report: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    page.write(report, path)
    assert path.read_text(encoding="utf-8") == page.render(report)
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert path.stat().st_mode == ordinary.stat().st_mode


def test_a_file_that_was_there_keeps_its_rights_and_its_link(report: dict[str, Any], tmp_path: Path) -> None:
    path, link = tmp_path / "report.html", tmp_path / "latest.html"
    path.write_text("old")
    path.chmod(0o600)
    link.symlink_to(path)
    page.write(report, link)
    assert link.is_symlink()
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_failure_half_way_leaves_the_old_page_and_nothing_else(
    report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UsageError, match="No space left on device"):
        page.write(report, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("place", ["missing/report.html", ".", "file/report.html", "n" * 300])
def test_a_place_that_cannot_be_written_is_one_sentence(place: str, report: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for attempt in (page.check, lambda path: page.write(report, path)):
        with pytest.raises(UsageError) as caught:
            attempt(tmp_path / place)
        assert str(caught.value).startswith(f"The HTML report cannot be written to {tmp_path / place}: ")
        assert "\n" not in str(caught.value)
        assert str(caught.value).endswith(".")


def test_a_pipe_is_written_to_not_replaced(report: dict[str, Any], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        tiny = copy.deepcopy(report)
        tiny["tasks"], tiny["isolation"], tiny["blast_radius"], tiny["time_limits"] = [], None, None, None
        page.write(tiny, pipe)
        assert os.read(reader, 1 << 20).startswith(b"<!DOCTYPE html>")
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


# -- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(report: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the example in place of a measurement."""
    monkeypatch.setattr("jobqueue.compare.run.run", lambda *_: report)
    return report


def test_the_command_writes_the_page_of_the_json_that_it_prints(measured: dict[str, Any], tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["compare", "--json", "--html", str(tmp_path / "report.html")])
    assert result.exit_code == 1  # one task could not be measured
    assert json.loads(result.stdout) == measured
    written = Tree((tmp_path / "report.html").read_text(encoding="utf-8")).root
    assert json.loads(with_id(written, "report").text()) == measured


def test_a_page_that_could_not_be_written_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("jobqueue.compare.run.run", lambda *_: pytest.fail("it was measured"))
    place = tmp_path / "missing" / "report.html"
    result = CliRunner().invoke(main, ["compare", "--html", str(place)])
    assert result.exit_code == 2
    assert result.stderr == f"jobq: The HTML report cannot be written to {place}: No such file or directory.\n"


def test_a_full_disk_at_the_end_does_not_lose_the_report(
    measured: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    result = CliRunner().invoke(main, ["compare", "--json", "--html", str(tmp_path / "report.html")])
    assert result.exit_code == 2
    assert json.loads(result.stdout) == measured
    assert result.stderr.endswith("No space left on device.\n")
    assert list(tmp_path.iterdir()) == []
