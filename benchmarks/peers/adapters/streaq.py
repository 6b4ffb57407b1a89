# /// script
# dependencies = ["streaq", "uvloop"]
# ///
"""streaQ: Redis streams, one worker per process, with uvloop and silent tasks."""

from __future__ import annotations

from contextlib import AsyncExitStack

from streaq import Worker

from peers import body
from peers.adapters import SLOTS_SET, URL, WIDTH, Start

SLOTS = "coroutines"
SETTINGS = "uvloop, silent tasks, 200 at a time in the rows of processes; bulk: enqueue_many"
PROMISE = "runs again, once it was idle for idle_timeout (60 s), where tries are left (3)"
REFERENCE = "https://streaq.readthedocs.io/en/latest/worker.html"
VERSIONS = ("streaq", "coredis")

app = Worker(redis_url=URL, concurrency=SLOTS_SET, queue_name="bench", anyio_kwargs={"use_uvloop": True})
tasks = {name: app.task(name=name, silent=True)(function) for name, function in body.COROUTINES.items()}
_open = AsyncExitStack()  # the worker's connections in the driver, opened once
_is_open = False


async def _opened() -> None:
    global _is_open
    if not _is_open:
        await _open.enter_async_context(app)
        _is_open = True


def worker(kind: str, number: int, task: str) -> list[Start]:
    processes, slots = (number, 1 if task == "cpu" else 200) if kind == "process" else (1, number)
    return [Start(("streaq", "run", "peers.adapters.streaq:app", "--workers", str(processes)), {WIDTH: str(slots)})]


async def enqueue(task: str, number: int) -> object:
    if not _is_open:
        await _opened()
    return await tasks[task].enqueue(number)


async def enqueue_many(task: str, numbers: range) -> None:
    await _opened()
    await app.enqueue_many([tasks[task].enqueue(number) for number in numbers])


async def result(handle: object, within: float) -> object:
    return (await handle.result(timeout=int(within))).result
