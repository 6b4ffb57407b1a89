"""WorkerProcess says when its worker is ready and why it died, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from helpers import ROOT, Server, eventually, held, lines, submit

from jobqueue.errors import WorkerDied
from jobqueue.executor.worker_process import WorkerProcess, environment, family_of
from jobqueue.producing.queue import Queue
from jobqueue.store.open import open_store


@pytest.fixture
def env(server: Server) -> dict[str, str]:
    with open_store(server.url) as store:
        return environment(store) | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


def session(pid: int) -> list[psutil.Process]:
    """Return the living processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (OSError, psutil.NoSuchProcess):
            continue
    return found


def test_a_worker_process_runs_jobs_and_leaves_nothing(
    server: Server, queue: Queue, env: dict[str, str], mode: str
) -> None:
    with WorkerProcess(["default"], mode=mode, number=2, modules=["samples"], env=env) as worker:
        worker.ready()
        assert [job.result(timeout=30) for job in submit(queue, "samples.ok", [(1,), (2,)])] == [1, 2]
        assert worker.alive
        worker.check()
    assert worker.stop() == 0
    assert not worker.alive
    assert session(worker.pid) == []
    assert held(server.client) == {}


def test_a_worker_process_that_does_not_stop_is_killed(queue: Queue, env: dict[str, str], tmp_path: Path) -> None:
    record = str(tmp_path / "record")
    with WorkerProcess(["default"], number=1, modules=["samples"], env=env) as worker:
        submit(queue, "samples.note_and_nap", [(record, "a", 60)])
        eventually(lambda: lines(record))
        os.kill(worker.pid, signal.SIGSTOP)
        assert worker.stop(timeout=0.1) == -signal.SIGKILL
    assert session(worker.pid) == []


def test_the_reason_of_a_death_is_given(env: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with WorkerProcess(["default"], modules=["no_such_module"], env=env, log=log) as worker:
        with pytest.raises(WorkerDied, match=r"left with exit code 2: .*no_such_module") as found:
            worker.ready()
        assert found.value.exit_code_of_worker == 2
    assert "no_such_module" in log.read_text()
    assert "no_such_module" in worker.last_words()


def test_stop_before_start_and_twice(env: dict[str, str]) -> None:
    worker = WorkerProcess(["default"], env=env)
    assert worker.stop() is None
    worker.check()
    with worker:
        pass
    assert worker.stop() == worker.kill()


def test_after_a_crash_of_the_supervisor_its_processes_end(env: dict[str, str], tmp_path: Path) -> None:
    worker = WorkerProcess(["default"], number=1, modules=["samples"], env=env, directory=tmp_path)
    assert worker.exit_code is None
    worker.crash()
    worker.terminate()  # before the start: nothing to do
    worker.start()
    worker.ready()
    assert (worker.exit_code, len(list(tmp_path.iterdir()))) == (None, 1)
    family = family_of(worker.pid)
    worker.crash()
    assert worker.exit_code == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []
    eventually(lambda: not any(process.is_running() for process in family))  # they end by themselves
    worker.crash()
    assert worker.stop() == -signal.SIGKILL


def test_several_stop_at_the_same_time(server: Server, env: dict[str, str]) -> None:
    workers = [WorkerProcess(["default"], number=1, modules=["samples"], env=env) for _ in range(2)]
    try:
        for worker in workers:
            worker.start().ready()
        for worker in workers:
            worker.terminate()
        eventually(lambda: not any(worker.alive for worker in workers))
    finally:
        assert [worker.stop() for worker in workers] == [0, 0]
    assert held(server.client) == {}


PARENT = """
import sys, time
from jobqueue.executor.worker_process import WorkerProcess
worker = WorkerProcess(["default"], number=1, modules=["samples"]).start()
worker.ready()
print(worker.pid, flush=True)
time.sleep(600)
"""


def test_a_worker_process_does_not_outlive_its_parent(server: Server, env: dict[str, str]) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert session(pid)
    finally:
        parent.kill()
        parent.communicate()
    eventually(lambda: not session(pid))
    eventually(lambda: held(server.client) == {})
