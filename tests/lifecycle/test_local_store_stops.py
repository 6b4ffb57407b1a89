"""The local store stops when its last user ends, however that ends; the processes of a removed directory end by
themselves."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from helpers import ROOT, eventually, program_path

from jobqueue.store.local.store import LocalStore

WATCHER = "local/watch.py"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    for process in processes_of(home):
        process.kill()


def with_words(home: Path) -> list[tuple[psutil.Process, list[str]]]:
    """Return servers and watchers of the directory with their command lines, which a process that ends just now does
    not have."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            named = any(str(home / "s") in word or str(home / "server.conf") in word for word in words)
            if named and process.status() != psutil.STATUS_ZOMBIE:
                found.append((process, words))
        except psutil.NoSuchProcess:
            continue
    return found


def processes_of(home: Path) -> list[psutil.Process]:
    return [process for process, _ in with_words(home)]


def watchers(home: Path) -> list[psutil.Process]:
    return [process for process, words in with_words(home) if any(WATCHER in word for word in words)]


def servers(home: Path) -> list[psutil.Process]:
    return [process for process, words in with_words(home) if not any(WATCHER in word for word in words)]


def begin(home: Path, *argv: str) -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if not k.endswith("_URL")}
    env |= {"JOBQ_HOME": str(home), "PYTHONPATH": program_path(ROOT, ROOT / "tests")}
    return subprocess.Popen(
        [sys.executable, *argv],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


COMMANDS = {
    "submit": ("-m", "jobqueue.cli", "submit", "square", "1", "--wait"),
    "info": ("-m", "jobqueue.cli", "info", "--watch"),
    "worker": ("-m", "jobqueue.cli", "worker", "-n", "1"),
    "executor": (
        "-c",
        "import time\nfrom jobqueue import JobExecutor\nwith JobExecutor('thread', workers=1) as e:\n"
        "    e.submit('square', 2).result(); time.sleep(600)",
    ),
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("command", COMMANDS)
def test_the_store_stops_with_its_last_user_however_that_ends(home: Path, command: str, number: int) -> None:
    last = begin(home, *COMMANDS[command])
    eventually(lambda: servers(home))
    if command == "executor":
        eventually(lambda: psutil.Process(last.pid).children())
    last.send_signal(number)
    last.communicate(timeout=60)
    eventually(lambda: not processes_of(home), 40)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_command_ended_by_a_signal_names_it_and_releases_its_lease(home: Path, number: int, code: int) -> None:
    """The command releases its lease itself and does not leave that to the watcher: the server ends with the
    command."""
    command = begin(home, *COMMANDS["submit"])
    eventually(lambda: servers(home))
    eventually(lambda: LocalStore(home).status().waiting)
    command.send_signal(number)
    _, said = command.communicate(timeout=30)
    assert command.returncode == code
    assert "Traceback" not in said
    assert not servers(home)


def test_jobs_are_there_again_after_a_kill_of_the_store(home: Path) -> None:
    last = begin(home, *COMMANDS["submit"])
    eventually(lambda: servers(home))
    eventually(lambda: LocalStore(home).status().waiting)
    last.kill()
    last.communicate()
    eventually(lambda: not processes_of(home))
    with_worker = begin(home, "-m", "jobqueue.cli", "worker", "-n", "1", "--burst")
    assert "1 job done" in with_worker.communicate(timeout=60)[1]


def test_a_user_that_is_killed_while_the_store_starts(home: Path) -> None:
    for pause in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4):
        command = begin(home, *COMMANDS["submit"])
        time.sleep(pause)
        command.kill()
        command.communicate()
    eventually(lambda: not processes_of(home), 40)


@pytest.mark.parametrize("pause", [0.05, 0.2, 0.4])
def test_a_stop_during_the_start_counts_as_a_success(home: Path, pause: float) -> None:
    """A stop of a worker that starts counts as a success, as it held no job. Before Python runs our code, the signal
    ends the process."""
    worker = begin(home, *COMMANDS["worker"])
    time.sleep(pause)
    worker.terminate()
    _, said = worker.communicate(timeout=60)
    assert worker.returncode == 0 or (worker.returncode == -signal.SIGTERM and not said)
    assert "Traceback" not in said
    eventually(lambda: not processes_of(home))


def test_a_kept_server_stays_when_its_last_user_is_killed(home: Path) -> None:
    store = LocalStore(home)
    store.ensure()
    store.release(keep=True)
    last = begin(home, *COMMANDS["submit"])
    eventually(lambda: store.status().waiting)
    last.kill()
    last.communicate()
    time.sleep(2.5)  # for longer than two looks: nothing must happen
    assert servers(home)
    assert store.stop()
    eventually(lambda: not processes_of(home))


@pytest.mark.parametrize("keep", [False, True])
def test_a_server_whose_directory_was_removed_ends(home: Path, keep: bool) -> None:
    """The server ends at once if it is not used, else with its last user. A new server in a directory of that name
    continues."""
    user = LocalStore(home)
    user.ensure()
    assert (home / "watch").read_bytes(), "the watcher has no connection yet: it could not end this server"
    (old,) = servers(home)
    if keep:
        user.release(keep=True)
    shutil.rmtree(home)
    if not keep:
        new = LocalStore(home)
        new.ensure()
        user.forget()  # as if it was killed
        eventually(lambda: not old.is_running() or old.status() == psutil.STATUS_ZOMBIE)
        assert len(servers(home)) == 1
        new.release()
    eventually(lambda: not processes_of(home))


def test_only_one_watcher_runs(home: Path) -> None:
    """There is one watcher, however many users and killed servers there were; a command that finds no watcher starts
    one."""
    users = [LocalStore(home) for _ in range(3)]
    for user in users:
        user.ensure()
    for _ in range(3):
        servers(home)[0].kill()
        eventually(lambda: not servers(home))
        users[0].ensure()
        eventually(lambda: len(watchers(home)) == 1)
    watchers(home)[0].kill()
    eventually(lambda: not watchers(home))
    users[1].ensure()
    eventually(lambda: len(watchers(home)) == 1)
    for user in users:
        user.forget()
    eventually(lambda: not processes_of(home))
