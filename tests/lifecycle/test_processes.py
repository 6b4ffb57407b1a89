"""The process in which a job runs: copies that the job forks, its output, and what it registers for the end of the
process."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import rq
from conftest import PASSED, Start
from helpers import ROOT, Server, Tree, assert_nothing_left, eventually, lines, program_path, running_no_more
from rq import Callback
from rq.command import send_stop_job_command

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.serializers import JSON

SERVE = ("samples", "samples_processes")

SHAPES = {"thread": ("-n", "4"), "process": ("-n", "1"), "threads in processes": ("-n", "1", "--threads", "2")}

Run = Callable[..., Any]


@pytest.fixture(params=["thread", "process", "threads in processes", "SimpleWorker", "Worker"])
def place(request: pytest.FixtureRequest) -> str:
    """The place where jobs run: each mode, and RQ's classes on our engine."""
    return str(request.param)


@pytest.fixture
def start_in(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[Run]:
    """``start_in(place, *flags)`` starts a worker there, with one process that runs jobs."""
    trees: list[Tree] = []

    def begin(place: str, *flags: str, **env: str) -> Tree:
        if place in ("SimpleWorker", "Worker"):
            argv = ["--url", server.url, "--worker-class", f"jobqueue.rq.{place}", "-S", "json", *flags]
            trees.append(Tree(server.url, tmp_path, argv, env, command=("rq.cli", "worker")))
            return trees[-1]
        argv = ["--mode", "thread" if place == "thread" else "process", *SHAPES[place], *flags]
        argv += [flag for name in SERVE for flag in ("-I", name)]
        trees.append(Tree(server.url, tmp_path, argv, env))
        return trees[-1]

    try:
        yield begin
        if request.node.stash.get(PASSED, False):
            for tree in trees:
                assert tree.stop() == 0
            assert_nothing_left(trees, server.client)
    finally:
        for tree in trees:
            tree.destroy()


@pytest.fixture
def jobs(store: redis.Redis) -> rq.Queue:
    return rq.Queue(connection=store, serializer=JSON)


def value_of(job: rq.job.Job) -> Any:
    """Wait for the job's end; return its result."""
    eventually(lambda: job.get_status(refresh=True).value in ("finished", "failed"))
    found = job.latest_result()
    assert found is not None
    assert found.exc_string is None, found.exc_string
    return found.return_value


# -- copies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["fork_and", "fork_in_a_coroutine"])
def test_a_forked_copy_ends_where_the_job_ends(
    start_in: Run, place: str, jobs: rq.Queue, tmp_path: Path, function: str
) -> None:
    """The copy does not act as a second worker: it runs no job, and each later job runs once."""
    record = str(tmp_path / "record")
    start_in(place)
    copies = [value_of(jobs.enqueue(f"samples_processes.{function}", how)) for how in ("exit", "return", "raise")]
    eventually(lambda: all(map(running_no_more, copies)), 10)
    later = [jobs.enqueue("samples.note", record, str(n)) for n in range(100)]
    assert [value_of(job) for job in later] == [str(n) for n in range(100)]
    assert sorted(lines(record), key=int) == [str(n) for n in range(100)]


def test_a_forked_copy_exits_as_a_program_does(start_in: Run, place: str, jobs: rq.Queue) -> None:
    tree = start_in(place)
    codes = [value_of(jobs.enqueue("samples_processes.fork_and_wait", how)) for how in ("exit", "return", "raise")]
    assert codes == [0, 0, 1]
    assert tree.log.count("ValueError: only in the copy") == 1


@pytest.mark.parametrize("fails", [False, True])
def test_a_forked_copy_ends_where_a_callback_ends(
    start_in: Run, place: str, jobs: rq.Queue, tmp_path: Path, fails: bool
) -> None:
    record = str(tmp_path / "record")
    start_in(place)
    job = jobs.enqueue(
        "samples_processes.fail_with" if fails else "samples.ok",
        record,
        on_success=Callback("samples_processes.fork_in_success"),
        on_failure=Callback("samples_processes.fork_in_failure"),
    )
    eventually(lambda: job.get_status(refresh=True).value == ("failed" if fails else "finished"))
    (copy,) = eventually(lambda: {int(line.split()[1]) for line in lines(record)} - {0})
    eventually(lambda: running_no_more(copy), 10)
    assert value_of(jobs.enqueue("samples.ok", 1)) == 1


def test_a_forked_copy_ends_where_an_exception_handler_ends(
    start: Start, mode: str, queue: Queue, tmp_path: Path
) -> None:
    record = str(tmp_path / "record")
    start("-n", "1", "--exception-handler", "samples_processes.fork_in_failure", mode=mode, serve=SERVE)
    queue.enqueue("samples_processes.fail_with", record)
    (copy,) = eventually(lambda: lines(record))
    eventually(lambda: running_no_more(int(copy.split()[1])), 10)
    assert queue.enqueue("samples.ok", 1).result(30) == 1


def test_a_forked_copy_ends_where_the_import_ends(start: Start, mode: str, queue: Queue, tmp_path: Path) -> None:
    """A copy that lived on would be a second fork server."""
    (tmp_path / "forks_at_import.py").write_text("import os\npid = os.fork()\ndef f(): return pid\n")
    start("-n", "1", mode=mode, serve=("forks_at_import",))
    copy = queue.enqueue("forks_at_import.f").result(30)
    eventually(lambda: running_no_more(copy), 10)


# -- output ----------------------------------------------------------------------------------------------------------


def test_output_is_written_line_by_line_and_once(start_in: Run, place: str, jobs: rq.Queue) -> None:
    """This holds for output into a file too; text that was in the buffer at a fork is not written again by each
    child."""
    tree = start_in(place, PYTHONUNBUFFERED="")
    for n in range(3):
        value_of(jobs.enqueue("samples_processes.say", f"line {n} of a job"))
        eventually(lambda n=n: f"line {n} of a job\n" in tree.log, 5)  # type: ignore[misc]
    assert tree.log.count("the module is imported") == 1


def test_a_kill_loses_no_line_of_output(start: Start, mode: str, queue: Queue) -> None:
    tree = start("-n", "1", mode=mode, serve=SERVE, PYTHONUNBUFFERED="")
    queue.enqueue("samples_processes.say", "before the kill").result(30)
    tree.children()[0].kill()
    assert queue.enqueue("samples.ok", 1).result(30) == 1
    assert "before the kill\n" in tree.log
    eventually(lambda: len(tree.children()) == 1)
    assert tree.log.count("the module is imported") == 1


# -- the end of a process --------------------------------------------------------------------------------------------


def test_exit_handlers_of_jobs_run_when_the_worker_stops(
    start_in: Run, place: str, jobs: rq.Queue, tmp_path: Path
) -> None:
    record = str(tmp_path / "record")
    tree = start_in(place)
    value_of(jobs.enqueue("samples_processes.at_exit", record, "registered in a job"))
    assert tree.stop() == 0
    assert lines(record) == ["registered in a job"]


def test_exit_handlers_of_a_module_run_once(start: Start, mode: str, queue: Queue, tmp_path: Path) -> None:
    """They run in the process that imported the module, not in each that was forked from it."""
    record = tmp_path / "record"
    code = "import atexit, os, tempfile\nd = tempfile.TemporaryDirectory()\nopened = os.getpid()\n@atexit.register\n"
    code += f"def end():\n    open({str(record)!r}, 'a').write(f'{{os.getpid() == opened}}\\n')\n"
    (tmp_path / "registers.py").write_text(code + "def there(): return os.path.isdir(d.name)\n")
    tree = start("-n", "2", "--max-jobs", "1", mode=mode, serve=("registers",))
    for _ in range(5):  # also after a child has ended
        assert queue.enqueue("registers.there").result(30) is True
    assert tree.stop() == 0
    assert lines(record) == ["True"]


@pytest.mark.parametrize("busy_for", [0, 600])
def test_a_pool_that_a_module_keeps_ends_with_the_worker(
    start_in: Run, place: str, jobs: rq.Queue, busy_for: float
) -> None:
    """Its unfinished work is not waited for, except where the process is the user's own: there Python waits for it."""
    if place == "SimpleWorker" and busy_for:
        pytest.skip("Python itself waits for what was submitted")
    tree = start_in(place)
    pids = value_of(jobs.enqueue("samples_processes.use_a_pool", busy_for))
    assert len(pids) == 2
    assert tree.stop(30) == 0
    eventually(lambda: all(map(running_no_more, pids)), 10)
    assert "Traceback" not in tree.log, tree.log


# -- asyncio ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["process", "SimpleWorker", "Worker"], indirect=True)
def test_a_plain_job_finds_asyncio_unused(start_in: Run, place: str, jobs: rq.Queue) -> None:
    """A plain job finds no trace of a coroutine, of asyncio.run in a job, or of a job that closed its loop. (In a
    thread that is not the main one, asyncio has no loop.)"""
    start_in(place)
    for before in ("samples_processes.fork_in_a_coroutine", "samples_processes.run_a_loop", "samples.ok"):
        value_of(jobs.enqueue(before, "exit") if "fork" in before else jobs.enqueue(before))
        assert value_of(jobs.enqueue("samples_processes.current_loop")) == "a loop"


# -- what jobs start -------------------------------------------------------------------------------------------------


def programs(tree: Tree, record: str) -> list[str]:
    """Return the processes that jobs started and that still run, without the worker's own."""
    return sorted(name for _, name in _programs(tree, record))


def _programs(tree: Tree, record: str) -> list[tuple[psutil.Process, str]]:
    names = {int(pid): how for pid, how in (line.split(" ", 1) for line in lines(record) if line[0].isdigit())}
    found = []
    for process in tree.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.pid in names or process.name() == "sleep":
                found.append((process, names.get(process.pid, "sleep")))
    return found


def all_are_there(tree: Tree, record: str) -> bool:
    return programs(tree, record) == [
        *("a forked daemon", "a program", "a session's", "a shell's", "multiprocessing", "sleep", "sleep", "sleep")
    ]


def what_stays(place: str) -> list[str]:
    """Return the programs that may stay: with threads, and in a process that is not ours, daemons of a shell and of a
    fork cannot be assigned to a job."""
    return [] if place in ("process", "Worker") else ["a forked daemon", "sleep"]


@pytest.mark.parametrize(("end", "how"), [("time limit", "wait for one"), ("stop", "sleep")])
def test_programs_of_a_job_end_when_the_job_is_ended(
    start_in: Run, place: str, store: redis.Redis, jobs: rq.Queue, tmp_path: Path, end: str, how: str
) -> None:
    """They end also if the job waits for a program in a thread, which no exception wakes: its thread is not written off
    then."""
    record = str(tmp_path / "record")
    tree = start_in(place)
    job = jobs.enqueue(
        "samples_processes.start_programs_and", record, how, job_timeout=2 if end == "time limit" else 60
    )
    eventually(lambda: lines(record)[-1:] and "forked daemon" in lines(record)[-1])
    if end == "stop":
        eventually(lambda: job.get_status(refresh=True).value == "started")
        send_stop_job_command(store, job.id)
    eventually(lambda: job.get_status(refresh=True).value in ("failed", "stopped"))
    eventually(lambda: programs(tree, record) == what_stays(place), 10)
    assert value_of(jobs.enqueue("samples.ok", 1)) == 1
    assert "written off" not in tree.log
    sweep(tree, record)


def test_programs_of_a_callback_end_at_its_limit(start_in: Run, place: str, jobs: rq.Queue, tmp_path: Path) -> None:
    record = str(tmp_path / "record")
    tree = start_in(place)
    hangs = Callback("samples_processes.start_a_program_and_hang", timeout=1)
    job = jobs.enqueue("samples.ok", record, on_success=hangs)
    eventually(lambda: job.get_status(refresh=True).value == "failed")
    assert lines(record)
    eventually(lambda: not programs(tree, record), 10)


@pytest.mark.spread("place")
@pytest.mark.parametrize("place", ["thread", "process", "Worker"], indirect=True)
@pytest.mark.parametrize("end", ["dies", "is killed", "holds on"])
def test_programs_of_jobs_end_with_the_process_of_the_jobs(
    start_in: Run, place: str, store: redis.Redis, jobs: rq.Queue, tmp_path: Path, end: str
) -> None:
    """All programs end, in every mode: none of them may still run when the jobs run again."""
    record = str(tmp_path / "record")
    flags = [] if place == "Worker" else ["--on-crash", "fail"]
    tree = start_in(place, *flags)
    how = {"dies": "die", "is killed": "sleep", "holds on": "hold on"}[end]
    limit = 2 if end == "holds on" and place != "thread" else 60
    job = jobs.enqueue("samples_processes.start_programs_and", record, how, job_timeout=limit)
    if end != "dies":
        eventually(lambda: all_are_there(tree, record))
    if end == "is killed" or (end == "holds on" and place == "thread"):
        child_of(tree, place).kill()
    eventually(lambda: job.get_status(refresh=True).value == "failed")
    eventually(lambda: not programs(tree, record), 10)
    assert value_of(jobs.enqueue("samples.ok", 1)) == 1


def sweep(tree: Tree, record: str) -> None:
    """End the processes that have outlived the test."""
    for process, _ in _programs(tree, record):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def child_of(tree: Tree, place: str) -> psutil.Process:
    """Return the process that runs jobs."""
    return tree._children_of(tree.pid)[0] if place == "Worker" else tree.children()[0]


@pytest.mark.parametrize("victim", ["supervisor", "fork server"])
def test_programs_of_jobs_end_with_the_worker(
    start: Start, mode: str, jobs: rq.Queue, tmp_path: Path, victim: str
) -> None:
    record = str(tmp_path / "record")
    tree = start("-n", "1", "--on-crash", "fail", mode=mode, serve=SERVE, JOBQ_LEASE="1")
    job = jobs.enqueue("samples_processes.start_programs_and", record, "sleep")
    eventually(lambda: all_are_there(tree, record))
    eventually(lambda: job.get_status(refresh=True).value == "started")
    if victim == "supervisor":
        tree.kill()
        eventually(lambda: not tree.processes())
        start("-n", "1", "--on-crash", "fail", mode=mode, serve=SERVE, JOBQ_LEASE="1")
    else:
        tree.fork_server().kill()  # type: ignore[union-attr]
        eventually(lambda: set(programs(tree, record)) <= {"a forked daemon"}, 10)  # its job is not known
    eventually(lambda: job.get_status(refresh=True).value == "failed")
    sweep(tree, record)


def test_programs_that_a_finished_job_left_continue_to_run(
    start: Start, mode: str, jobs: rq.Queue, tmp_path: Path
) -> None:
    """As the job ended by itself, neither the next job's death nor the worker's stop ends its programs."""
    record = str(tmp_path / "record")
    tree = start("-n", "1", mode=mode, serve=SERVE)
    value_of(jobs.enqueue("samples_processes.start_programs", record))
    assert all_are_there(tree, record)
    time.sleep(0.05)  # the kernel notes starts in hundredths of a second
    late = jobs.enqueue("samples.hang", str(tmp_path / "hang"), 1, "spin", 600, job_timeout=1)
    eventually(lambda: late.get_status(refresh=True).value == "failed")
    assert all_are_there(tree, record)
    assert tree.stop() == 0
    assert all_are_there(tree, record)
    sweep(tree, record)


def test_orphans_are_collected(start: Start, mode: str, jobs: rq.Queue, tmp_path: Path) -> None:
    """The fork server collects orphans, and the supervisor if that is gone (or if it is process 1 of a container)."""
    record = str(tmp_path / "record")
    tree = start("-n", "1", mode=mode, serve=SERVE)
    value_of(jobs.enqueue("samples_processes.start_programs", record))
    daemons = [p for p, name in _programs(tree, record) if p.ppid() == tree.fork_server().pid]  # type: ignore[union-attr]
    assert len(daemons) == 2
    daemons[0].kill()
    eventually(lambda: not daemons[0].is_running())
    tree.fork_server().kill()  # type: ignore[union-attr]
    eventually(lambda: daemons[1].ppid() == tree.pid)
    daemons[1].kill()
    eventually(lambda: not daemons[1].is_running())
    assert value_of(jobs.enqueue("samples.ok", 1)) == 1
    sweep(tree, record)


# -- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["thread", "process", "Worker"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_job_that_signals_its_group_stops_no_worker(
    start_in: Run, place: str, jobs: rq.Queue, tmp_path: Path, number: int
) -> None:
    tree = start_in(place)
    assert value_of(jobs.enqueue("samples_processes.signal_own_group", int(number))) == "still there"
    script = "trap 'kill 0' EXIT; sleep .2"
    value_of(jobs.enqueue("samples_processes.run_program", str(tmp_path / "record"), "bash", "-c", script))
    assert value_of(jobs.enqueue("samples.ok", 1)) == 1
    assert "stop" not in tree.log.lower()


@pytest.mark.spread("place")
@pytest.mark.parametrize("place", ["thread", "process", "Worker"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_lets_the_programs_of_jobs_finish(
    start_in: Run, place: str, jobs: rq.Queue, tmp_path: Path, number: int
) -> None:
    """A terminal sends the signal to the whole group, at Ctrl-C and when it is closed."""
    record = str(tmp_path / "record")
    tree = start_in(place)
    job = jobs.enqueue("samples_processes.run_program", record, "sleep", "1.5")
    eventually(lambda: job.get_status(refresh=True).value == "started" and lines(record))
    tree.send_to_group(number)
    assert tree.wait() == 0
    assert job.get_status(refresh=True).value == "finished"
    assert job.return_value() == 0


@pytest.mark.parametrize("place", ["thread", "process", "Worker"], indirect=True)
def test_ctrl_c_on_a_terminal_reaches_only_the_worker(
    server: Server, place: str, jobs: rq.Queue, tmp_path: Path
) -> None:
    """Ctrl-C reaches only the worker; a job has no terminal to read from, and can stop no other process by it."""
    record = str(tmp_path / "record")
    with on_a_terminal(server, place) as (process, terminal):
        assert value_of(jobs.enqueue("samples_processes.read_terminal")).startswith("no terminal")
        job = jobs.enqueue("samples_processes.run_program", record, "sleep", "1.5")
        eventually(lambda: job.get_status(refresh=True).value == "started" and lines(record))
        os.write(terminal, b"\x03")
        assert process.wait(30) == 0
        assert job.return_value(refresh=True) == 0


def test_ctrl_backslash_interrupts_running_jobs(server: Server, mode: str, jobs: rq.Queue, tmp_path: Path) -> None:
    """Ctrl-backslash acts as Ctrl-C twice: running jobs are given back."""
    with on_a_terminal(server, mode) as (process, terminal):
        job = jobs.enqueue("samples.nap", 600)
        eventually(lambda: job.get_status(refresh=True).value == "started")
        os.write(terminal, b"\x1c")
        assert process.wait(30) == 0
        assert job.get_status(refresh=True).value == "queued"


def test_ctrl_z_suspends_the_worker_and_its_jobs(server: Server, mode: str, jobs: rq.Queue, tmp_path: Path) -> None:
    """The worker and its jobs are suspended, and continue together."""
    record = str(tmp_path / "record")
    with on_a_terminal(server, mode) as (process, terminal):
        job = jobs.enqueue("samples.wait_for", record, 1, str(tmp_path / "gate"))
        eventually(lambda: lines(record))
        family = [
            p
            for p in psutil.Process(process.pid).children(recursive=True)
            if not re.search("fork ?server", " ".join(p.cmdline()))
        ]
        os.write(terminal, b"\x1a")
        stopped = [psutil.Process(process.pid), *(p for p in family if p.children() == [])]
        eventually(lambda: all(p.status() == psutil.STATUS_STOPPED for p in stopped))
        os.kill(process.pid, signal.SIGCONT)
        (tmp_path / "gate").touch()
        assert value_of(job) == 1
        os.write(terminal, b"\x03")
        assert process.wait(30) == 0


@contextlib.contextmanager
def on_a_terminal(server: Server, place: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a worker in the foreground of its own terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "jobqueue.cli", "worker", "--url", server.url, "-I", "samples"]
    command += ["-I", "samples_processes", "--mode", place, "-n", "1"]
    if place == "Worker":
        command = [sys.executable, "-m", "rq.cli", "worker", "--url", server.url, "-S", "json"]
        command += ["--worker-class", "jobqueue.rq.Worker"]
    paths = program_path(ROOT, ROOT / "tests")
    # a session leader whose first terminal this is, and the leader of its foreground group
    script = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *command],
        env={**os.environ, "PYTHONPATH": paths},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    drain = threading.Thread(target=_drain, args=[ours], daemon=True)
    drain.start()
    family: list[psutil.Process] = []
    try:
        yield process, ours
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
        for number in (signal.SIGCONT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
        process.wait()
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        os.close(ours)


def _drain(terminal: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(terminal, 4096):
            pass


# -- words -----------------------------------------------------------------------------------------------------------


def test_the_log_does_not_blame_a_job_for_a_fenced_idle_child(start: Start, mode: str, queue: Queue) -> None:
    tree = start("-n", "1", mode=mode, serve=SERVE)
    assert queue.enqueue("samples.ok", 1).result(30) == 1
    queue.connection.delete(keys.OWNERS)
    eventually(lambda: queue.enqueue("samples.ok", 2).result(30) == 2 and "counted as dead" in tree.log)
    assert "that ran this job" not in tree.log
