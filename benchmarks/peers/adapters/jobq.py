# /// script
# dependencies = ["jobq"]
# ///
"""jobq, as it lies in this repository: nothing is set but the mode."""

from __future__ import annotations

from jobqueue import Queue
from jobqueue.job import Job
from peers.adapters import URL, Start

SLOTS = "threads"
SETTINGS = "none: `jobq worker --mode process|thread -n N`; bulk: enqueue_many"
PROMISE = "runs again at once (its host's death: after the lease); the third such death fails it with the cause"
REFERENCE = "docs/usage.md"
VERSIONS = ("jobq", "redis", "rq")

queue = Queue("bench", url=URL)


def worker(kind: str, number: int, _task: str) -> list[Start]:
    mode = "process" if kind == "process" else "thread"
    return [Start(("jobq", "worker", "bench", "--mode", mode, "-n", str(number), "-I", "peers.body", "--url", URL))]


def enqueue(task: str, number: int) -> Job:
    return queue.enqueue(f"peers.body:{task}", number)


def enqueue_many(task: str, numbers: range) -> None:
    queue.enqueue_many(f"peers.body:{task}", numbers)


def result(job: Job, within: float) -> object:
    return job.result(within)
