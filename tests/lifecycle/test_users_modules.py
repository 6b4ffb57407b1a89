"""A project whose modules have the names of ours or of Python's: both are found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from helpers import ROOT, Server, program_path

from jobqueue import Queue

SERVED = ("workers", "tasks", "rq_tasks")
IN_THE_WAY = ("queue", "types", "logging", "selectors", "random", "signal")


def test_modules_with_the_names_of_ours_or_pythons(server: Server, queue: Queue, mode: str, tmp_path: Path) -> None:
    for name in SERVED:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"def double(n): return ['{name}', 2 * n]\n")
    for name in IN_THE_WAY:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('taken for the one of Python')\n")
    jobs = [queue.enqueue(f"{name}.double", n) for n in (1, 2) for name in SERVED]
    serve = [flag for name in SERVED for flag in ("-I", name)]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "jobqueue.cli", "worker", "--mode", mode, "-n", "2", "--burst", *serve],
        env={**os.environ, "JOBQ_URL": server.url, "PYTHONPATH": program_path(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert [job.result(timeout=1) for job in jobs] == [[name, 2 * n] for n in (1, 2) for name in SERVED], done.stderr
