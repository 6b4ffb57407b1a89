# /// script
# dependencies = ["celery[redis]", "hiredis"]
# ///
"""Celery: the solo pool for one process, prefork for more, threads for slots.

Settings by its guide "Optimizing": a prefetch multiplier for short tasks, no rate limits, no events, no gossip.
"""

from __future__ import annotations

import celery

from peers import body
from peers.adapters import URL, Start

SLOTS = "threads"
SETTINGS = "prefetch multiplier 128, no rate limits, no events, no gossip, mingle, heartbeat; solo for one process"
PROMISE = "lost, by default (acknowledged before it runs); with acks_late it runs again after visibility_timeout (1 h)"
REFERENCE = "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html"
VERSIONS = ("celery", "kombu", "redis")

app = celery.Celery("peers", broker=URL, backend=URL)
app.conf.update(
    worker_prefetch_multiplier=128,
    worker_disable_rate_limits=True,
    task_send_sent_event=False,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)
tasks = {name: app.task(function, name=name) for name, function in body.TASKS.items()}


def worker(kind: str, number: int, _task: str) -> list[Start]:
    pool = "threads" if kind == "slot" else "solo" if number == 1 else "prefork"
    off = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR")
    return [Start(("celery", "-A", "peers.adapters.celery", "worker", "-P", pool, "-c", str(number), *off))]


def enqueue(task: str, number: int) -> celery.result.AsyncResult:
    return tasks[task].delay(number)


def result(handle: celery.result.AsyncResult, within: float) -> object:
    return handle.get(timeout=within)
