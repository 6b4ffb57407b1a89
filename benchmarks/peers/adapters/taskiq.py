# /// script
# dependencies = ["taskiq", "taskiq-redis", "hiredis", "uvloop"]
# ///
"""taskiq: taskiq-redis's list broker, the faster of its two, with uvloop and without the parsing of arguments."""

from __future__ import annotations

import asyncio

from taskiq import AsyncTaskiqTask
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from peers import body
from peers.adapters import URL, Start

SLOTS = "coroutines"
SETTINGS = "ListQueueBroker, uvloop, --no-parse, up to 100 tasks at a time; results are asked for every millisecond"
PROMISE = "lost (ListQueueBroker has no acknowledgements); RedisStreamBroker runs it again after idle_timeout (10 min)"
REFERENCE = "https://github.com/taskiq-python/taskiq-redis#brokers"
VERSIONS = ("taskiq", "taskiq-redis", "redis")
AT_ONCE = 100

broker = ListQueueBroker(url=URL).with_result_backend(RedisAsyncResultBackend(redis_url=URL))
tasks = {name: broker.register_task(function, task_name=name) for name, function in body.COROUTINES.items()}


def worker(kind: str, number: int, task: str) -> list[Start]:
    processes, slots = (number, 1 if task == "cpu" else AT_ONCE) if kind == "process" else (1, number)
    width = ("--workers", str(processes), "--max-async-tasks", str(slots), "--no-parse", "--log-level", "ERROR")
    return [Start(("taskiq", "worker", "peers.adapters.taskiq:broker", *width))]


async def enqueue(task: str, number: int) -> AsyncTaskiqTask:
    return await tasks[task].kiq(number)


async def enqueue_many(task: str, numbers: range) -> None:
    for begun in range(0, len(numbers), AT_ONCE):
        await asyncio.gather(*(tasks[task].kiq(number) for number in numbers[begun : begun + AT_ONCE]))


async def result(handle: AsyncTaskiqTask, within: float) -> object:
    return (await handle.wait_result(check_interval=0.001, timeout=within)).return_value
