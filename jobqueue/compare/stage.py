"""The stage of a run that leaves nothing behind: a store, the environment of its processes, one signal, and the sweep.

    one_signal_is_enough ─► temporary directory ─► swept ─► the user's store, or one of our own ─► ...

Whatever happens inside, at the end no process with this run's JOBQ_HOME is left.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from jobqueue import keys
from jobqueue.connection import Store, open_store
from jobqueue.errors import JobqError
from jobqueue.worker_process import family_of

GRACE = 2.0  # seconds that the workers of a run give their jobs at the end
_FOREIGN = ("JOBQ_URL", "REDIS_URL", "RQ_REDIS_URL", "JOBQ_DOWNLOAD_MAX_MB")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def own_store(env: dict[str, str]) -> Iterator[Store]:
    """Start a store of the run's own; stop it at the end although somebody may still hold a lease."""
    with open_store(None, env=env) as store:
        try:
            yield store
        except BaseException:
            # the thread that waits for results would say that the store went away
            logging.getLogger("jobqueue.results").disabled = True
            raise
        finally:
            if store.local is not None:
                store.local.stop(force=True)


def environment(directory: Path) -> dict[str, str]:
    """Return the environment of the demo's own processes: a home and a place for downloads, nobody's store."""
    env = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return env | {"JOBQ_HOME": str(directory / "home"), "JOBQ_DOWNLOAD_DIR": str(directory / "downloads")}


@contextmanager
def one_signal_is_enough() -> Iterator[None]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into a KeyboardInterrupt; more disturb neither the cleaning up nor the
    end of the command: after the first one, they stay ignored."""

    def interrupt(*_: object) -> None:
        ignore_signals()
        raise KeyboardInterrupt

    before = {each: signal.signal(each, interrupt) for each in _SIGNALS}
    interrupted = False
    try:
        yield
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        for each, handler in before.items() if not interrupted else ():
            signal.signal(each, handler)


def ignore_signals() -> None:
    """From here on nothing disturbs the cleaning up; ``one_signal_is_enough`` puts the handlers back."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)


@contextmanager
def scene(prefix: str) -> Iterator[Path]:
    """Yield a temporary directory; at the end nothing is left of it, and no process that has its home there."""
    with one_signal_is_enough(), tempfile.TemporaryDirectory(prefix=prefix) as name:
        try:
            yield Path(name)
        finally:
            ignore_signals()
            for pid in leftovers(str(Path(name) / "home")):
                kill(pid)


@contextmanager
def opened(url: str | None, env: dict[str, str]) -> Iterator[tuple[Store, dict[str, str]]]:
    """Open the store at ``url``, or start our own without one; yield it and the environment of its workers."""
    if url is None:
        with own_store(env) as store:
            yield store, env
    else:
        with open_store(url) as store:
            # by the environment: everybody can read argv; and `jobq advise` is not asked about what is tried out here
            yield store, env | {"JOBQ_URL": url, "JOBQ_ACCOUNTING": "0"}


def refuse_suspended(store: Store) -> None:
    """Raise JobqError where no worker would take anything."""
    with store.client() as client:
        if client.exists(keys.SUSPENDED):
            raise JobqError("All queues of this store are suspended, no worker would work: jobq resume first.")


# -- processes -----------------------------------------------------------------------------------------------------


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a worker as a deploy does, and then for sure: it and everything below it, but not the local store."""
    family = family_of(process.pid)
    try:
        process.terminate()
        process.wait(GRACE + 8)
    except subprocess.TimeoutExpired:
        pass  # killed below
    finally:
        for member in family:
            try:
                member.kill()  # psutil knows a pid that was given to somebody else meanwhile
            except psutil.NoSuchProcess:
                pass
        process.kill()
        process.wait()


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
    """Return the pids of processes with this JOBQ_HOME, which is one run's own: all, or those with such an argument.

    A Ctrl-C between the start of a process and the line that remembers it would leave it behind.
    """
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("JOBQ_HOME") == home and process.pid != os.getpid()
            if ours and (started_with is None or started_with.intersection(process.cmdline())):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
