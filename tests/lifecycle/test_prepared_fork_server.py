"""The first fork server, which is forked from the process that becomes the supervisor: the served modules see nothing
of that, it ends with its supervisor at any moment, and the worker can do without it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Start
from helpers import ROOT, Server, eventually, lines, running_no_more

from jobqueue import Queue

# What a module, or a job, can find out about its process.
SEES = """
import os, signal, subprocess, sys, traceback
def facts():
    main = sys.modules["__main__"]
    return {
        "argv": sys.argv[:1],
        "orig_argv": sys.orig_argv[1:4],
        "path": sys.path,
        "flags": subprocess._args_from_interpreter_flags(),  # what multiprocessing's programs get
        "main": [main.__spec__.name, main.__file__, main.__name__],
        "streams": [type(each).__name__ for each in (sys.stdin, sys.stdout, sys.stderr)],
        "errors": [each.errors for each in (sys.stdin, sys.stdout, sys.stderr)],
        "stdin": os.path.realpath("/proc/self/fd/0"),
        "inherited": sorted(os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                            if os.path.realpath(f"/proc/self/fd/{n}").startswith(os.environ["WATCHED"])),
        "handlers": {str(int(n)): str(getattr(it, "__name__", it)) for n in signal.valid_signals()
                     if (it := signal.getsignal(n)) != signal.SIG_DFL},
        "mask": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        "hooks": [sys.unraisablehook is sys.__unraisablehook__, sys.excepthook is sys.__excepthook__],
        "leads": os.getsid(0) == os.getpid(),
        "environment": sorted(os.environ),
        "command": [it.name for it in traceback.extract_stack() if "click" in it.filename and it.name != "__call__"],
    }
at_import = facts()
def seen():
    return [at_import, facts()]
"""


def test_modules_and_jobs_see_a_process_like_one_that_was_started(
    start: Start, queue: Queue, tmp_path: Path, mode: str, request: pytest.FixtureRequest
) -> None:
    """The second fork server is started as a program. Both see the same, also where a shell has started the worker in
    the background, and so has it ignore SIGQUIT."""
    before = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    request.addfinalizer(lambda: signal.signal(signal.SIGQUIT, before))
    (tmp_path / "sees.py").write_text(SEES)
    with open(tmp_path / "open", "w") as left_open:
        os.set_inheritable(left_open.fileno(), True)
        tree = start("-n", "1", serve=("sees",), mode=mode, WATCHED=str(tmp_path / "open"))
        first = queue.enqueue("sees.seen").result(30)
        server_of_first = eventually(tree.fork_server)
        assert "-m jobqueue.workers.forking.forkserver" not in " ".join(server_of_first.cmdline())
        server_of_first.kill()
        eventually(lambda: (it := tree.fork_server()) and it.pid != server_of_first.pid and tree.children())
        second = queue.enqueue("sees.seen").result(30)
    for one, other in zip(first, second, strict=True):
        assert [(name, one[name]) for name in one if one[name] != other[name]] == []
    assert "-P" in first[0]["flags"]
    assert first[0]["stdin"] == os.devnull
    assert first[0]["command"] == []


def launched(directory: Path, *flags: str, url: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "JOBQ_URL": url, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jobqueue.cli", "worker", *flags]
    return subprocess.Popen(command, env=env, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_a_worker_that_still_waits_for_its_store(tmp_path: Path, number: signal.Signals) -> None:
    process = launched(tmp_path, url=f"unix://{tmp_path}/nothing")
    try:
        copy = eventually(lambda: psutil.Process(process.pid).children())[0]
        process.send_signal(number)
        assert process.wait(30) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
        eventually(lambda: running_no_more(copy.pid))
    finally:
        process.kill()
        process.wait()


def test_nothing_is_left_of_a_worker_that_cannot_start(tmp_path: Path) -> None:
    process = launched(tmp_path, "--store-wait", "2", url=f"unix://{tmp_path}/nothing")
    try:
        copy = eventually(lambda: psutil.Process(process.pid).children())[0]
        assert process.wait(30) > 0
        eventually(lambda: running_no_more(copy.pid))
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_starts_without_it(
    server: Server, queue: Queue, tmp_path: Path, mode: str, number: signal.Signals
) -> None:
    """It is killed, or stopped for a while, before the supervisor needs it."""
    with server.stalled():
        process = launched(tmp_path, "--mode", mode, "-n", "1", url=server.url)
        try:
            copy = eventually(lambda: psutil.Process(process.pid).children())[0]
            copy.send_signal(number)
        except BaseException:
            process.kill()
            raise
    try:
        if number == signal.SIGSTOP:
            time.sleep(0.5)
            copy.send_signal(signal.SIGCONT)
        assert queue.enqueue("square", 3).result(30) == 9
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_a_program_that_calls_the_command_line_is_not_copied(server: Server, queue: Queue, tmp_path: Path) -> None:
    """It would be asked to go on as a fork server, with all that it has begun. The same holds where it has threads."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, jobqueue.cli\n"
        "os.register_at_fork(before=lambda: print('copied', flush=True))\n"
        "if __name__ == '__main__':\n"
        "    jobqueue.cli.main(['worker', '-n', '1', '--burst'])\n"
    )
    job = queue.enqueue("square", 3)
    env = {**os.environ, "JOBQ_URL": server.url, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(program)], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert job.result(1) == 9
    assert "copied" not in done.stdout


IMPORTED = """
import json, os, sys
from jobqueue.plugins.plugin import Plugin
class Imported(Plugin):
    def worker_start(self):
        with open(os.environ["SEEN"] + ".part", "w") as file:
            json.dump(sorted(sys.modules), file)
        os.rename(os.environ["SEEN"] + ".part", os.environ["SEEN"])
"""


def modules_of_the_supervisor(start: Start, tmp_path: Path) -> Any:
    (tmp_path / "imported.py").write_text(IMPORTED)
    start("--no-plugin", "all", "--plugin", "imported:Imported", "-n", "1", serve=(), SEEN=str(tmp_path / "seen"))
    return json.loads(eventually(lambda: lines(tmp_path / "seen"))[0])


MOST_MODULES = 500
DEPENDENCIES = {"click", "croniter", "hiredis", "jobqueue", "platformdirs", "psutil", "redis", "rq"}


def test_the_supervisor_imports_nothing_that_runs_a_job(start: Start, tmp_path: Path) -> None:
    """Nor anything that only the command line of other commands needs. Each module costs every worker memory."""
    imported = modules_of_the_supervisor(start, tmp_path)
    runs_jobs = ("child", "forking", "rq_classes", "rq_finish", "running")
    begins = tuple(f"jobqueue.workers.{package}" for package in runs_jobs)
    allowed = {"jobqueue.workers.forking", "jobqueue.workers.forking.prepare"}
    assert not [name for name in imported if name.startswith(begins) and name not in allowed]
    others = ("rich", "httpx", "jobqueue.compare", "jobqueue.producing.queue", "prometheus_client", "django", "sqlite3")
    assert not [name for name in imported if name.startswith(others)]
    counted = sys.stdlib_module_names | DEPENDENCIES  # more where extras are installed
    assert sum(name.partition(".")[0] in counted for name in imported) <= MOST_MODULES
