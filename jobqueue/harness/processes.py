"""The processes of a run: all of them have the run's own JOBQ_HOME, and none of them is left at its end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from jobqueue.harness.signals import ignore_signals, one_signal_is_enough
from jobqueue.words import TITLE

GRACE = 2.0  # seconds that the workers of a run give their jobs at the end
_FOREIGN = ("JOBQ_URL", "REDIS_URL", "RQ_REDIS_URL", "JOBQ_DOWNLOAD_MAX_MB")


def environment(directory: Path) -> dict[str, str]:
    """Return the environment of a run's processes: a home and a place for downloads in there, nobody's store."""
    env = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return env | {"JOBQ_HOME": _home(directory), "JOBQ_DOWNLOAD_DIR": str(directory / "downloads")}


def _home(directory: Path) -> str:
    return str(directory / "home")


@contextmanager
def run_directory(prefix: str) -> Iterator[Path]:
    """Yield a temporary directory; at the end nothing is left of it, and no process that has its home there.

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
    """SIGKILL; False when there is nothing to kill (any more)."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def leftovers(home: str, started_with: frozenset[str] | None = None) -> list[int]:
    """Return the pids of processes with this JOBQ_HOME, which is one run's own: all, or those with such an argument, or
    with a worker's title.

    A Ctrl-C between the start of a process and the line that remembers it would leave it behind.
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
