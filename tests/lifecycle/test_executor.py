"""What JobExecutor guarantees beyond concurrent.futures: which workers it uses, what they may run, what happens when
processes die, that nothing is left behind."""

from __future__ import annotations

import concurrent.futures as cf
import gc
import operator
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import samples
import samples_rq
from conftest import Start
from helpers import ROOT, Server, eventually, held, lines, program_path, status

from jobqueue import BrokenWorkers, JobExecutor, JobFailed, NotSerializable, StoreUnreachable, TaskNotFound, UsageError
from jobqueue.admin.control import pause, resume
from jobqueue.executor.collector import Collector
from jobqueue.executor.remote_error import RemoteTraceback
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.words import TITLE

LONG = 60.0


def workers_of(pid: int) -> list[psutil.Process]:
    """Return the supervisors that a process has started."""
    try:
        return [p for p in psutil.Process(pid).children() if is_supervisor(command(p))]
    except psutil.NoSuchProcess:
        return []


def is_supervisor(command: list[str]) -> bool:
    """Return whether a process is a supervisor, by its arguments or by the title that replaces them with
    setproctitle."""
    return {"worker", "--private"} <= set(command) or " ".join(command).startswith(f"{TITLE}supervisor")


def command(process: psutil.Process) -> list[str]:
    """Return the arguments; none of a process that has ended."""
    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:
        return []


def traces(server: Server) -> list[str]:
    """Return what executors have left in the store."""
    known = ("executor", ":job:", ":results:")
    return [key.decode() for key in server.client.scan_iter() if any(word in key.decode() for word in known)]


@pytest.fixture
def make(server: Server) -> Iterator[Callable[..., JobExecutor]]:
    """Make executors with their own workers, and end them after the test."""
    made: list[JobExecutor] = []

    def make_one(mode: str = "process", workers: int = 1, **options: Any) -> JobExecutor:
        made.append(JobExecutor(mode, workers, url=server.url, **options))
        return made[-1]

    yield make_one
    for executor in made:
        executor.shutdown(cancel_futures=True)
    assert workers_of(os.getpid()) == []
    eventually(lambda: traces(server) == [], 20)
    assert held(server.client) == {}


# -- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"mode": "fast"}, ValueError),
        ({"mode": "thread", "workers": 0}, ValueError),
        ({"serializer": "yaml"}, ValueError),
        ({"job_timeout": 0}, ValueError),
        ({"job_timeout": -5}, ValueError),
        ({"job_timeout": float("nan")}, ValueError),
        ({"workers": 2}, UsageError),
        ({"modules": ["samples"]}, UsageError),
        ({"mode": "thread", "queue": "default"}, UsageError),
        ({"mode": "thread", "modules": "samples"}, TypeError),
        ({"mode": "thread", "worker_flags": "--strict-start"}, TypeError),
    ],
)
def test_invalid_arguments_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        JobExecutor(**options)


def test_nothing_starts_before_the_first_submit(make: Callable[..., JobExecutor]) -> None:
    with make():
        assert workers_of(os.getpid()) == []
    with JobExecutor(url="redis://127.0.0.1:1/0") as executor, pytest.raises(StoreUnreachable):
        executor.submit(samples.ok, 1)


def test_json_refuses_values_that_it_would_change(make: Callable[..., JobExecutor]) -> None:
    executor = make()
    with pytest.raises(NotSerializable, match="keys must be text"):
        executor.submit(samples.ok, {1: 2})
    with pytest.raises(NotSerializable, match="type set"):
        executor.map(samples.ok, [1, {2}])
    assert isinstance(executor.submit(samples.return_a_set).exception(LONG), Exception)


def test_pickle_carries_values_that_json_refuses(make: Callable[..., JobExecutor]) -> None:
    executor = make(serializer="pickle")
    value = {1: ({2}, b"3")}
    assert executor.submit(samples.ok, value).result(LONG) == value
    assert executor.submit(samples.return_a_set).result(LONG) == {1, 2}
    with pytest.raises(NotSerializable, match="pickle cannot carry"):
        executor.submit(samples.ok, lambda: 1)


# -- failures --------------------------------------------------------------------------------------------------------


def test_a_job_that_kills_its_process_fails_alone(make: Callable[..., JobExecutor], tmp_path: Path) -> None:
    executor = make(worker_flags=["--on-crash", "fail"])
    error = executor.submit(samples.kill_itself, str(tmp_path / "record")).exception(LONG)
    assert isinstance(error, JobFailed)
    assert "SIGKILL" in str(error)
    assert executor.submit(samples.ok, 1).result(LONG) == 1


def test_an_exception_of_the_call_itself_is_rebuilt(make: Callable[..., JobExecutor]) -> None:
    """A call with wrong arguments, or of a function in C: the traceback has no line of Python."""
    executor = make()
    for call, kind in [
        ((samples.ok, 1, 2, 3, 4), TypeError),
        ((int, "abc"), ValueError),
        ((operator.truediv, 1, 0), ArithmeticError),
    ]:
        error = executor.submit(*call).exception(LONG)
        assert isinstance(error, kind), error
        assert isinstance(error.__cause__, RemoteTraceback)


@pytest.mark.parametrize(("mode", "workers"), [("thread", 1), ("thread", 2), ("process", 1)])
def test_an_exception_that_is_no_subclass_of_exception_ends_the_future(
    make: Callable[..., JobExecutor], mode: str, workers: int
) -> None:
    """The thread that serves all futures continues."""
    executor = make(mode, workers)
    errors = [executor.submit(samples_rq.cancel_a_part) for _ in range(4)]
    for future in errors:
        error = future.exception(LONG)
        assert isinstance(error, JobFailed)
        assert "CancelledError" in str(error)
    assert executor.submit(samples.ok, 1).result(LONG) == 1


def test_a_time_limit_is_rounded_up(make: Callable[..., JobExecutor], server: Server) -> None:
    future = make(job_timeout=1.2).submit(samples.ok, 1)
    assert server.client.hget(keys.job(future.job_id), "timeout") == b"2"


def test_a_job_has_no_time_limit_by_default(make: Callable[..., JobExecutor], server: Server) -> None:
    free = make().submit(samples.ok, 1)
    assert server.client.hget(keys.job(free.job_id), "timeout") == b"-1"
    assert free.result(LONG) == 1
    error = make(job_timeout=1).submit(samples.nap, 60).exception(LONG)
    assert type(error).__name__ == "TimeLimitExceeded"


def test_a_killed_supervisor_is_started_again(
    make: Callable[..., JobExecutor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JOBQ_LEASE", "1")  # after this time its successor rescues its jobs
    executor = make()
    assert executor.submit(samples.ok, 1).result(LONG) == 1
    gate, record = tmp_path / "gate", tmp_path / "record"
    running = executor.submit(samples.wait_for, str(record), "it", str(gate))
    eventually(running.running)
    waiting = [executor.submit(samples.ok, n) for n in range(3)]
    (before,) = workers_of(os.getpid())
    before.kill()
    eventually(lambda: lines(record) == ["start it"] * 2, LONG)
    gate.touch()
    assert [future.result(LONG) for future in [running, *waiting]] == ["it", 0, 1, 2]
    (after,) = workers_of(os.getpid())
    assert after.pid != before.pid


def test_workers_that_die_again_and_again_break_the_executor(make: Callable[..., JobExecutor]) -> None:
    executor = make()
    running = executor.submit(samples.nap, 60.0)
    dead: set[int] = set()

    def kill() -> bool:
        for process in workers_of(os.getpid()):
            if process.pid not in dead:
                dead.add(process.pid)
                process.kill()
        return running.done()

    eventually(kill)
    assert len(dead) == 4
    assert isinstance(running.exception(0), BrokenWorkers)
    assert "was killed by signal 9" in str(running.exception(0))
    with pytest.raises(BrokenExecutor):
        executor.submit(samples.ok, 1)


def test_workers_that_cannot_start_break_the_executor(make: Callable[..., JobExecutor]) -> None:
    executor = make(modules=["no_such_module"])
    error = executor.submit(samples.ok, 1).exception(LONG)
    assert isinstance(error, BrokenExecutor)
    assert "No module named 'no_such_module'" in str(error)
    with pytest.raises(BrokenWorkers):
        executor.submit(samples.ok, 1)
    with pytest.raises(BrokenWorkers) as again:
        executor.submit(samples.ok, 1)
    assert len(again.traceback) < 10, "it brought along where it was raised before"


def test_a_mistyped_name_does_not_break_the_executor(make: Callable[..., JobExecutor]) -> None:
    executor = make()
    for name in ("no_such_module:f", "json.no_such_module:f", "samples.ok.further:f"):
        with pytest.raises(TaskNotFound, match="There is no module"):
            executor.submit(name, 1)
    assert executor.submit("samples:ok", 1).result(LONG) == 1


def test_a_store_that_goes_away_for_a_while(tmp_path: Path) -> None:
    own = Server(tmp_path, keep=True)
    try:
        with JobExecutor("thread", 1, url=own.url) as executor:
            assert executor.submit(samples.ok, 1).result(LONG) == 1
            future = executor.submit(samples.nap, 0.5)
            own.kill()
            assert not future.cancel()
            own.start()
            assert future.result(LONG) == 0.5
            assert executor.submit(samples.ok, 2).result(LONG) == 2
    finally:
        own.stop()


# -- what own workers may run ----------------------------------------------------------------------------------------


def test_each_set_of_modules_has_its_own_workers(make: Callable[..., JobExecutor], tmp_path: Path) -> None:
    """The first set of workers finishes its jobs while the second serves more functions; then the first ends."""
    executor = make()
    gate = tmp_path / "gate"
    long = executor.submit(samples.wait_for, str(tmp_path / "record"), "long", str(gate))
    eventually(long.running)
    assert executor.submit(os.getpid).result(LONG) != os.getpid()
    assert executor.submit(samples.ok, 1).result(LONG) == 1
    assert len(workers_of(os.getpid())) == 2
    gate.touch()
    assert long.result(LONG) == "long"
    eventually(lambda: len(workers_of(os.getpid())) == 1)


def test_own_workers_run_only_the_functions_that_were_submitted(
    make: Callable[..., JobExecutor], server: Server, tmp_path: Path
) -> None:
    """A process that can write to the store, and looks up the queue, can run no other function."""
    executor = make(serializer="pickle")
    assert executor.submit(os.getpid).result(LONG)
    (name,) = [k.decode().rpartition(":")[2] for k in server.client.smembers(keys.QUEUES)]  # type: ignore[union-attr]
    assert re.fullmatch(r"executor-[0-9a-f]{16}", name)
    evil = Queue(name, server.client).enqueue("os.system", f"touch {tmp_path / 'evil'}")
    with pytest.raises(JobFailed, match=r"does not serve os\.system"):
        evil.result(LONG)
    assert not (tmp_path / "evil").exists()


def test_a_function_that_cannot_be_imported_does_not_break_the_executor(
    make: Callable[..., JobExecutor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task is refused when it is submitted; a worker that was started for it would not start."""
    (tmp_path / "broken_one.py").write_text("raise RuntimeError('no licence')")
    (tmp_path / "leaving_one.py").write_text("import os; os._exit(0)")
    monkeypatch.syspath_prepend(str(tmp_path))
    executor = make()
    first = executor.submit(samples.ok, 1)
    for name in ("json:nope", "wave:nope", "broken_one:f", "leaving_one:f", "nowhere:f"):
        with pytest.raises(TaskNotFound, match=name.partition(":")[0]):
            executor.submit(name, 1)
    assert first.result(LONG) == 1
    assert executor.submit("json:dumps", 5).result(LONG) == "5"
    assert executor.submit("colorsys:rgb_to_hsv", 0, 0, 0).result(LONG) == [0, 0, 0]


# -- the workers that are there --------------------------------------------------------------------------------------


def test_jobs_outlive_their_executor(server: Server, start: Start, mode: str) -> None:
    executor = JobExecutor(queue="default", url=server.url)
    futures = [executor.submit(samples.ok, n) for n in range(3)]
    executor.shutdown(wait=False)
    start("-n", "1", "--burst", mode=mode).wait()
    assert [status(server.client, future.job_id) for future in futures] == ["finished"] * 3
    assert [future.result(LONG) for future in futures] == [0, 1, 2]


def test_a_job_canceled_elsewhere_cancels_its_future(server: Server) -> None:
    with JobExecutor(queue="nobody", url=server.url) as executor:
        future = executor.submit(samples.ok, 1)
        Queue("nobody", server.client).fetch_job(future.job_id).cancel()  # type: ignore[union-attr]
        with pytest.raises(cf.CancelledError):
            future.result(LONG)
        assert future.cancelled()


def test_a_function_that_running_workers_do_not_serve(server: Server, start: Start) -> None:
    start("-n", "1", serve=())
    eventually(lambda: server.client.smembers(keys.WORKERS))  # a worker that starts later says so itself, and ends
    with JobExecutor(url=server.url) as executor:
        error = executor.submit(samples.ok, 1).exception(LONG)
    assert "start it with -I samples" in str(error)


# -- many ------------------------------------------------------------------------------------------------------------


def test_short_jobs_complete_beside_many_long_ones(
    make: Callable[..., JobExecutor], server: Server, tmp_path: Path
) -> None:
    """The first 200 futures (128 are watched at a time) end last; the others are completed while they run."""
    gate = tmp_path / "gate"
    with make("thread", 210) as executor:
        long = [executor.submit(samples.wait_for, str(tmp_path / "r"), n, str(gate)) for n in range(200)]
        short = list(executor.map(samples.ok, range(300), timeout=LONG))
        assert short == list(range(300))
        assert not any(future.done() for future in long)
        gate.touch()
        assert {future.result() for future in cf.as_completed(long, LONG)} == set(range(200))


def calls(server: Server) -> dict[str, int]:
    """Return how often each command was executed on the server."""
    stats: Any = server.client.info("commandstats")
    return {name.removeprefix("cmdstat_"): row["calls"] for name, row in stats.items()}


def test_thousands_of_futures_cost_few_commands(make: Callable[..., JobExecutor], server: Server) -> None:
    with make("thread", 2) as executor:
        assert executor.submit(samples.ok, 1).result(LONG) == 1
        before = calls(server)
        pause(server.client, None)  # so that all 5,000 are outstanding at once, however fast this machine is
        futures = [executor.submit(samples.ok, n) for n in range(5000)]
        submitted = calls(server)
        resume(server.client, None)
        assert sum(future.result() for future in cf.as_completed(futures, LONG)) == sum(range(5000))
        after = calls(server)
        assert submitted["evalsha"] - before["evalsha"] >= 5000  # when submit returns, the job is in the store
        assert not after.get("multi", 0) - before.get("multi", 0) > 10
        assert after["xread"] - submitted["xread"] < 500  # one request waits for many results
        assert after["hget"] - submitted.get("hget", 0) < 6000  # what settling costs, and nothing for waiting
        assert sum(executor.map(samples.ok, range(5000), timeout=LONG)) == sum(range(5000))
        mapped = calls(server)
        assert mapped["evalsha"] - after["evalsha"] < 3000  # in bulk; this includes the worker's own cycles
        assert mapped["xread"] - after["xread"] < 1000


# -- the end ---------------------------------------------------------------------------------------------------------


def test_an_executor_that_is_garbage_collected(make: Callable[..., JobExecutor], server: Server) -> None:
    future = JobExecutor("thread", 1, url=server.url).submit(samples.nap, 0.2)
    gc.collect()
    assert future.result(LONG) == 0.2
    eventually(lambda: not workers_of(os.getpid()))


def test_system_exit_in_the_body_does_not_wait(make: Callable[..., JobExecutor]) -> None:
    futures: list[Any] = []

    def body() -> None:
        with make() as executor:
            futures.append(executor.submit(samples.nap, 60))
            eventually(futures[0].running)
            futures.append(executor.submit(samples.ok, 1))
            sys.exit(3)

    with pytest.raises(SystemExit):
        body()
    assert isinstance(futures[0].exception(0), BrokenWorkers)
    assert futures[1].cancelled() or isinstance(futures[1].exception(0), BrokenWorkers)


def test_interrupted_jobs_stay_until_their_futures_have_ended(
    make: Callable[..., JobExecutor], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector might first see that a job is gone, and take that for its outcome."""
    executor, jobs = make(), []
    future = executor.submit(samples.nap, 60)
    eventually(future.running)

    def abandon(collector: Collector, error: BaseException, really: Any = Collector.abandon) -> None:
        jobs.append(server.client.exists(keys.job(future.job_id)))
        really(collector, error)

    monkeypatch.setattr(Collector, "abandon", abandon)
    with pytest.raises(SystemExit), executor:
        sys.exit(3)
    assert jobs == [1]
    assert isinstance(future.exception(0), BrokenWorkers)


# -- scripts ---------------------------------------------------------------------------------------------------------


def script(directory: Path, text: str) -> list[str]:
    (directory / "myscript.py").write_text("import os, sys, time\nfrom jobqueue import JobExecutor\n" + text)
    return [sys.executable, str(directory / "myscript.py")]


def run(server: Server, argv: list[str], **options: Any) -> subprocess.Popen[str]:
    env = {**os.environ, "JOBQ_URL": server.url, "PYTHONPATH": program_path(ROOT, ROOT / "tests")}
    out = subprocess.PIPE
    return subprocess.Popen(argv, env=env, stdout=out, stderr=out, text=True, start_new_session=True, **options)


OWN_CLASSES = """
class Odd(Exception): pass
class Point:
    def __init__(self, x): self.x = x
def move(point):
    if point.x < 0: raise Odd("behind")
    return Point(point.x + 1)
if __name__ == "__main__":
    with JobExecutor("process", 1, serializer="pickle") as executor:
        moved = executor.submit(move, Point(1)).result()
        assert type(moved) is Point, type(moved)
        try:
            executor.submit(move, Point(-1)).result()
        except Odd as e:
            print(moved.x, e)
"""


def test_a_script_with_functions_and_classes_of_its_own(server: Server, tmp_path: Path) -> None:
    out, err = run(server, script(tmp_path, OWN_CLASSES), cwd="/").communicate(timeout=LONG)
    assert (out, err) == ("2 behind\n", "")
    assert traces(server) == []


def test_a_script_without_the_guard(server: Server, tmp_path: Path) -> None:
    text = "def f(): return 1\nwith JobExecutor('process', 1) as executor:\n    executor.submit(f).result()\n"
    process = run(server, script(tmp_path, text))
    _, err = process.communicate(timeout=LONG)
    assert process.returncode == 1
    assert 'if __name__ == "__main__":' in err.splitlines()[-1]
    assert traces(server) == []


STUCK = """
import contextlib, samples
from jobqueue.executor.collector import Collector
def told(collector, join=Collector.join):
    print("running", flush=True)
    join(collector)
if __name__ == "__main__":
    where = sys.argv[1]
    executor = JobExecutor("process", 2)
    with executor if where != "at the program's end" else contextlib.nullcontext():
        futures = [executor.submit(samples.nap, 600) for _ in range(5)]
        while sum(future.running() for future in futures) < 2: time.sleep(0.01)
        if where == "in the body":
            print("running", flush=True)
            time.sleep(600)
        Collector.join = told
"""


@pytest.mark.parametrize("where", ["in the body", "in the wait at its end", "at the program's end"])
def test_ctrl_c_ends_a_script(server: Server, tmp_path: Path, where: str) -> None:
    process = run(server, [*script(tmp_path, STUCK), where])
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    (worker,) = workers_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=LONG)
    assert err.strip(": \n").endswith("KeyboardInterrupt")  # with more text after it where Python ignores it at its end
    assert not psutil.pid_exists(worker.pid)
    assert traces(server) == []
    assert held(server.client) == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_caller_leaves_nothing(
    server: Server, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    process = run(server, [*script(tmp_path, STUCK), "in the body"])
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    (worker,) = workers_of(process.pid)
    assert list(temporary.iterdir())  # its log, which the killed process cannot remove
    process.send_signal(number)
    process.communicate(timeout=LONG)
    eventually(lambda: not worker.is_running(), 30)
    assert list(temporary.iterdir()) == []
    eventually(lambda: not [key for key in traces(server) if "bell" not in key], 20)  # this key expires
    assert held(server.client) == {}


AT_EXIT = """
import samples
executor = JobExecutor("thread", 1) if sys.argv[1] == "own" else JobExecutor()
if __name__ == "__main__":
    futures = [executor.submit(samples.note, sys.argv[2], n) for n in range(5)]
    executor.shutdown(wait=False)
"""


# "Regardless of the value of wait, the entire Python program will not exit until all pending futures are done
# executing."
def test_a_program_ends_when_its_own_workers_are_done(server: Server, tmp_path: Path) -> None:
    record = tmp_path / "record"
    process = run(server, [*script(tmp_path, AT_EXIT), "own", str(record)])
    _, err = process.communicate(timeout=LONG)
    assert (process.returncode, err) == (0, "")
    assert sorted(lines(record)) == list("01234")
    assert traces(server) == []


def test_a_program_leaves_its_jobs_to_running_workers(server: Server, tmp_path: Path, start: Start) -> None:
    record = tmp_path / "record"
    began = time.monotonic()
    process = run(server, [*script(tmp_path, AT_EXIT), "others", str(record)])
    _, err = process.communicate(timeout=LONG)
    assert (process.returncode, err) == (0, "")
    assert time.monotonic() - began < LONG
    assert lines(record) == []
    assert start("-n", "1", "--burst").wait() == 0
    assert sorted(lines(record)) == list("01234")


FORKED = """
import samples, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, since 3.12: "multi-threaded, use of fork()"
executor = JobExecutor("thread", 1)
if __name__ == "__main__":
    assert executor.submit(samples.ok, 1).result() == 1
    if (pid := os.fork()) == 0:
        assert executor.submit(samples.ok, 2).result() == 2  # with workers of its own
        executor.shutdown()
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert executor.submit(samples.ok, 3).result() == 3
    print("both")
"""


def test_a_forked_child_has_an_executor_of_its_own(server: Server, tmp_path: Path) -> None:
    out, err = run(server, script(tmp_path, FORKED)).communicate(timeout=LONG)
    assert (out, err) == ("both\n", "")
    assert traces(server) == []
