"""Run a `jobq worker` as a subprocess: start it, watch it, and leave nothing of it, also not what it started.

It runs in a session of its own, so that Ctrl-C in the terminal reaches only this program, which then decides. Its stdin
is a pipe that this program holds: when this program is killed, the worker sees the pipe's end and stops by itself.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from jobqueue.errors import WorkerDied
from jobqueue.store.open import Store
from jobqueue.words import TITLE

BEYOND_GRACE = 8.0  # seconds beyond the grace that a worker has for its last requests to the store
DYING = 5.0  # seconds that a killed process may take to be gone
POLL = 0.01
SILENT = "it said nothing"


def environment(store: Store, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return ``env`` (by default this program's) with the variables by which a worker finds this very store. Not by
    arguments, which everybody can read."""
    found = dict(os.environ if env is None else env)
    if store.local is not None:
        return found | {"JOBQ_HOME": str(store.local.home)}
    return found | {"JOBQ_URL": store.address.url or f"unix://{store.address.unix_socket_path}"}


class WorkerProcess:
    """One worker tree. Use it as a context manager, or call ``start`` and ``stop``. Stop before start, and stop twice,
    are fine."""

    def __init__(
        self,
        queues: Sequence[str],
        *,
        mode: str = "process",
        number: int | None = None,
        modules: Sequence[str] = (),
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        grace: float = 2.0,
        inherit_stdout: bool = False,
        directory: Path | None = None,
    ) -> None:
        """number: processes, or threads in thread mode. modules: served, as with -I. flags: more flags of `jobq
        worker`. env: the whole environment (see ``environment``); None takes this program's. log: a file that stdout
        and stderr are appended to; None takes a temporary file. grace: in seconds. inherit_stdout: jobs print to this
        program's stdout. directory: where its temporary files go; they are removed at its end."""
        self._argv = [
            sys.executable,
            "-P",
            "-m",
            "jobqueue.cli",
            "worker",
            *queues,
            "--mode",
            mode,
            "--grace",
            str(grace),
        ]
        self._argv += ["--until-eof", *([] if number is None else ["-n", str(number)])]
        self._argv += [part for module in modules for part in ("-I", module)] + list(flags)
        self._env = env
        self._log = log
        self._grace = grace
        self._inherit_stdout = inherit_stdout
        self._said = SILENT
        self._place = directory
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self) -> WorkerProcess:
        """Start the worker and return at once; ``ready`` waits."""
        self._directory = Path(tempfile.mkdtemp(prefix="jobq-worker-", dir=self._place))
        self._log = self._log or self._directory / "log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._argv, "--directory", str(self._directory), "--health-file", str(self._directory / "health")],
                env=self._env,
                stdin=subprocess.PIPE,  # never written to: the worker stops at its end
                stdout=None if self._inherit_stdout else log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def ready(self, timeout: float = 30.0) -> None:
        """Wait until the worker can claim jobs. Raises WorkerDied when it ends instead, or needs longer than
        ``timeout`` s."""
        deadline = time.monotonic() + timeout
        while not self._says_that_it_can():
            self.check()
            if time.monotonic() > deadline:
                raise WorkerDied(f"The worker could not claim jobs within {timeout:g} s: {self.last_words()}")
            time.sleep(POLL)

    def check(self) -> None:
        """Raise WorkerDied, with the last line that the worker wrote, if it has ended."""
        if (code := self.exit_code) is not None:
            how = f"was killed by signal {-code}" if code < 0 else f"left with exit code {code}"
            raise WorkerDied(f"The worker {how}: {self.last_words()}", code)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the worker leaves by itself, as one with --burst does, and return its exit code.

        Raises TimeoutError after ``timeout`` seconds; the worker goes on then.
        """
        assert self._process is not None, "it was not started"
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"The worker did not leave within {timeout:g} s: {self.last_words()}") from None

    def stop(self, timeout: float | None = None) -> int | None:
        """Stop the worker as a deploy does, and kill it and everything below it after ``timeout`` seconds (by default
        the grace and 8 s). Returns its exit code, None if it was never started."""
        return self._end(self._grace + BEYOND_GRACE if timeout is None else timeout)

    def kill(self) -> int | None:
        """Kill the worker and everything below it at once. The next worker rescues its jobs after its lease."""
        return self._end(0.0)

    def terminate(self) -> None:
        """Send SIGTERM and return at once, so that several workers stop at the same time; call ``stop`` to wait."""
        if self._process is not None:
            self._process.terminate()

    def crash(self) -> None:
        """Kill only the supervisor and wait for its end; the processes that it had started notice by themselves."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._clean_up()

    def _end(self, grace: float) -> int | None:
        if self._process is None:
            return None
        try:
            end_tree(self._process, grace)
        finally:
            self._clean_up()
        return self._process.returncode

    def __enter__(self) -> WorkerProcess:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    # -- what is known of it ----------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The supervisor's pid."""
        assert self._process is not None, "it was not started"
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The supervisor's exit code; None while it lives, and before it was started."""
        return None if self._process is None else self._process.poll()

    def last_words(self) -> str:
        """Return the last line that it wrote."""
        try:
            return last_line(self._log) if self._log else SILENT
        except OSError:  # a temporary log was removed with its directory
            return self._said

    def _says_that_it_can(self) -> bool:
        assert self._directory is not None, "it was not started"
        try:
            return bool(json.loads((self._directory / "health").read_text())["able"])
        except OSError:
            return False

    # -- its end ----------------------------------------------------------------------------------------------------

    def _clean_up(self) -> None:
        assert self._process is not None
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._directory is not None:
            self._said = self.last_words()
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None


def last_line(log: Path) -> str:
    """Return the last line of a log, which usually says why its writer has ended."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else SILENT


def end_tree(worker: subprocess.Popen[bytes], grace: float) -> None:
    """Stop a worker as a deploy does, and after ``grace`` seconds kill it and everything below it, except the local
    store."""
    family: set[psutil.Process] = set()
    try:
        family |= family_of(worker.pid)
        if grace:
            worker.terminate()
            worker.wait(grace)
    except subprocess.TimeoutExpired:
        pass  # killed below
    finally:
        _kill(worker, family)


def _kill(worker: subprocess.Popen[bytes], family: set[psutil.Process]) -> None:
    if worker.poll() is None:
        family |= family_of(worker.pid)
        worker.kill()
        worker.wait()
    rest = family | {p for p in psutil.process_iter() if _session(p.pid) == worker.pid}
    for process in rest:
        try:
            process.kill()  # psutil does not kill a process that got the pid meanwhile
        except psutil.NoSuchProcess:
            pass
    deadline = time.monotonic() + DYING
    while any(map(_runs, rest)) and time.monotonic() < deadline:  # until the kernel has removed them
        time.sleep(POLL)


def family_of(worker: int) -> set[psutil.Process]:
    """Return the processes of a worker, by its pid: those of its session, and the fork server with all below it, each
    of which leads a session of its own. Not the local store's server, which a worker may have started and which others
    use."""
    found = {process for process in psutil.process_iter() if _session(process.pid) == worker}
    try:
        supervisor = psutil.Process(worker)
        own = supervisor.cmdline()
        for child in supervisor.children():
            if _session(child.pid) == worker or child.cmdline() == own or _is_fork_server(child.cmdline()):
                found |= {child, *child.children(recursive=True)}
    except psutil.NoSuchProcess:
        pass
    return found


def _is_fork_server(command: Sequence[str]) -> bool:
    """Return whether a command line is that of a fork server which is a program, or has a title
    (workers/shared/titles.py). One that was forked in advance has its supervisor's command line, without titles."""
    return "jobqueue.workers.forking.forkserver" in command or " ".join(command).startswith(f"{TITLE}fork server")


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:  # the process is gone, or another user's
        return None
