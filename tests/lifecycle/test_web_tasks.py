"""The libraries of download and scrape are an extra: if they are missing, one line says what to install."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from helpers import ROOT, Server, Tree, failed, jobq

from jobqueue import Queue

INSTALL = "pip install 'jobq[web-tasks]'"
BOTH = f"download and scrape need httpx2 and httpcore2 and beautifulsoup4, which this Python does not have: {INSTALL}"
URL = "http://127.0.0.1:9/"


@pytest.fixture
def core_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the extra's libraries impossible to import in processes that are started from here."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without/sitecustomize.py").write_text(
        "import sys\nsys.modules.update(dict.fromkeys(['httpx2', 'httpcore2', 'bs4']))\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "without"), str(ROOT)]))


def command(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "jobqueue.cli", *argv], capture_output=True, text=True, timeout=60)


@pytest.mark.usefixtures("core_only")
@pytest.mark.parametrize("verbose", [[], ["--verbose"]], ids=["", "verbose"])
def test_without_the_extra_worker_and_jobs_say_what_to_install(
    start: Callable[..., Tree], mode: str, queue: Queue, store: redis.Redis, verbose: list[str]
) -> None:
    jobs = [queue.enqueue(task, URL) for task in ("download", "scrape")]
    square = queue.enqueue("square", 3)
    tree = start("--burst", "-n", "1", *verbose, mode=mode, serve=())
    assert tree.wait() == 0
    assert square.result(1) == 9
    assert tree.log.count(BOTH) == len(verbose)  # otherwise only jobs of such tasks report it
    for job, task in zip(jobs, ("download", "scrape"), strict=True):
        assert f"ExtraMissing: {task} needs httpx2 and httpcore2 and beautifulsoup4, " in failed(store, job.id)
        assert INSTALL in failed(store, job.id).splitlines()[-1]


@pytest.mark.usefixtures("core_only")
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["demo"], f"jobq: the demo's {BOTH}"),
        (["compare"], f"jobq: {BOTH}; or name a TASK"),
        (["compare", "jobqueue.tasks:scrape", URL], "jobq: scrape needs httpx2 and httpcore2 and beautifulsoup4, "),
    ],
)
def test_without_the_extra_commands_that_need_it_are_refused(argv: list[str], said: str) -> None:
    done = command(*argv)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.usefixtures("core_only")
def test_without_the_extra_submit_warns_and_submits(
    server: Server, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker may have the libraries that the producer does not have."""
    monkeypatch.setenv("JOBQ_URL", server.url)
    done = command("submit", "download", URL)
    assert done.returncode == 0
    assert (
        f"jobq: download needs httpx2 and httpcore2 and beautifulsoup4, which this Python does not have: {INSTALL}"
        in (done.stderr)
    )
    assert done.stdout.split() == queue.job_ids
    assert INSTALL not in command("submit", "square", "1").stderr


@pytest.mark.parametrize("argv", [["submit"], ["demo"], ["compare"]])
def test_the_help_names_the_extra(server: Server, argv: list[str]) -> None:
    assert "extra web-tasks" in " ".join(jobq(server, *argv, "--help").stdout.split())


def test_the_extra_is_complete_and_installed() -> None:
    """README's commands, the image and the test dependencies install it; httpcore2 too, as the client imports it
    itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {line.partition(">")[0] for line in project["optional-dependencies"]["web-tasks"]}
    assert names == {"httpx2", "httpcore2", "beautifulsoup4"}
    assert not any(name in line for line in project["dependencies"] for name in ("http", "soup"))
    extras = next(line for line in project["optional-dependencies"]["test"] if line.startswith("jobq["))
    assert {"local", "web-tasks"} <= set(extras.removeprefix("jobq[").rstrip("]").split(","))
    assert "install -q '.[local,web-tasks]'" in (ROOT / "README.md").read_text()
    assert "'web-tasks'" in (ROOT / "Dockerfile").read_text()
