# /// script
# dependencies = ["huey", "redis", "hiredis"]
# ///
"""huey: RedisHuey with notify_result, by which a waiting client is told of a result; threads or processes."""

from __future__ import annotations

import huey

from peers import body
from peers.adapters import URL, Start

SLOTS = "threads"
SETTINGS = "notify_result, no periodic tasks, --quiet; -k thread for one process and for slots, else -k process"
PROMISE = "lost (a task is taken off the list before it runs)"
REFERENCE = "https://huey.readthedocs.io/en/latest/deployment.html#shutdown-signals"
VERSIONS = ("huey", "redis")

app = huey.RedisHuey("bench", url=URL, notify_result=True)
tasks = {name: app.task(name=name)(function) for name, function in body.TASKS.items()}


def worker(kind: str, number: int, _task: str) -> list[Start]:
    how = "process" if kind == "process" and number > 1 else "thread"
    quiet = ("--no-periodic", "--quiet")
    return [Start(("huey_consumer", "peers.adapters.huey.app", "-k", how, "-w", str(number), *quiet))]


def enqueue(task: str, number: int) -> huey.api.Result:
    return tasks[task](number)


def result(handle: huey.api.Result, within: float) -> object:
    return handle.get(blocking=True, timeout=within)
