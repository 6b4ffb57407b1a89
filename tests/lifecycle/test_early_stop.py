"""SIGTERM at any moment of a worker's start: exit code 0, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from helpers import ROOT, Server, eventually, program_path

from jobqueue.protocol import keys

# Python itself imports this. It sends the signal when the module of this name is about to be imported.
SITE = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["JOBQ_TEST_AT"] and os.environ["JOBQ_TEST_PID"] in ("", str(os.getpid())):
            os.environ["JOBQ_TEST_PID"] = "done"
            os.kill(os.getpid(), signal.{signal})

sys.meta_path.insert(0, Finder())
"""


CRONS = "from rq import cron\ncron.register('samples.add', 'default', args=(1, 2), interval=3600)\n"


@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize(
    "at", ["click", "jobqueue.errors", "jobqueue.cli.worker", "redis", "jobqueue.workers.launcher", "rq.job"]
)
def test_sigterm_during_the_start(server: Server, store: redis.Redis, tmp_path: Path, at: str, number: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE.format(signal=number))
    env = {**os.environ, "JOBQ_URL": server.url, "PYTHONPATH": program_path(tmp_path, ROOT)}
    env |= {"JOBQ_TEST_AT": at, "JOBQ_TEST_PID": ""}
    command = [sys.executable, "-m", "jobqueue.cli", "worker", "-n", "1"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert not store.smembers(keys.WORKERS)
    assert not store.exists(keys.OWNERS)


@pytest.mark.parametrize("command", ["info", "submit square 1 --wait", "cron crons.py", "worker"])
@pytest.mark.parametrize("at", ["click", "jobqueue.errors", "jobqueue.cli.options", "redis"])
def test_sigint_during_the_start(server: Server, tmp_path: Path, at: str, command: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE.format(signal="SIGINT"))
    (tmp_path / "crons.py").write_text(CRONS)
    env = {**os.environ, "JOBQ_URL": server.url, "PYTHONPATH": program_path(tmp_path, ROOT)}
    env |= {"JOBQ_TEST_AT": at, "JOBQ_TEST_PID": ""}
    argv = [sys.executable, "-m", "jobqueue.cli", *command.split()]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=90, cwd=tmp_path)
    assert done.returncode == (0 if command.startswith(("worker", "cron")) else 130), done.stderr
    assert not done.stderr.strip()
    assert not done.stdout


def test_ctrl_c_while_a_cron_file_is_loaded(server: Server, tmp_path: Path) -> None:
    loading = tmp_path / "loading"
    (tmp_path / "crons.py").write_text(f"import os, time\nopen({str(loading)!r}, 'w').write(str(os.getpid()))\n"
                                       "time.sleep(600)\n")  # fmt: skip
    env = {**os.environ, "JOBQ_URL": server.url}
    argv = [sys.executable, "-m", "jobqueue.cli", "cron", "crons.py"]
    started = subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, text=True, cwd=tmp_path, process_group=0)
    eventually(lambda: loading.exists() and loading.read_text())
    os.killpg(started.pid, signal.SIGINT)
    _, said = started.communicate(timeout=60)
    assert (started.returncode, said.strip()) == (0, "")
    with pytest.raises(ProcessLookupError):
        os.kill(int(loading.read_text()), 0)


def test_sigint_at_the_very_end(server: Server, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, signal\natexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
    )
    env = {**os.environ, "JOBQ_URL": server.url, "PYTHONPATH": program_path(tmp_path, ROOT)}
    argv = [sys.executable, "-m", "jobqueue.cli", "info"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=90)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert "KeyboardInterrupt" not in done.stderr
