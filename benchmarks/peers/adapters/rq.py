# /// script
# dependencies = ["rq", "hiredis"]
# ///
"""RQ: SimpleWorker, which runs jobs in its own process; several of them where several processes are wanted."""

from __future__ import annotations

import redis
import rq

from peers import body
from peers.adapters import URL, Start

SLOTS = "processes"
SETTINGS = "SimpleWorker, hiredis, --quiet; bulk: enqueue_many"
PROMISE = "a job that ran is failed by the next maintenance, once its heartbeat is overdue; Retry runs it again"
REFERENCE = "https://python-rq.org/docs/job_registries/"
VERSIONS = ("rq", "redis")

queue = rq.Queue("bench", connection=redis.Redis.from_url(URL))


def worker(kind: str, number: int, _task: str) -> list[Start] | None:
    command = ("rq", "worker", "bench", "--url", URL, "--quiet", "--worker-class", "rq.worker.SimpleWorker")
    return [Start(command)] * number if kind == "process" else None


def enqueue(task: str, number: int) -> rq.job.Job:
    return queue.enqueue(body.TASKS[task], number)


def enqueue_many(task: str, numbers: range) -> None:
    queue.enqueue_many([rq.Queue.prepare_data(body.TASKS[task], (number,)) for number in numbers])


def result(job: rq.job.Job, within: float) -> object:
    return job.latest_result(timeout=int(within)).return_value
