"""The bodies of the jobs, the same for every peer. Each takes its number, writes its stamp, and returns its number.

Where a peer runs coroutines, ``a_noop`` and ``a_sleep`` are what it runs; computing is the same there, for it has no
place to wait.
"""

from __future__ import annotations

import asyncio
import time

from peers.stamps import mine, now

LONG = 0.020  # seconds that `sleep` waits and `cpu` computes


def noop(number: int) -> int:
    mine().write(number, now())
    return number


def sleep(number: int) -> int:
    began = now()
    time.sleep(LONG)
    mine().write(number, began)
    return number


def cpu(number: int) -> int:
    """Compute until this thread has used LONG seconds of CPU, however long it had to wait for a core or the GIL."""
    began, until = now(), time.thread_time() + LONG
    while time.thread_time() < until:
        sum(range(200))
    mine().write(number, began)
    return number


async def a_noop(number: int) -> int:
    mine().write(number, now())
    return number


async def a_sleep(number: int) -> int:
    began = now()
    await asyncio.sleep(LONG)
    mine().write(number, began)
    return number


async def a_cpu(number: int) -> int:
    return cpu(number)


def gate() -> None:
    """Hold a thread or process of a plain pool until all jobs are submitted."""
    mine().wait_at_gate()


TASKS = {"noop": noop, "sleep": sleep, "cpu": cpu}
COROUTINES = {"noop": a_noop, "sleep": a_sleep, "cpu": a_cpu}
