# /// script
# dependencies = ["arq", "hiredis", "uvloop"]
# ///
"""arq: one worker per process (it has no other way), with uvloop; it polls, so as often as it pays."""

from __future__ import annotations

import asyncio

import arq
import uvloop
from arq.connections import ArqRedis, RedisSettings
from arq.jobs import Job

from peers import body
from peers.adapters import SLOTS_SET, URL, WIDTH, Start

SLOTS = "coroutines"
SETTINGS = "uvloop, poll_delay 1 ms (worker and results), 100 at a time in the rows of processes; bulk: gather"
PROMISE = "runs again, once its mark in_progress has expired (job_timeout and 10 s: 310 s), where tries are left (5)"
REFERENCE = "https://arq-docs.helpmanual.io/#usage"
VERSIONS = ("arq", "redis")

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


async def noop(_context: object, number: int) -> int:
    return await body.a_noop(number)


async def sleep(_context: object, number: int) -> int:
    return await body.a_sleep(number)


async def cpu(_context: object, number: int) -> int:
    return await body.a_cpu(number)


class WorkerSettings:
    """What `arq` reads."""

    functions = (noop, sleep, cpu)
    redis_settings = RedisSettings.from_dsn(URL)
    max_jobs = SLOTS_SET
    poll_delay = 0.001
    log_results = False


def worker(kind: str, number: int, task: str) -> list[Start]:
    processes, slots = (number, 1 if task == "cpu" else 100) if kind == "process" else (1, number)
    silent = "peers.adapters.arq.LOGGING"
    command = ("arq", "peers.adapters.arq.WorkerSettings", "--custom-log-dict", silent)
    return [Start(command, {WIDTH: str(slots)})] * processes


LOGGING = {"version": 1, "loggers": {"arq": {"level": "ERROR"}}}
_pool: ArqRedis | None = None


async def _connected() -> ArqRedis:
    global _pool
    _pool = _pool or await arq.create_pool(RedisSettings.from_dsn(URL))
    return _pool


async def enqueue(task: str, number: int) -> Job:
    return await (_pool or await _connected()).enqueue_job(task, number)


async def enqueue_many(task: str, numbers: range) -> None:
    pool = await _connected()
    for begun in range(0, len(numbers), 100):
        await asyncio.gather(*(pool.enqueue_job(task, number) for number in numbers[begun : begun + 100]))


async def result(job: Job, within: float) -> object:
    return await job.result(timeout=within, poll_delay=0.001)
