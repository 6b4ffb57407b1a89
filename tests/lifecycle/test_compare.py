"""``jobq compare`` with real processes: its figures, a user's module, wrong input; nothing is left behind, however it
ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, Server, eventually, program_path
from leftovers import assert_nothing_is_left, working_for

from jobqueue.protocol import keys

pytestmark = pytest.mark.timeout(240)

COMPARE = [sys.executable, "-m", "jobqueue.cli", "compare"]
GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
MODULE = """
import ctypes, sys, time
import warnings
warnings.warn(RuntimeWarning("The global interpreter lock (GIL) has been enabled to load module 'fast_ext', which ..."))
print("imported")
def resize(name): time.sleep(0.02); print("resizing"); return {"name": name}
def broken(name): raise ValueError(f"no such image: {name}")
def unlucky(name):
    time.sleep(0.002)
    if name == "b": raise KeyError(name)
def curses(name): raise ValueError(f"{name} \\x1b[31m\\ud800\\nsecond line")
def slow(seconds): time.sleep(seconds)
def fit(name, width, *, mode):
    if (width, mode) not in ((10, "crop"), (20, "crop")): raise ValueError((name, width, mode))
    time.sleep(0.002)
kept, calls = [], []
def hoards_once(name):
    calls.append(name)
    if len(calls) == 3: kept.append(b"x" * 30_000_000)
    time.sleep(0.002)
def leaks(name):
    kept.append(b"x" * 1_000_000)
    time.sleep(0.002)
def a_set(name): return {name}
def deadly(name): ctypes.string_at(0)
async def wait(name):
    import asyncio
    await asyncio.sleep(0.02)
def wrapped(name): return wait(name)
class Shop:
    @classmethod
    def visit(cls, name): time.sleep(0.002)
def cached(seconds): time.sleep(seconds)
"""


class Place:
    """A directory with a user's module, and a TMPDIR of its own. It is short: a unix socket's path is limited, and
    multiprocessing uses /tmp where the path is too long."""

    def __init__(self, home: Path, tmp: Path) -> None:
        self.home, self.tmp = home, tmp
        self.home.mkdir()
        (self.home / "mine.py").write_text(MODULE)
        own = {"TMPDIR": str(self.tmp), "REDIS_URL": "redis://127.0.0.1:1/0", "PYTHONPATH": program_path(ROOT)}
        self.env = os.environ | own | {"PYTHONDONTWRITEBYTECODE": "1"}

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMPARE, *argv], env=self.env, cwd=self.home, capture_output=True, text=True, timeout=200
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert_nothing_is_left(self.tmp)
        assert [path.name for path in self.home.iterdir() if path.suffix != ".html"] == ["mine.py"]
        return done

    def report(self, *argv: str, code: int = 0) -> dict[str, Any]:
        done = self.run(*argv, "--json")
        assert done.returncode == code, done.stderr
        read: dict[str, Any] = json.loads(done.stdout)
        return read

    def start(self, *argv: str) -> subprocess.Popen[str]:
        command = [*COMPARE, *argv]
        return subprocess.Popen(
            command, env=self.env, cwd=self.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="jobq-test-", dir="/tmp") as tmp:
        yield Place(tmp_path / "home", Path(tmp))


def test_a_users_module_is_measured_in_all_rows_and_the_trials(place: Place) -> None:
    """Threads wait at the same time, and the trials show that on any machine. The median of three runs counts, as a run
    may have had no core for a tenth of a second; a slow machine needs more time than usual."""
    page = place.home / "page.html"
    argv = ("-n", "2", "--jobs", "12", "--repeat", "3", "--seconds", "120", "--html", str(page))
    report = place.report("mine:resize", "a.jpg", "b.jpg", *argv)
    (task,) = report["tasks"]
    rows = {(run["mode"], run["workers"]): run for run in task["runs"]}
    modes = ("thread", "process", "ThreadPoolExecutor", "ProcessPoolExecutor")
    assert set(rows) == {("loop", 1), *((mode, width) for mode in modes for width in (1, 2))}
    for run in rows.values():
        assert (run["jobs"], run["failed"]) == (12, 0)
        assert run["jobs_per_s"] == pytest.approx(12 / run["wall_s"], rel=0.01)
        assert run["latency_ms"]["p95"] >= run["latency_ms"]["p50"] >= 20
        assert run["wall_s"] >= 12 * 0.02 / run["workers"]
        assert run["uss_mb"] > 5
    assert (task["task"], task["values"], task["values_given"]) == ("mine:resize", ["a.jpg", "b.jpg"], 2)
    assert task["advice"]["mode"] == "thread"
    assert task["verdict"].startswith("mine:resize: threads, 2 of them: ")
    assert [ratio["workers"] for ratio in task["process_over_thread"]] == [1, 2]
    assert task["memory_per_worker"]["process"]["uss_mb"] > task["memory_per_worker"]["thread"]["uss_mb"]
    assert report["machine"]["gil_enabled"] is GIL
    assert report["machine"]["gil_enabled_by"] == ["fast_ext"]  # as a free-threaded Python writes it
    assert_trials(report)
    assert task["verdict"][13:40] in page.read_text()


def assert_trials(report: dict[str, Any]) -> None:
    thread, process = (report["isolation"][mode] for mode in ("thread", "process"))
    assert (thread["counter"]["processes"], thread["counter"]["shared"]) == (1, True)
    assert (process["counter"]["processes"], process["counter"]["shared"]) == (4, False)
    assert [mb > 60 for mb in thread["leak"]["grew_mb"]] == [True]
    assert [mb > 60 for mb in process["leak"]["grew_mb"]] == [True, False, False, False]
    crash = report["blast_radius"]
    for mode, interrupted in (("thread", 3), ("process", 0)):
        assert (crash[mode]["interrupted"], crash[mode]["finished"], crash[mode]["lost"]) == (interrupted, 3, 0)
        assert "SIGSEGV" in crash[mode]["crashed_job"]
    for pool in ("ThreadPoolExecutor", "ProcessPoolExecutor"):
        assert (crash[pool]["finished"], crash[pool]["lost"]) == (0, 3)
    limits = report["time_limits"]
    assert limits["process"]["blocking"]["how"] == "exception"
    assert limits["thread"]["blocking"]["how"] == "written off"
    assert limits["process"]["gil"]["how"] == limits["thread"]["gil"]["how"] == "killed"
    assert limits["process"]["gil"]["neighbours_interrupted"] == 0
    assert limits["thread"]["gil"]["neighbours_interrupted"] > 0
    assert all(limits[mode][case]["ended_s"] >= 1.0 for mode in ("thread", "process") for case in ("blocking", "gil"))


@pytest.mark.skipif(not GIL, reason="without a GIL heavy is advised threads")
def test_four_builtin_tasks_get_the_same_advice_as_from_advise(place: Place) -> None:
    """The verdicts are those of test_advise.py, where they come from the workers' records."""
    report = place.report("-n", "1", "--jobs", "10", "--seconds", "100", "--no-trials")
    assert {task["task"]: (task["kind"], task["advice"]["mode"]) for task in report["tasks"]} == {
        "heavy": ("computes", "process"),
        "download": ("waits", "thread"),
        "scrape": ("waits", "thread"),
        "square": ("tiny", "process"),
    }
    square = next(task for task in report["tasks"] if task["task"] == "square")
    assert "the queue costs more than the job" in square["verdict"]
    assert {run["failed"] for task in report["tasks"] for run in task["runs"]} == {0}


def test_nothing_is_left_in_a_store_that_others_use(place: Place, server: Server) -> None:
    """A job of another program in the same store is not changed."""
    server.client.rpush(keys.queue("default"), "theirs")
    server.client.sadd(keys.QUEUES, keys.queue("default"))
    report = place.report("mine:wait", "a", "-n", "1", "--jobs", "4", "--url", server.url)
    assert report["tasks"][0]["advice"]["workers"] == 1
    left = {key.decode() for key in server.client.scan_iter("*")}
    assert left - {keys.SEQ, keys.DEATHS} == {keys.queue("default"), keys.QUEUES}
    assert server.client.smembers(keys.QUEUES) == {keys.queue("default").encode()}


def test_a_store_whose_queues_are_suspended_is_one_line(place: Place, server: Server) -> None:
    server.client.set(keys.SUSPENDED, 1)
    done = place.run("square", "1", "--url", server.url)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("jobq: All queues of this store are suspended")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("mine:broken", "x"), "mine:broken: not measured. It fails every time: ValueError: no such image: x"),
        (("mine:deadly", "x"), "A job ended its process in the plain loop: its process was killed by SIGSEGV."),
        (("mine:slow", "60", "--seconds", "6"), "One job did not end within"),
        (("mine:slow", "0.4", "--seconds", "6", "--jobs", "9"), "too long to measure it side by side"),
        (("square", "abc"), "It fails every time: TypeError: square takes a number, not 'abc'."),
    ],
)
def test_a_task_that_cannot_be_measured_is_reported_with_the_reason(
    place: Place, argv: tuple[str, ...], says: str
) -> None:
    done = place.run(*argv, "-n", "2")
    assert done.returncode == 1
    assert says in " ".join(done.stdout.split())


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_control_characters_are_escaped_on_a_terminal(place: Place, encoding: str) -> None:
    place.env["PYTHONIOENCODING"] = encoding
    done = place.run("mine:curses", "Zoë", "-n", "1")
    assert done.returncode == 1
    assert "mine:curses: not measured. It fails every time: ValueError: Zo" in done.stdout
    assert "\x1b" not in done.stdout
    assert json.loads(place.run("mine:curses", "Zoe", "-n", "1", "--json").stdout)["tasks"][0]["error"].endswith("line")


def test_a_task_that_only_the_queue_cannot_run_is_reported(place: Place) -> None:
    """A set is not JSON: the task works in a plain loop, and fails in the queue."""
    done = place.run("mine:a_set", "x", "-n", "4", "--jobs", "4", "--no-trials", "--json")
    (task,) = json.loads(done.stdout)["tasks"]
    assert done.returncode == 1
    assert task["error"].startswith("It works in a plain loop, but fails every time in 1 ")
    assert "starting 2" not in done.stderr, "measured on, although there was nothing left to measure"


@pytest.mark.parametrize(("task", "leaks"), [("mine:hoards_once", False), ("mine:leaks", True)])
def test_only_memory_that_keeps_growing_counts_as_a_leak(place: Place, task: str, leaks: bool) -> None:
    """Memory of a cache that is filled once, or that an allocator keeps, is no leak."""
    (found,) = place.report(task, "x", "-n", "1", "--jobs", "20", "--no-trials")["tasks"]
    assert (found["kind"] == "grows memory") is leaks, found["kind"]


def test_a_decorated_coroutine_is_awaited(place: Place) -> None:
    (task,) = place.report("mine:wrapped", "x", "-n", "1", "--jobs", "10", "--no-trials")["tasks"]
    assert (task["error"], task["kind"]) == (None, "waits")
    assert {run["mode"]: run["latency_ms"]["p50"] >= 20 for run in task["runs"]}["loop"]


def test_a_class_method_is_served_with_its_module(place: Place) -> None:
    (task,) = place.report("mine:Shop.visit", "x", "-n", "1", "--jobs", "10", "--no-trials")["tasks"]
    assert task["error"] is None


def test_the_order_of_small_and_large_values_does_not_matter(place: Place) -> None:
    """How long the first value takes does not decide how many jobs there is time for."""
    (task,) = place.report("mine:cached", "0", "0.05", "-n", "1", "--seconds", "20", "--no-trials")["tasks"]
    assert task["error"] is None


def test_several_and_named_arguments(place: Place) -> None:
    page = place.home / "page.html"
    argv = ("mine:fit", "--args", '["a.jpg", 10]', "--args", '["ü.jpg", 20]', "--kwargs", '{"mode": "crop"}')
    (task,) = place.report(*argv, "-n", "1", "--jobs", "4", "--no-trials", "--html", str(page))["tasks"]
    assert (task["values"], task["kwargs"]) == ([["a.jpg", 10], ["ü.jpg", 20]], {"mode": "crop"})
    assert [(run["mode"], run["failed"]) for run in task["runs"]] == [
        (mode, 0) for mode in ("loop", "thread", "process", "ThreadPoolExecutor", "ProcessPoolExecutor")
    ]
    assert "mode=&quot;crop&quot;" in page.read_text()


def test_some_failures_are_counted_and_reported(place: Place) -> None:
    report = place.report("mine:unlucky", "a", "b", "-n", "1", "--jobs", "8", "--no-trials")
    (task,) = report["tasks"]
    assert {run["failed"] for run in task["runs"]} == {4}
    assert "4 of 8 jobs failed in 1 thread: KeyError: 'b'" in task["notes"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("mine:nothing", "1"), "The module 'mine' has no function 'nothing'."),
        (("nowhere:task", "1"), "There is no module 'nowhere'"),
        (("squar", "1"), "Did you mean square?"),
        (("square",), "does not take these arguments: missing a required argument: 'n'"),
        (("square", "1", "--path", "/nowhere"), "/nowhere"),
        (("mine:fit", "--args", '["a.jpg", 10]'), "argument: 'mode'"),
        (("mine:fit", "--args", "a.jpg"), "--args"),
        (("--kwargs", '{"n": 1}'), "--args and --kwargs are about a TASK, and none was named."),
        (("square", "1", "--html", "/nowhere/page.html"), "The HTML report cannot be written to /nowhere/page.html"),
        (("square", "1", "--url", "nonsense"), "nonsense"),
    ],
)
def test_invalid_arguments_are_one_line(place: Place, argv: tuple[str, ...], says: str) -> None:
    done = place.run(*argv)
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("jobq: ")
    assert says in line


def test_a_module_outside_of_the_current_directory(place: Place, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "theirs.py").write_text("def task(n): return n")
    report = place.report("theirs:task", "1", "--path", str(tmp_path / "else"), "-n", "1", "--jobs", "3", "--no-trials")
    assert report["tasks"][0]["error"] is None


# -- stopping it -----------------------------------------------------------------------------------------------------


def stopped(running: subprocess.Popen[str], place: Place, number: int) -> None:
    running.send_signal(number)
    time.sleep(0.05)
    if running.poll() is None:
        running.send_signal(number)  # a second Ctrl-C: the cleanup continues
    output, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert errors.splitlines()[-1] == "jobq: the comparison was stopped; nothing is left of it."
    assert "Traceback" not in errors
    assert output == ""
    assert_nothing_is_left(place.tmp)


@pytest.mark.parametrize(
    ("number", "when"),
    [
        (signal.SIGINT, "store: "),
        (signal.SIGTERM, "in a plain loop"),
        (signal.SIGTERM, "starting 1 process"),
        (signal.SIGINT, "in 1 process,"),
        (signal.SIGHUP, "in a ProcessPoolExecutor of 1,"),
        (signal.SIGINT, "leak"),
    ],
)
def test_a_signal_leaves_nothing_behind(place: Place, number: int, when: str) -> None:
    argv = ("mine:slow", "0.3", "-n", "1") if when != "leak" else ("mine:resize", "a", "-n", "1", "--jobs", "2")
    running = place.start(*argv)
    try:
        assert running.stderr
        for line in running.stderr:
            if when in line:
                break
        else:
            raise AssertionError(f"{when!r} was not said")
        assert working_for(place.tmp)
        stopped(running, place, number)
    finally:
        running.kill()
        running.wait()


def test_a_signal_in_a_store_that_others_use_leaves_nothing_there(place: Place, server: Server) -> None:
    running = place.start("mine:slow", "0.3", "-n", "1", "--url", server.url)
    try:
        eventually(lambda: list(server.client.scan_iter(keys.queue("compare-*"))), 60)
        stopped(running, place, signal.SIGTERM)
    finally:
        running.kill()
        running.wait()
    assert {key.decode() for key in server.client.scan_iter("*")} <= {keys.SEQ}
