# /// script
# dependencies = ["saq[redis,hiredis]", "typing-extensions", "uvloop"]
# ///
"""SAQ: one worker per process, with uvloop; it imports typing_extensions, which it does not ask for."""

from __future__ import annotations

import asyncio

import saq
import uvloop

from peers import body
from peers.adapters import SLOTS_SET, URL, WIDTH, Start

SLOTS = "coroutines"
SETTINGS = (
    "uvloop, 10 at a time in the rows of processes; results asked for every millisecond; bulk: gather, as its map does"
)
PROMISE = "swept when it is older than its timeout (10 s unless set): aborted, or run again where retries are left"
REFERENCE = "https://saq-py.readthedocs.io/en/latest/"
VERSIONS = ("saq", "redis")

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
queue = saq.Queue.from_url(URL, name="bench")


async def noop(_context: object, *, number: int) -> int:
    return await body.a_noop(number)


async def sleep(_context: object, *, number: int) -> int:
    return await body.a_sleep(number)


async def cpu(_context: object, *, number: int) -> int:
    return await body.a_cpu(number)


settings = {"queue": queue, "functions": [noop, sleep, cpu], "concurrency": SLOTS_SET}


def worker(kind: str, number: int, task: str) -> list[Start]:
    processes, slots = (number, 1 if task == "cpu" else 10) if kind == "process" else (1, number)
    command = ("saq", "peers.adapters.saq.settings", "--workers", str(processes), "--quiet")
    return [Start(command, {WIDTH: str(slots)})]


async def enqueue(task: str, number: int) -> saq.Job:
    return await queue.enqueue(task, number=number)


async def enqueue_many(task: str, numbers: range) -> None:
    for begun in range(0, len(numbers), 100):
        await asyncio.gather(*(queue.enqueue(task, number=number) for number in numbers[begun : begun + 100]))


async def result(job: saq.Job, within: float) -> object:
    """Ask every millisecond, as ``apply`` asks: ``refresh(until_complete)`` misses a job that ends as it subscribes."""
    async with asyncio.timeout(within):
        while not job.completed:
            await asyncio.sleep(0.001)
            await job.refresh()
    return job.result
