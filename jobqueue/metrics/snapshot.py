"""Read from the store what the metrics of a whole store are made of. No query depends on the number of jobs."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobqueue.admin.demand import Demand, demands
from jobqueue.admin.inspector import Inspector
from jobqueue.insight.usage import TaskUsage, read_usage
from jobqueue.model import Overview
from jobqueue.protocol import keys
from jobqueue.store.connection import redis

PROCESS, JOB, RUN = "process:", "job:", "run:"  # fields of keys.DEATHS, which rescue.lua and cycle.lua write


@dataclass(frozen=True)
class StoreSnapshot:
    """The state of a store at one moment."""

    overview: Overview
    demands: dict[str, Demand]  # by queue
    usage: list[TaskUsage]
    deaths: dict[str, int] = field(default_factory=dict)  # of processes, by cause
    rescued: dict[str, int] = field(default_factory=dict)  # jobs, by what became of them
    failed_runs: dict[str, int] = field(
        default_factory=dict
    )  # by outcome:cause, as workers/running/failed_runs.py has it
    memory: int | None = None  # bytes that the server uses; None: it does not say
    memory_limit: int | None = None  # bytes; 0: none


def read_store(client: redis.Redis) -> StoreSnapshot:
    """Read everything. Raises RedisError."""
    overview = Inspector(client).overview()
    names = [queue.name for queue in overview.queues]
    deaths = _counters(client)
    memory, limit = _memory(client)
    return StoreSnapshot(
        overview=overview,
        demands=dict(zip(names, demands(client, names), strict=True)),
        usage=read_usage(client),
        deaths={name.removeprefix(PROCESS): n for name, n in deaths.items() if name.startswith(PROCESS)},
        rescued={name.removeprefix(JOB): n for name, n in deaths.items() if name.startswith(JOB)},
        failed_runs={name.removeprefix(RUN): n for name, n in deaths.items() if name.startswith(RUN)},
        memory=memory,
        memory_limit=limit,
    )


def _counters(client: redis.Redis) -> dict[str, int]:
    if client.type(keys.DEATHS) != b"hash":
        return {}
    found: dict[bytes, bytes] = client.hgetall(keys.DEATHS)  # type: ignore[assignment]
    return {name.decode(errors="replace"): int(n) for name, n in found.items() if n.isdigit()}


def _memory(client: redis.Redis) -> tuple[int | None, int | None]:
    try:
        info = client.info("memory")
    except redis.ResponseError:  # an ACL forbids INFO
        return None, None
    return info.get("used_memory"), info.get("maxmemory")
