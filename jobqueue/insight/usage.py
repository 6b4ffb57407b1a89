"""Read what workers recorded of each task; ``workers/running/task_meter.py`` writes it.

``rq:jobq:usage`` is the set of tasks, ``rq:jobq:usage:TASK`` a hash of whole numbers. Each field begins with the width,
the number of slots in the process that ran the job: figures from sixteen threads and from a process with one job at a
time do not mix, because jobs take longer beside others.

    N:runs N:errors N:wall_us N:b<k>         all runs; b<k>: those of 2^(k/2) to 2^((k+1)/2) microseconds
    N:wait_us N:w<k>                         how long jobs waited before their runs; w<k>: 2^k to 2^(k+1) microseconds
    N:cpu_runs N:cpu_us N:cpu_wall_us        runs whose CPU time was measured; all long ones, some of the short ones
    N:first_cpu_us N:first_cpu_wall_us       the same of each slot's first run, which imports and connects: kept apart
    N:others_us                              CPU time that others in the process had meanwhile; N > 1, as the next three
    N:turns_us                               the most they can have waited for the GIL, by their context switches
    N:looks N:waiting                        samples taken of runs, and those in which one waited, but not for the GIL
    N:company                                how many others ran beside it, summed over the samples
    N:held_us                                how long it kept the GIL in C code, where that was sampled; N = 1
    N:queued_us N:queued_wall_us             how long runs were ready to run and had no core, and their wall time
    N:measured N:grew N:growth_kb N:peak_kb  runs whose memory was measured, those that grew by 64 kB and more; N = 1
    N:first N:last                           between these times, in seconds of the store's clock

Beyond 500 names, further tasks are counted together as ``(other tasks)``. Records stay until they are reset.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from jobqueue.protocol import keys
from jobqueue.store.connection import redis

OTHERS = "(other tasks)"  # the same text as in cycle.lua
HOLDER = 1.5  # a thread that holds the GIL may wait for a core: then the others wait longer than it computes
SATURATED = 0.8  # share of a core above which a process with a GIL counts as fully busy
BUCKETS = 64  # the last bucket begins at 50 minutes
WAIT_BUCKETS = 40  # likewise at 6 days


# bucket(seconds): the histogram's bucket for a wall time. Only C code, because workers call it for every run.
bucket = partial(bisect_right, [2 ** (k / 2) * 1e-6 for k in range(1, BUCKETS)])


def bucket_field(number: int) -> str:
    return f"b{number}"


# wait_bucket(seconds): likewise the bucket for the time that a job waited.
wait_bucket = partial(bisect_right, [(1 << k) * 1e-6 for k in range(1, WAIT_BUCKETS)])


def wait_field(number: int) -> str:
    return f"w{number}"


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a task's runs in processes of one width. Seconds and MB; None where it could not be measured."""

    mode: Literal["thread", "process"]  # process: one job at a time in each; thread: several (also with --threads)
    width: int  # jobs at a time in one process
    runs: int
    errors: int
    wall_s: float  # of all runs
    cpu_s: float | None  # of all runs, estimated from those that were measured
    wall_s_p50: float
    wall_s_p95: float
    memory_growth_mb: float | None  # of a typical run
    memory_peak_mb: float | None  # the largest of all runs, beyond what the process had before
    gil_wait: float | None  # share of the wall time; None also where there is no GIL to wait for
    core_wait: float | None  # share of the wall time, for want of a core
    lock_wait: float | None  # share of the wall time, for a lock, or for the GIL while its holder did not compute
    company: float | None  # how many others ran beside it, on average
    held: float | None  # share of the wall time in which it kept the GIL in C code; only for one job at a time
    histogram: tuple[int, ...]  # runs per bucket
    first: datetime
    last: datetime
    wait_s: float = 0.0  # that jobs waited before these runs
    waits: tuple[int, ...] = ()  # runs per bucket of that time


@dataclass(frozen=True, slots=True)
class TaskUsage:
    """What is known of a task: a record per width, narrowest first."""

    task: str
    records: tuple[Record, ...]


def read_usage(client: redis.Redis) -> list[TaskUsage]:
    """Return the records of all tasks, by name. A key of another type is left out. Raises RedisError."""
    tasks = sorted(name.decode("utf-8", "replace") for name in _names(client))
    with client.pipeline(transaction=False) as pipe:
        for task in tasks:
            pipe.hgetall(keys.usage(task))
        hashes = pipe.execute(raise_on_error=False)
    found = [TaskUsage(task, _records(h)) for task, h in zip(tasks, hashes, strict=True) if isinstance(h, dict)]
    return [usage for usage in found if usage.records]


def reset_usage(client: redis.Redis, tasks: Iterable[str] | None = None) -> int:
    """Delete the records of these tasks, or all; return how many there were. Raises RedisError."""
    names = [task.encode() for task in tasks] if tasks is not None else _names(client)
    if not names:
        return 0
    with client.pipeline(transaction=True) as pipe:
        for name in names:
            pipe.srem(keys.USAGE, name)
            pipe.delete(keys.usage(name.decode("utf-8", "replace")))
        replies = pipe.execute()
    return sum(replies[::2])


def _names(client: redis.Redis) -> list[bytes]:
    if client.type(keys.USAGE) != b"set":
        return []
    return list(client.smembers(keys.USAGE))  # type: ignore[arg-type]


# -- from a hash to records ----------------------------------------------------------------------------------------


def _records(fields: Mapping[bytes, bytes]) -> tuple[Record, ...]:
    widths: dict[int, dict[str, float]] = {}
    for name, value in fields.items():
        width, colon, field = name.decode("utf-8", "replace").partition(":")
        if colon and width.isdecimal():
            widths.setdefault(int(width), {})[field] = _number(value)
    return tuple(_record(width, widths[width]) for width in sorted(widths) if widths[width].get("runs", 0) > 0)


def _number(value: bytes) -> float:
    try:
        return float(value)
    except ValueError:
        return 0.0


def _record(width: int, f: Mapping[str, float]) -> Record:
    runs, wall = int(f["runs"]), f.get("wall_us", 0.0) / 1e6
    histogram = tuple(int(f.get(bucket_field(k), 0)) for k in range(BUCKETS))
    queued_wall = f.get("queued_wall_us")
    core_wait = min(1.0, f.get("queued_us", 0.0) / queued_wall) if queued_wall else None
    cpu_wall = f.get("cpu_wall_us", 0.0)
    gil_wait = _gil_wait(f, cpu_wall, core_wait or 0.0) if cpu_wall and "others_us" in f else None
    return Record(
        mode="process" if width == 1 else "thread",
        width=width,
        runs=runs,
        errors=int(f.get("errors", 0)),
        wall_s=wall,
        cpu_s=_scaled_cpu(f, "") or _scaled_cpu(f, "first_"),
        wall_s_p50=quantile(histogram, 0.50),
        wall_s_p95=quantile(histogram, 0.95),
        memory_growth_mb=_typical_growth(f),
        memory_peak_mb=f["peak_kb"] / 1024 if "peak_kb" in f else None,
        gil_wait=gil_wait,
        core_wait=core_wait,
        lock_wait=_inside(f, cpu_wall, core_wait or 0.0, gil_wait) if cpu_wall and f.get("looks") else None,
        company=f.get("company", 0.0) / f["looks"] if f.get("looks") else None,
        held=min(1.0, f.get("held_us", 0.0) / cpu_wall) if cpu_wall and width == 1 else None,
        histogram=histogram,
        first=datetime.fromtimestamp(f.get("first", 0.0), UTC),
        last=datetime.fromtimestamp(f.get("last", 0.0), UTC),
        wait_s=f.get("wait_us", 0.0) / 1e6,
        waits=tuple(int(f.get(wait_field(k), 0)) for k in range(WAIT_BUCKETS)),
    )


def _scaled_cpu(f: Mapping[str, float], which: str) -> float | None:
    """Estimate the CPU time of all runs from the measured ones, in proportion to wall time, because which runs were
    measured depends on their length."""
    cpu_wall = f.get(f"{which}cpu_wall_us")
    return f.get(f"{which}cpu_us", 0.0) / cpu_wall * f.get("wall_us", 0.0) / 1e6 if cpu_wall else None


def _gil_wait(f: Mapping[str, float], cpu_wall: float, core_wait: float) -> float:
    """Return the time that was neither computing nor waiting for the outside or a core, up to what others computed
    meanwhile.

    Without samples (macOS, runs below 5 ms) a process that was always fully busy counts as one whose threads waited for
    each other.
    """
    own, others = f.get("cpu_us", 0.0) / cpu_wall, f["others_us"] / cpu_wall
    if looks := f.get("looks"):
        waited = 1 - own - core_wait - f.get("waiting", 0.0) / looks
    else:
        waited = others if own + others >= SATURATED else 0.0
    return max(0.0, min(waited, others * HOLDER, f.get("turns_us", cpu_wall) / cpu_wall, 1 - own))


def _inside(f: Mapping[str, float], cpu_wall: float, core_wait: float, gil_wait: float | None) -> float:
    """Return the time that was neither computing nor waiting for the outside, a core, or another job that computed."""
    outside = f.get("waiting", 0.0) / f["looks"]
    return max(0.0, 1 - f.get("cpu_us", 0.0) / cpu_wall - core_wait - outside - (gil_wait or 0.0))


def _typical_growth(f: Mapping[str, float]) -> float | None:
    """Return the mean growth if at least half of the runs grew: a cache that one run fills is not a leak."""
    measured = f.get("measured", 0)
    if not measured:
        return None
    return f.get("growth_kb", 0.0) / measured / 1024 if f.get("grew", 0) * 2 >= measured else 0.0


def quantile(histogram: Iterable[int], share: float) -> float:
    """Return the wall time in seconds below which that share of the runs lies, precise to about a fifth."""
    counts = list(histogram)
    left = share * sum(counts)
    for number, count in enumerate(counts):
        if count and left <= count:
            return float(2 ** ((number + left / count) / 2)) * 1e-6
        left -= count
    return 0.0
