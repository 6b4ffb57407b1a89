"""How much a queue asks for: how many jobs wait, how many run, and for how long the oldest has waited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jobqueue.admin.fields import counts, time_of
from jobqueue.protocol import keys
from jobqueue.store.connection import redis

HEADS = 5  # jobs at the head whose age is read: one may be gone, or have been put in front of older ones


class Demand(NamedTuple):
    """The demand of one queue. A job that a worker has claimed and not started counts as running."""

    waiting: int
    running: int
    latency: float  # seconds since the oldest waiting job was enqueued; 0: none waits

    def __add__(self, other: object) -> Demand:
        """Return the demand of two queues together."""
        if not isinstance(other, Demand):
            return NotImplemented
        return Demand(self.waiting + other.waiting, self.running + other.running, max(self.latency, other.latency))


def demands(client: redis.Redis, queues: Sequence[str]) -> list[Demand]:
    """Return the demand of each queue; that of a queue that does not exist is 0. The number of jobs does not matter
    for how long this takes. Raises RedisError."""
    with client.pipeline(transaction=False) as pipe:
        pipe.time()
        for name in queues:
            pipe.llen(keys.queue(name))
            pipe.llen(keys.intermediate(name))
            pipe.zcard(keys.registry("wip", name))
            pipe.lrange(keys.queue(name), 0, HEADS - 1)
        (seconds, micros), *replies = pipe.execute(raise_on_error=False)
    heads = [ids if isinstance(ids, list) else [] for ids in replies[3::4]]
    waiting, claimed, started = (counts(replies[at::4]) for at in range(3))
    ages = _latencies(client, heads, seconds + micros / 1e6)
    return [Demand(*found) for found in zip(waiting, map(sum, zip(claimed, started, strict=True)), ages, strict=True)]


def _latencies(client: redis.Redis, heads: Sequence[Sequence[bytes]], now: float) -> list[float]:
    """Return the age of the oldest of these jobs, for each queue. ``now``: by the store's clock."""
    if not any(heads):
        return [0.0] * len(heads)
    with client.pipeline(transaction=False) as pipe:
        for ids in heads:
            for job_id in ids:
                pipe.hget(keys.job(job_id.decode(errors="replace")), "enqueued_at")
        found = iter(pipe.execute(raise_on_error=False))
    return [max((_age(next(found), now) for _ in ids), default=0.0) for ids in heads]


def _age(enqueued_at: Any, now: float) -> float:
    moment = time_of(enqueued_at) if isinstance(enqueued_at, bytes) else None
    return max(0.0, now - moment.timestamp()) if moment else 0.0
