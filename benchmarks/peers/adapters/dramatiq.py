# /// script
# dependencies = ["dramatiq[redis]", "hiredis"]
# ///
"""dramatiq: its Redis broker and its Redis results, without the middleware that a plain actor does not need."""

from __future__ import annotations

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Retries
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from peers import body
from peers.adapters import URL, Start

SLOTS = "threads"
SETTINGS = "middleware: Retries and Results only; dramatiq_queue_prefetch=64, for short jobs"
PROMISE = "runs again, once the heartbeat of its worker is 60 s old and another worker does its maintenance"
REFERENCE = "https://dramatiq.io/advanced.html#message-persistence"
VERSIONS = ("dramatiq", "redis")
PREFETCH = 64  # with the usual two per thread it ran 200 jobs/s where it now ran 500 and more

broker = RedisBroker(url=URL, middleware=[Retries(), Results(backend=RedisBackend(url=URL))])
dramatiq.set_broker(broker)
actors = {name: dramatiq.actor(function, actor_name=name, store_results=True) for name, function in body.TASKS.items()}


def worker(kind: str, number: int, task: str) -> list[Start]:
    processes, threads = (number, 1) if kind == "process" else (1, number)
    width = ("--processes", str(processes), "--threads", str(threads))
    ahead = {} if task == "cpu" else {"dramatiq_queue_prefetch": str(PREFETCH)}
    return [Start(("dramatiq", "peers.adapters.dramatiq:broker", *width), ahead)]


def enqueue(task: str, number: int) -> dramatiq.Message:
    return actors[task].send(number)


def result(message: dramatiq.Message, within: float) -> object:
    return message.get_result(block=True, timeout=int(within * 1000))
