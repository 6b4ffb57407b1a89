"""``jobq demo`` with real processes: its figures, and that nothing is left behind, however it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from helpers import eventually
from leftovers import assert_nothing_is_left, working_for

from jobqueue.words import TITLE

pytestmark = pytest.mark.timeout(240)

DEMO = [sys.executable, "-m", "jobqueue.cli", "demo"]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Give the demo its own temporary directory (short, as a unix socket's path is limited), and a store that it must
    not use."""
    return os.environ | {"TMPDIR": str(tmp_path), "REDIS_URL": "redis://127.0.0.1:1/0", "TERM": "xterm"}


def test_the_figures_of_both_modes(env: dict[str, str], tmp_path: Path) -> None:
    run = subprocess.run([*DEMO, "--json"], env=env, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    figures = json.loads(run.stdout)
    assert figures["seconds"] < 120
    thread, process = figures["modes"]["thread"], figures["modes"]["process"]
    for mode in (thread, process):
        assert {name: kind["jobs"] for name, kind in mode["kinds"].items()} == {
            "squares": 10_000,
            "heavy": 60,
            "downloads": 40,
            "page titles": 39,
        }
        for kind in [*mode["kinds"].values(), mode["all"]]:
            assert kind["jobs_per_second"] == pytest.approx(kind["jobs"] / kind["wall"], rel=0.05)
            assert 0 < kind["cores"] <= os.cpu_count() + 0.5
        assert mode["memory"]["uss"] > 10_000_000
        assert mode["kinds"]["heavy"]["cpu"] > 1
    # a fetch waits 0.1 s: eight at once need at least 40 / 8 * 0.1 s, two at once 40 / 2 * 0.1 s
    assert thread["kinds"]["downloads"]["wall"] >= 0.5
    assert process["kinds"]["downloads"]["wall"] >= 2.0
    assert thread["kinds"]["heavy"]["cores"] < 1.3
    assert (thread["state"]["shared"], thread["state"]["processes"]) == (True, 1)
    assert (process["state"]["shared"], process["state"]["processes"]) == (False, 2)
    assert thread["state"]["jobs"] % 40 == process["state"]["jobs"] % 40 == 0  # 40 until every process has done some
    assert thread["state"]["consumers"] > 1
    assert len(figures["meaning"]) == 2
    assert_nothing_is_left(tmp_path)


def on_a_terminal(env: dict[str, str], tmp_path: Path, until: str) -> tuple[subprocess.Popen[bytes], int, str]:
    """Start the demo on a pseudo terminal and read until the text appears (or the demo ends)."""
    ours, theirs = pty.openpty()
    demo = subprocess.Popen(DEMO, env=env | {"COLUMNS": "100"}, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    return demo, ours, read_until(ours, until)


def read_until(terminal: int, until: str | None) -> str:
    text = ""
    while until is None or until not in text:
        try:
            text += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", os.read(terminal, 65536).decode(errors="replace"))
        except OSError:  # the other end is closed
            break
    return text


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_behind(env: dict[str, str], tmp_path: Path, signum: int) -> None:
    demo, terminal, text = on_a_terminal(env, tmp_path, "ready after")
    try:
        assert "ready after" in text
        assert len(working_for(tmp_path)) > 3
        demo.send_signal(signum)
        time.sleep(0.05)
        demo.send_signal(signum)  # a second Ctrl-C: the cleanup continues
        text += read_until(terminal, None)
        assert demo.wait(30) == 130
    finally:
        demo.kill()
        demo.wait()
        os.close(terminal)
    assert "jobq: the demo was stopped; nothing is left of it." in text
    assert "Traceback" not in text
    assert_nothing_is_left(tmp_path)


def test_a_worker_that_dies_is_one_line(env: dict[str, str], tmp_path: Path) -> None:
    demo = subprocess.Popen(DEMO, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert demo.stdout
        assert demo.stderr
        assert any("ready after" in line for line in demo.stdout)
        below = [(p, " ".join(p.cmdline())) for p in psutil.Process(demo.pid).children()]
        [worker] = [p for p, command in below if " worker " in command or command.startswith(TITLE)]
        worker.kill()
        _, errors = demo.communicate(timeout=60)
        assert demo.returncode == 1
        assert re.fullmatch(r"jobq: The thread worker left with exit code -9: .*\n", errors)
    finally:
        demo.kill()
        demo.wait()
    assert_nothing_is_left(tmp_path)


def test_a_demo_that_is_killed_leaves_no_process(env: dict[str, str], tmp_path: Path) -> None:
    """Worker, site and store each notice that the demo is gone; files may stay."""
    demo = subprocess.Popen(DEMO, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert demo.stdout
        assert any("ready after" in line for line in demo.stdout)
        assert len(working_for(tmp_path)) > 3
    finally:
        demo.kill()
        demo.communicate()
    eventually(lambda: not working_for(tmp_path), 30)
