"""Run a task without a queue, in a process of its own: in a plain loop, a ThreadPoolExecutor or a ProcessPoolExecutor.

    python -m jobqueue.compare.bare ProcessPoolExecutor 4 DIRECTORY

Each line of JSON on stdin is a request, each line of JSON on stdout its answer; the process ends when stdin closes.
What a task prints goes to stderr, and a task that reads stdin finds it empty.
"""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import util
from typing import Any

from jobqueue.compare.calls import Timed, function, looked_at, timed

Argses = Sequence[Sequence[Any]]
Kwargs = Mapping[str, Any]


def cycled(argses: Argses, jobs: int) -> Iterator[Sequence[Any]]:
    """Yield the arguments for so many jobs, repeating the given ones from the start."""
    return itertools.islice(itertools.cycle(argses), jobs)


# -- the loop ------------------------------------------------------------------------------------------------------


def loop(name: str, argses: Argses, kwargs: Kwargs, jobs: int) -> list[Timed]:
    """Call the task once after the other; read the clock once per job, so that the time of a tiny job is not mostly
    that of reading the clock."""
    todo = cycled(argses, jobs)
    first, is_coroutine = looked_at(name, next(todo), kwargs)
    if is_coroutine:
        return [first, *(timed(name, args, kwargs) for args in todo)]
    call = functools.partial(function(name), **kwargs) if kwargs else function(name)
    clock, done = time.perf_counter, [first]
    before = clock()
    for args in todo:
        error = None
        try:
            call(*args)
        except BaseException as e:
            error = f"{type(e).__name__}: {e}"
        now = clock()
        done.append((now - before, error))
        before = now
    return done


# -- the pools -----------------------------------------------------------------------------------------------------

POOLS: dict[str, Callable[[int], concurrent.futures.Executor]] = {
    "ThreadPoolExecutor": concurrent.futures.ThreadPoolExecutor,
    "ProcessPoolExecutor": concurrent.futures.ProcessPoolExecutor,
}


class Pool:
    """An executor of concurrent.futures that is made once and kept for all requests."""

    def __init__(self, kind: str, workers: int) -> None:
        self._executor = POOLS[kind](workers)

    def __call__(self, name: str, argses: Argses, kwargs: Kwargs, jobs: int) -> list[Timed]:
        futures = [self._executor.submit(timed, name, args, kwargs) for args in cycled(argses, jobs)]
        return [self._answer(future) for future in futures]

    def _answer(self, future: concurrent.futures.Future[Timed]) -> Timed:
        try:
            return future.result()
        except Exception as e:  # a broken pool, a value that cannot be pickled
            return 0.0, f"{type(e).__name__}: {e}"


# -- the conversation ----------------------------------------------------------------------------------------------


def answer(run: Callable[[str, Argses, Kwargs, int], list[Timed]], asked: dict[str, Any]) -> dict[str, Any]:
    """Run the jobs of one request. wall, cpu (of this process alone) and starved are in seconds."""
    began, cpu, starved = time.perf_counter(), time.process_time(), starved_so_far()
    done = run(asked["task"], asked["argses"], asked["kwargs"], asked["jobs"])
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    starved = starved_so_far() - starved
    errors = [error for _, error in done if error is not None]
    return {
        "wall": wall,
        "cpu": cpu,
        "starved": starved,
        "failed": len(errors),
        "error": errors[0] if errors else None,
        "latencies": [seconds for seconds, error in done if error is None],
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
    }


def starved_so_far() -> float:
    """Return the seconds in which this thread was ready to run and had no core (Linux; 0 elsewhere).

    Without it, a job that computes would look on a busy machine as if it waited for something.
    """
    try:
        with open(f"/proc/self/task/{threading.get_native_id()}/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def main(kind: str, workers: str, directory: str) -> None:
    """Answer requests until stdin closes. directory: removed by the caller, because this process ends by SIGKILL."""
    sys.path.insert(0, "")  # as in a worker: what the task imports while it runs may lie here
    asking, answering = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if kind == "ProcessPoolExecutor":
        keep_sockets_in(directory)
    run = loop if kind == "loop" else Pool(kind, int(workers))
    for line in asking:
        answering.write(json.dumps(answer(run, json.loads(line))) + "\n")
        answering.flush()
    leave()


def keep_sockets_in(directory: str) -> None:
    """Let multiprocessing keep its sockets in ``directory``. Its fork server (the default on Linux since Python 3.14)
    has one in a temporary directory that is removed only when the program ends by itself. Tasks keep their own
    temporary files."""
    usual, tempfile.tempdir = tempfile.tempdir, directory
    try:
        util.get_temp_dir()
    finally:
        tempfile.tempdir = usual


def leave() -> None:
    """End this process at once, with the processes of its pool, also when a task hangs."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
