"""SIGTERM at any moment of a start: exit code 0, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from helpers import ROOT, Server

from jobqueue import keys

# Imported by Python itself: it sends the signal when the module of this name is about to be imported.
SITE = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["JOBQ_TEST_AT"] and os.environ["JOBQ_TEST_PID"] in ("", str(os.getpid())):
            os.environ["JOBQ_TEST_PID"] = "done"
            os.kill(os.getpid(), signal.{signal})

sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize(
    "at", ["click", "jobqueue.errors", "jobqueue.cli.worker", "redis", "workers.launcher", "rq.job"]
)
def test_a_signal_while_it_starts(server: Server, store: redis.Redis, tmp_path: Path, at: str, number: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE.format(signal=number))
    env = {**os.environ, "JOBQ_URL": server.url, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    env |= {"JOBQ_TEST_AT": at, "JOBQ_TEST_PID": ""}
    command = [sys.executable, "-m", "jobqueue.cli", "worker", "-n", "1"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=90, preexec_fn=heed_hangups)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert not store.smembers(keys.WORKERS)
    assert not store.exists(keys.OWNERS)


def heed_hangups() -> None:
    """Whoever runs the tests may ignore them."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
