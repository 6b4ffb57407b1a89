"""A command's output on a full disk, or on a terminal with few characters: no traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers import ROOT, Server

from jobqueue.producing.queue import Queue

COMMAND = [sys.executable, "-m", "jobqueue.cli"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("argv", [["info"], ["submit", "square", "1"]])
def test_a_full_disk_is_one_line(server: Server, argv: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, *argv, "--url", server.url], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=60
        )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("jobq: the output could not be written: No space left on device")
    assert ("1 job was enqueued" in last) == (argv[0] == "submit")
    assert "Traceback" not in done.stderr


def test_output_in_the_c_locale(server: Server) -> None:
    job = Queue(connection=server.client).enqueue("jobqueue.tasks.square", 2, description="zwölf")
    env = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [*COMMAND, "status", job.id, "--url", server.url], capture_output=True, text=True, cwd=ROOT, env=env, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert r"zw\xf6lf" in done.stdout
