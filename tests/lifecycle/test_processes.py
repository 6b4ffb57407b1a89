"""A job's process is its own: copies that it forks, what it prints, what it leaves for its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import rq
from conftest import PASSED, Start
from helpers import Server, Tree, assert_nothing_left, eventually, lines, running_no_more
from rq import Callback

from jobqueue.producer import Queue
from jobqueue.serializers import JSON

SERVE = ("samples", "samples_processes")

SHAPES = {"thread": ("-n", "4"), "process": ("-n", "1"), "threads in processes": ("-n", "1", "--threads", "2")}

Run = Callable[..., Any]


@pytest.fixture(params=["thread", "process", "threads in processes", "SimpleWorker", "Worker"])
def place(request: pytest.FixtureRequest) -> str:
    """Where jobs run: the modes, and RQ's classes on our engine."""
    return str(request.param)


@pytest.fixture
def start_in(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[Run]:
    """``start_in(place, *flags)``: a worker in this place, with one process that runs jobs."""
    trees: list[Tree] = []

    def begin(place: str, *flags: str, **env: str) -> Tree:
        if place in ("SimpleWorker", "Worker"):
            argv = ["--url", server.url, "--worker-class", f"workers.rq_worker.{place}", "-S", "json", *flags]
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
    """Wait for its end."""
    eventually(lambda: job.get_status(refresh=True).value in ("finished", "failed"))
    found = job.latest_result()
    assert found is not None
    assert found.exc_string is None, found.exc_string
    return found.return_value


# -- copies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["fork_and", "fork_in_a_coroutine"])
def test_a_copy_ends_where_the_job_ends(
    start_in: Run, place: str, jobs: rq.Queue, tmp_path: Path, function: str
) -> None:
    """It is no second worker: it runs nothing, and what comes runs once."""
    record = str(tmp_path / "record")
    start_in(place)
    copies = [value_of(jobs.enqueue(f"samples_processes.{function}", how)) for how in ("exit", "return", "raise")]
    eventually(lambda: all(map(running_no_more, copies)), 10)
    later = [jobs.enqueue("samples.note", record, str(n)) for n in range(100)]
    assert [value_of(job) for job in later] == [str(n) for n in range(100)]
    assert sorted(lines(record), key=int) == [str(n) for n in range(100)]


def test_a_copy_exits_as_a_program_does(start_in: Run, place: str, jobs: rq.Queue) -> None:
    tree = start_in(place)
    codes = [value_of(jobs.enqueue("samples_processes.fork_and_wait", how)) for how in ("exit", "return", "raise")]
    assert codes == [0, 0, 1]
    assert tree.log.count("ValueError: only in the copy") == 1


@pytest.mark.parametrize("fails", [False, True])
def test_a_copy_ends_where_a_callback_ends(
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


def test_a_copy_ends_where_an_exception_handler_ends(start: Start, mode: str, queue: Queue, tmp_path: Path) -> None:
    record = str(tmp_path / "record")
    start("-n", "1", "--exception-handler", "samples_processes.fork_in_failure", mode=mode, serve=SERVE)
    queue.enqueue("samples_processes.fail_with", record)
    (copy,) = eventually(lambda: lines(record))
    eventually(lambda: running_no_more(int(copy.split()[1])), 10)
    assert queue.enqueue("samples.ok", 1).result(30) == 1


def test_a_copy_ends_where_the_import_ends(start: Start, mode: str, queue: Queue, tmp_path: Path) -> None:
    """It would be a second fork server."""
    (tmp_path / "forks_at_import.py").write_text("import os\npid = os.fork()\ndef f(): return pid\n")
    start("-n", "1", mode=mode, serve=("forks_at_import",))
    copy = queue.enqueue("forks_at_import.f").result(30)
    eventually(lambda: running_no_more(copy), 10)


# -- output ----------------------------------------------------------------------------------------------------------


def test_output_is_there_line_by_line_and_once(start_in: Run, place: str, jobs: rq.Queue) -> None:
    """Although it goes to a file; what stood in the buffer at a fork is not written again by each child."""
    tree = start_in(place, PYTHONUNBUFFERED="")
    for n in range(3):
        value_of(jobs.enqueue("samples_processes.say", f"line {n} of a job"))
        eventually(lambda n=n: f"line {n} of a job\n" in tree.log, 5)  # type: ignore[misc]
    assert tree.log.count("the module is imported") == 1


def test_a_kill_loses_no_line(start: Start, mode: str, queue: Queue) -> None:
    tree = start("-n", "1", mode=mode, serve=SERVE, PYTHONUNBUFFERED="")
    queue.enqueue("samples_processes.say", "before the kill").result(30)
    tree.children()[0].kill()
    assert queue.enqueue("samples.ok", 1).result(30) == 1
    assert "before the kill\n" in tree.log
    eventually(lambda: len(tree.children()) == 1)
    assert tree.log.count("the module is imported") == 1


# -- the end of a process --------------------------------------------------------------------------------------------


def test_exit_handlers_of_jobs_run_at_the_orderly_end(
    start_in: Run, place: str, jobs: rq.Queue, tmp_path: Path
) -> None:
    record = str(tmp_path / "record")
    tree = start_in(place)
    value_of(jobs.enqueue("samples_processes.at_exit", record, "registered in a job"))
    assert tree.stop() == 0
    assert lines(record) == ["registered in a job"]


def test_exit_handlers_of_a_module_run_once(start: Start, mode: str, queue: Queue, tmp_path: Path) -> None:
    """In the process that imported it, not in each that was forked from that."""
    record = tmp_path / "record"
    code = "import atexit, os, tempfile\nd = tempfile.TemporaryDirectory()\nopened = os.getpid()\n@atexit.register\n"
    code += f"def end():\n    open({str(record)!r}, 'a').write(f'{{os.getpid() == opened}}\\n')\n"
    (tmp_path / "registers.py").write_text(code + "def there(): return os.path.isdir(d.name)\n")
    tree = start("-n", "2", "--max-jobs", "1", mode=mode, serve=("registers",))
    for _ in range(5):  # also after a child has left
        assert queue.enqueue("registers.there").result(30) is True
    assert tree.stop() == 0
    assert lines(record) == ["True"]


# -- asyncio ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["process", "SimpleWorker", "Worker"], indirect=True)
def test_a_plain_job_finds_asyncio_as_if_nothing_had_happened(start_in: Run, place: str, jobs: rq.Queue) -> None:
    """After a coroutine, after asyncio.run in a job, and after a job that closed its loop. (In a thread that is not the
    main one asyncio gives no loop.)"""
    start_in(place)
    for before in ("samples_processes.fork_in_a_coroutine", "samples_processes.run_a_loop", "samples.ok"):
        value_of(jobs.enqueue(before, "exit") if "fork" in before else jobs.enqueue(before))
        assert value_of(jobs.enqueue("samples_processes.current_loop")) == "a loop"
