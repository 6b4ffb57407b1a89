# /// script
# dependencies = []
# ///
"""No queue at all: ProcessPoolExecutor and ThreadPoolExecutor of this process, as the limit of what can be had.

What they are given lies in memory and is gone with the process.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import time

from peers import body
from peers.adapters import Start

SLOTS = "threads"
SETTINGS = "ProcessPoolExecutor in the rows of processes, ThreadPoolExecutor else"
PROMISE = "lost, with all that waits (BrokenProcessPool)"
REFERENCE = "https://docs.python.org/3/library/concurrent.futures.html"
VERSIONS = ()

_pool: concurrent.futures.Executor | None = None
_number = 0


def worker(_kind: str, _number: int, _task: str) -> list[Start] | None:
    """Return nothing: the pool is in the driver's process, see ``open_pool``."""
    return None


def open_pool(kind: str, number: int) -> bool:
    """Make the pool; return when all of it is there."""
    global _pool, _number
    fork = multiprocessing.get_context("fork")
    executor = concurrent.futures.ThreadPoolExecutor
    _pool = executor(number) if kind == "slot" else concurrent.futures.ProcessPoolExecutor(number, fork)
    _number = number
    concurrent.futures.wait([_pool.submit(time.sleep, 0.05) for _ in range(number)])
    return True


def hold_pool() -> None:
    """Let each thread or process of it wait for the gate, so that jobs can be submitted before the first runs."""
    for _ in range(_number):
        _pool.submit(body.gate)


def close_pool() -> None:
    _pool.shutdown(cancel_futures=True)


def enqueue(task: str, number: int) -> concurrent.futures.Future:
    if _pool is None:
        open_pool("slot", 1)
    return _pool.submit(body.TASKS[task], number)


def result(future: concurrent.futures.Future, within: float) -> object:
    return future.result(within)
