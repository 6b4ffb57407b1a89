"""Mark the processes of a run by a JOBQ_HOME of the run's own, and leave none of them behind at its end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from jobqueue.harness.signals import ignore_signals, one_signal_is_enough
from jobqueue.words import TITLE

GRACE = 2.0  # seconds that running jobs get when the workers of a run stop
_FOREIGN = ("JOBQ_URL", "REDIS_URL", "RQ_REDIS_URL", "JOBQ_DOWNLOAD_MAX_MB")


def environment(directory: Path) -> dict[str, str]:
    """Return the environment for a run's processes: home and downloads are in ``directory``, and no store is named."""
    env = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return env | {"JOBQ_HOME": _home(directory), "JOBQ_DOWNLOAD_DIR": str(directory / "downloads")}


def _home(directory: Path) -> str:
    return str(directory / "home")


@contextmanager
def run_directory(prefix: str) -> Iterator[Path]:
    """Yield a temporary directory. At the end, delete it and kill every process that has its JOBQ_HOME there.

    The first signal ends the run with a KeyboardInterrupt.
    """
    with one_signal_is_enough(), tempfile.TemporaryDirectory(prefix=prefix) as name:
        try:
            yield Path(name)
        finally:
            ignore_signals()
            for pid in leftovers(_home(Path(name))):
                kill(pid)


def kill(pid: int) -> bool:
    """Send SIGKILL; return False when there is no such living process."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def leftovers(home: str, started_with: frozenset[str] | None = None) -> list[int]:
    """Return the pids of the processes with this JOBQ_HOME: all, or those with such an argument or with a worker's
    title.

    They are found by their environment because a Ctrl-C may come between the start of a process and the line that
    remembers it.
    """
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("JOBQ_HOME") == home and process.pid != os.getpid()
            command = process.cmdline()
            titled = " ".join(command).startswith(TITLE)
            if ours and (started_with is None or titled or started_with.intersection(command)):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
