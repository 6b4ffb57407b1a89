"""The HTML report in a real browser, if there is one: no message on the console, no overlapping text, nothing cut off.

The page has no script and forbids any; what is measured here is measured by a script in a copy without that rule.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

from jobqueue.compare import page

EXAMPLE = Path(__file__).parents[1] / "compare_example.json"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = [(1280, 900), (390, 844)]
DARK = "--blink-settings=preferredColorScheme=0"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: how the page looks was not checked")

# What would disturb a reader; hidden charts have no boxes.
MEASURE = """<script>
const seen = box => box.width > 0 && box.height > 0;
const all = [...document.querySelectorAll("svg:not([aria-hidden])")];
const charts = all.filter(svg => seen(svg.getBoundingClientRect()));
const overlaps = [], cut = [];
for (const svg of charts) {
  const frame = svg.getBoundingClientRect();
  const boxes = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
  for (const [n, [said, box]] of boxes.entries()) {
    if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1) cut.push(said);
    for (const [other, that] of boxes.slice(n + 1)) {
      const wide = Math.min(box.right, that.right) - Math.max(box.left, that.left);
      const high = Math.min(box.bottom, that.bottom) - Math.max(box.top, that.top);
      if (wide > 1 && high > 0.3 * box.height) overlaps.push([svg.querySelector("title").textContent, said, other]);
    }
  }
}
const page = document.documentElement;
const found = {charts: charts.length, overlaps, cut, width: page.scrollWidth, window: innerWidth,
  paper: getComputedStyle(document.body).backgroundColor, text: document.querySelector("main").innerText};
parent.document.documentElement.setAttribute("data-found", JSON.stringify(found));
</script>"""


def browse(path: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """Open a file; return the document as the browser parsed it, and the messages on its console."""
    assert CHROMIUM
    quiet = "--disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *quiet.split()]
    command += ["--window-size=1400,1000", "--enable-logging=stderr", "--v=0", *flags, "--dump-dom", path.as_uri()]
    try:
        done = run(command, profile)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):  # says nothing about the page
        done = run(command, profile.with_name("again"))
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def run(command: list[str], profile: Path) -> subprocess.CompletedProcess[str]:
    profile_flag = f"--user-data-dir={profile}"
    return subprocess.run([*command, profile_flag], capture_output=True, text=True, timeout=50, check=True)


@pytest.fixture
def report() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(EXAMPLE.read_text())
    loaded["tasks"][1]["task"] = "</pre><script>console.log('ran')</script><img src=x onerror=console.log('ran')>"
    return loaded


def measured(report: dict[str, Any], place: Path, width: int, height: int, *flags: str) -> dict[str, Any]:
    """Lay the page out in a frame, as a window cannot be narrower than 500 pixels."""
    content = re.sub(r"<meta http-equiv[^>]*>", "", page.render(report)).replace("</body>", f"{MEASURE}</body>")
    size = f'width="{width}" height="{height}" style="border: 0"'
    path = place / "frame.html"
    path.write_text(f'<!DOCTYPE html><title>x</title><iframe {size} srcdoc="{escape(content)}"></iframe>')
    dom, _ = browse(path, place / "profile", *flags)
    found = re.search(r'data-found="([^"]*)"', dom)
    assert found, dom[:500]
    answer: dict[str, Any] = json.loads(unescape(found[1]))
    return answer


def test_the_console_stays_empty_and_the_figures_are_shown(report: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    page.write(report, path)
    dom, console = browse(path, tmp_path / "profile")
    assert console == []
    raw = re.search(r'<pre id="report">(.*?)</pre>', dom, re.DOTALL)
    assert raw
    assert json.loads(unescape(raw[1])) == report
    cells = {unescape(cell) for cell in re.findall(r"<td[^>]*>([^<]*)</td>", dom)}
    rates = {f"{run['jobs_per_s']:,}".removesuffix(".0") for task in report["tasks"] for run in task["runs"]}
    assert rates <= cells


def test_a_message_on_the_console_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "broken.html"
    path.write_text("<!DOCTYPE html><title>x</title><script>nobody()</script>")
    assert "nobody is not defined" in browse(path, tmp_path / "profile")[1][0]


def enlarged(report: dict[str, Any]) -> dict[str, Any]:
    """Many widths, long names, large figures, and no two lines at the same place."""
    for task in report["tasks"]:
        task["task"] = f"a_package.with_a_long_name.{task['task'][:9]}:and_a_function_whose_name_is_longer_still"
        task["runs"] = [*task["runs"], *(wider(run) for run in task["runs"] if run["mode"] != "loop")]
    report["settings"]["widths"] += [3, 6, 48, 96, 192, 256]
    report["machine"]["cores"] = 192
    report["isolation"]["process"]["leak"]["grew_mb"] = [12345.6] * 16
    return report


def wider(run: dict[str, Any]) -> dict[str, Any]:
    workers = {1: 3, 2: 6, 4: 48, 8: 96, 16: 256}[run["workers"]]
    rate = run["jobs_per_s"] * {"thread": 90.01, "process": 91.2}.get(run["mode"], 92.3)
    return {**run, "workers": workers, "jobs_per_s": rate, "uss_mb": 98765.4, "pss_mb": 123456.7}


@pytest.mark.parametrize("change", [dict, enlarged])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_nothing_overlaps_and_nothing_is_cut_off(
    width: int, height: int, change: Callable[[dict[str, Any]], dict[str, Any]], report: dict[str, Any], tmp_path: Path
) -> None:
    report = change(report)
    found = measured(report, tmp_path, width, height)
    assert found["charts"] == 4 * 4 + 3
    assert found["overlaps"] == []
    assert found["cut"] == []
    assert found["width"] <= found["window"] == width
    assert "Which to use" in found["text"]


def test_the_dark_palette_is_used(report: dict[str, Any], tmp_path: Path) -> None:
    paper = measured(report, tmp_path, 1280, 900, DARK)["paper"]
    assert sum(map(int, re.findall(r"\d+", paper))) < 150
