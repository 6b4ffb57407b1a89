"""Find the processes and files that a command left behind which ran with its own temporary directory (TMPDIR)."""

from __future__ import annotations

from pathlib import Path

import psutil
from helpers import eventually


def working_for(directory: Path) -> list[str]:
    """Return the processes whose environment or command line names the directory: all that a command in it started."""
    found = []
    for process in psutil.process_iter():
        try:
            names = [*process.cmdline(), process.environ().get("TMPDIR", "")]
            if process.status() != psutil.STATUS_ZOMBIE and any(str(directory) in name for name in names):
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def assert_nothing_is_left(directory: Path) -> None:
    eventually(lambda: not working_for(directory), 20)
    assert list(directory.iterdir()) == []
