"""What enqueues for the measuring process, in the peer's own environment: one line of JSON asks, one answers.

    python -m peers.driver huey

Started with the peer's Python; the store and the file of stamps are in the environment. It leaves when stdin ends.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import itertools
import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from types import ModuleType
from typing import Any

from peers.stamps import now

CHUNK = 1000  # jobs in one call of `enqueue_many`
RESULT_TIMEOUT = 30.0


class Driver:
    """A driver that answers requests by one adapter (adapters/__init__.py says what an adapter has)."""

    def __init__(self, adapter: ModuleType) -> None:
        self._adapter = adapter
        self._runner = asyncio.Runner()

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        made = function(*args)
        return self._runner.run(_awaited(made)) if inspect.isawaitable(made) else made

    def close(self) -> None:
        self._runner.close()

    # -- what can be asked ---------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        a = self._adapter
        return {
            "slots": a.SLOTS,
            "settings": a.SETTINGS,
            "promise": a.PROMISE,
            "reference": a.REFERENCE,
            "versions": {name: version(name) for name in a.VERSIONS},
            "python": ".".join(map(str, sys.version_info[:3])),
            "bulk": hasattr(a, "enqueue_many"),
            "pool": hasattr(a, "open_pool"),
        }

    def worker(self, kind: str, number: int, task: str) -> list[dict[str, Any]]:
        """Return the commands that make this width; none where the peer does not have it."""
        return [start._asdict() for start in self._adapter.worker(kind, number, task) or ()]

    def fill(self, task: str, first: int, jobs: int) -> None:
        """Enqueue jobs, the fastest way that there is."""
        if hasattr(self._adapter, "enqueue_many"):
            for begun in range(first, first + jobs, CHUNK):
                numbers = range(begun, min(begun + CHUNK, first + jobs))
                self._call(self._adapter.enqueue_many, task, numbers)
        else:
            self._call(_one_by_one, self._adapter.enqueue, task, range(first, first + jobs))

    def enqueue(self, seconds: float, most: int) -> dict[str, float]:
        """Enqueue one by one for this time; return the number of jobs and the seconds that they took."""
        self._call(_for_seconds, self._adapter.enqueue, 0.1, 200)  # the first call opens connections and imports
        return self._call(_for_seconds, self._adapter.enqueue, seconds, most)

    def enqueue_many(self, seconds: float, most: int) -> dict[str, float]:
        """Enqueue in bulk for this time, CHUNK jobs at a time."""
        self._call(self._adapter.enqueue_many, "noop", range(10))
        jobs, began = 0, time.monotonic()
        while time.monotonic() - began < seconds and jobs < most:
            self._call(self._adapter.enqueue_many, "noop", range(CHUNK))
            jobs += CHUNK
        return {"jobs": jobs, "seconds": time.monotonic() - began}

    def latency(self, jobs: int, gap: float) -> list[tuple[int, int]]:
        """Enqueue one job at a time into an idle system; return when each was enqueued and its result back."""
        return self._call(_latency, self._adapter.enqueue, self._adapter.result, jobs, gap)

    # -- plain pools only ----------------------------------------------------------------------------------------------

    def open_pool(self, kind: str, number: int) -> bool:
        return bool(self._adapter.open_pool(kind, number))

    def hold_pool(self) -> None:
        self._adapter.hold_pool()

    def close_pool(self) -> None:
        self._adapter.close_pool()


async def _awaited(made: Any) -> Any:
    return await made


def _one_by_one(enqueue: Callable[..., Any], task: str, numbers: range) -> Any:
    if not inspect.iscoroutinefunction(enqueue):
        for number in numbers:
            enqueue(task, number)
        return None

    async def all_of_them() -> None:
        for number in numbers:
            await enqueue(task, number)

    return all_of_them()


def _for_seconds(enqueue: Callable[..., Any], seconds: float, most: int) -> Any:
    """Enqueue for this time, with nothing between two calls: in a coroutine where the peer's calls are coroutines."""
    if not inspect.iscoroutinefunction(enqueue):
        began = time.monotonic()
        jobs = next(n for n in itertools.count() if _enough(n, enqueue("noop", n), began, seconds, most))
        return {"jobs": jobs + 1, "seconds": time.monotonic() - began}

    async def for_seconds() -> dict[str, float]:
        began, jobs = time.monotonic(), 0
        while time.monotonic() - began < seconds and jobs < most:
            await enqueue("noop", jobs)
            jobs += 1
        return {"jobs": jobs, "seconds": time.monotonic() - began}

    return for_seconds()


def _enough(jobs: int, _handle: Any, began: float, seconds: float, most: int) -> bool:
    return time.monotonic() - began >= seconds or jobs + 1 >= most


def _latency(enqueue: Callable[..., Any], result: Callable[..., Any], jobs: int, gap: float) -> Any:
    gaps = random.Random(jobs)  # for every peer the same; in step with no timer
    if not inspect.iscoroutinefunction(enqueue):
        times = []
        for number in range(jobs):
            began = now()
            result(enqueue("noop", number), RESULT_TIMEOUT)
            times.append((began, now()))
            time.sleep(gap * (0.5 + gaps.random()))
        return times

    async def latency() -> list[tuple[int, int]]:
        times = []
        for number in range(jobs):
            began = now()
            await result(await enqueue("noop", number), RESULT_TIMEOUT)
            times.append((began, now()))
            await asyncio.sleep(gap * (0.5 + gaps.random()))
        return times

    return latency()


def main(name: str) -> None:
    """Answer until stdin ends. What a library prints goes to stderr."""
    answering = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    driver = Driver(importlib.import_module(f"peers.adapters.{name}"))
    for line in sys.stdin:
        what, *args = json.loads(line)
        try:
            said = {"said": getattr(driver, what)(*args)}
        except Exception as e:
            traceback.print_exc()
            said = {"error": f"{type(e).__name__}: {e}".removesuffix(": ")}
        answering.write(json.dumps(said) + "\n")
        answering.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # threads of a library do not keep the process from ending
