"""``jobq bench`` with real workers: its figures, on a given store and on the local one; nothing is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import Server
from leftovers import assert_nothing_is_left, working_for

from jobqueue.protocol import keys

pytestmark = pytest.mark.timeout(240)

BENCH = [sys.executable, "-m", "jobqueue.cli", "bench", "--seconds", "5"]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    temporary = tmp_path / "t"
    temporary.mkdir()
    return os.environ | {"TMPDIR": str(temporary)}


def keys_in(server: Server) -> set[str]:
    return {key.decode() for key in server.client.scan_iter()} - {keys.SEQ}  # a counter, of all claims


def test_the_figures_on_a_given_store(server: Server, env: dict[str, str], tmp_path: Path) -> None:
    server.client.set("somebody:else", 1)
    run = subprocess.run([*BENCH, "--json", "--url", server.url], env=env, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    assert said["store_is_here"] is True
    assert said["enqueue"]["bulk"] > said["enqueue"]["one_by_one"] > 0
    modes = {(one["mode"], one["number"]) for one in said["run"]}
    assert {("process", 1), ("thread", 8)} <= modes
    for one in said["run"]:
        assert one["jobs_per_second"] > 0
        assert 0 < one["worker_busy"] <= 1
        assert 0 < one["store_cpu_per_job"] < 0.01
        assert len(one["runs"]) == 3
    assert 0 <= said["latency"]["start"]["p50"] <= said["latency"]["result"]["p50"]
    assert len(said["meaning"]) == len(said["run"]) + 1
    assert keys_in(server) == {"somebody:else"}
    assert_nothing_is_left(tmp_path / "t")


@pytest.mark.slow
def test_the_report_on_the_local_store(env: dict[str, str], tmp_path: Path) -> None:
    home = {"JOBQ_HOME": str(tmp_path / "h"), "JOBQ_URL": "", "REDIS_URL": "", "RQ_REDIS_URL": ""}
    try:
        run = subprocess.run(BENCH, env=env | home, capture_output=True, text=True, timeout=200)
        assert run.returncode == 0, run.stderr
        assert "run, 8 threads" in run.stdout
        assert "With 1 process, what limits is " in run.stdout
        assert "The queue costs " in run.stdout
        assert "a plain loop" in run.stderr
        left = subprocess.run(
            [sys.executable, "-m", "jobqueue.cli", "info", "--json"], env=env | home, capture_output=True, text=True
        )
        assert json.loads(left.stdout)["queues"] == []
    finally:
        subprocess.run([sys.executable, "-m", "jobqueue.cli", "store", "stop", "--force"], env=env | home, check=False)
    assert_nothing_is_left(tmp_path / "t")


def test_an_interrupt_during_the_measurement_leaves_nothing_behind(
    server: Server, env: dict[str, str], tmp_path: Path
) -> None:
    run = subprocess.Popen([*BENCH, "--url", server.url], env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
                           text=True, start_new_session=True)  # fmt: skip
    assert run.stderr
    for line in run.stderr:
        if "process mode" in line:
            break
    run.send_signal(signal.SIGINT)
    assert "stopped; nothing is left" in run.communicate(timeout=60)[1]
    assert run.returncode == 130
    assert keys_in(server) == set()
    assert not working_for(tmp_path / "t")
    assert_nothing_is_left(tmp_path / "t")
