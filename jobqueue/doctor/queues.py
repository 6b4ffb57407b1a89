"""Examine queues, workers and kept jobs: what stands still, what no worker serves or can read, what piles up."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from jobqueue.admin.inspector import Inspector
from jobqueue.doctor.finding import Finding
from jobqueue.doctor.server import size
from jobqueue.model import Overview, WorkerView
from jobqueue.protocol import keys
from jobqueue.serializers import decompress, format_of
from jobqueue.store.connection import redis
from jobqueue.words import count

SILENT = 420.0  # seconds; RQ's DEFAULT_WORKER_TTL
HEAD = 200  # jobs at the head of each queue whose format is checked
SAMPLE = 50  # jobs whose memory is measured to estimate the rest
A_MONTH = 30 * 86_400.0
MUCH = 100e6  # bytes of kept jobs from which a warning is given
SHARE = 0.25  # or this share of the server's maxmemory, if that is less


def examine_queues(client: redis.Redis) -> Iterator[Finding]:
    """Iterate over the findings about queues, workers and kept jobs."""
    overview = Inspector(client).overview()
    yield from _halted(overview)
    yield from _unserved(overview)
    yield _workers(overview.workers)
    yield from _formats(client, overview)
    yield from _failed(client, overview)
    yield from _kept_for_ever(client, overview)


def _halted(overview: Overview) -> Iterator[Finding]:
    if overview.suspended:
        yield Finding("suspended", "warning", "All workers are suspended.", "`jobq resume` ends it.")
    waiting = {queue.name: queue.queued for queue in overview.queues}
    for name in overview.paused:
        text = f"Queue {name!r} is paused; {count(waiting.get(name, 0), 'job')} waiting."
        yield Finding("paused", "warning", text, f"`jobq resume {name}` ends it.", (name,))


def _unserved(overview: Overview) -> Iterator[Finding]:
    served = {name for worker in overview.workers if not _is_silent(worker) for name in worker.queues}
    for queue in overview.queues:
        if queue.queued and queue.name not in served:
            text = f"{count(queue.queued, 'job waits', 'jobs wait')} in {queue.name!r}, which no worker serves yet."
            yield Finding("unserved", "warning", text, f"`jobq worker {queue.name}` starts one.", (queue.name,))


def _is_silent(worker: WorkerView) -> bool:
    return worker.heartbeat_age is None or worker.heartbeat_age > SILENT


def _workers(workers: Sequence[WorkerView]) -> Finding:
    silent = [worker for worker in workers if _is_silent(worker)]
    if not silent:
        return Finding("workers", "ok", f"{count(len(workers), 'worker')}, all with a heartbeat")
    names = tuple(worker.name for worker in silent)
    text = f"{count(len(silent), 'worker')} without a heartbeat for {SILENT / 60:.0f} minutes or more: {names[0]}"
    text += f" and {count(len(silent) - 1, 'other')}." if len(silent) > 1 else "."
    return Finding("workers", "warning", text, "Do they still run? If not, their jobs come back by themselves.", names)


def _formats(client: redis.Redis, overview: Overview) -> Iterator[Finding]:
    """Find formats that no worker accepts. Only jobs at the head are read: a store with a million jobs is not read
    through."""
    for queue in overview.queues:
        if not queue.queued:
            continue
        ids: Any = client.lrange(keys.queue(queue.name), 0, HEAD - 1)
        with client.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hget(keys.job(job_id.decode(errors="replace")), "data")
            found = Counter(format_of(decompress(data)) for data in pipe.execute() if data)
        others = found.total() - found["json"]
        if others:
            text = f"{others:,} of the first {found.total():,} jobs in {queue.name!r} are not JSON but pickle."
            to_do = "Serve them with `jobq worker --accept json,pickle`, if you trust everybody who can write here."
            yield Finding("pickle", "note", text, to_do, (queue.name,))


def _failed(client: redis.Redis, overview: Overview) -> Iterator[Finding]:
    total = sum(queue.failed for queue in overview.queues)
    if not total:
        yield Finding("failed", "ok", "no failed jobs are kept")
        return
    each, remaining = _weigh(client, [queue.name for queue in overview.queues if queue.failed])
    text = f"{count(total, 'failed job is', 'failed jobs are')} kept, about {size(total * each)}"
    text += f", half of them for {remaining / 86_400:,.0f} more days or longer." if remaining > A_MONTH else "."
    to_do = "`jobq failed list` shows them, `jobq failed requeue|delete --all` clears them"
    to_do += "; RQ keeps a year: enqueue with --failure-ttl." if remaining > A_MONTH else "."
    yield Finding("failed", "warning" if total * each > _much(client) else "note", text, to_do)


def _much(client: redis.Redis) -> float:
    """Return from how many bytes of kept jobs a warning is given."""
    try:
        limit = int(client.info("memory").get("maxmemory", 0))
    except redis.ResponseError:  # an ACL forbids INFO
        limit = 0
    return min(MUCH, limit * SHARE or MUCH)


def _weigh(client: redis.Redis, queues: Sequence[str]) -> tuple[float, float]:
    """Return the mean bytes of a failed job with its results, and the median of the seconds until it expires."""
    weights, times = [], []
    for name in queues:
        ids: Any = client.zrange(keys.registry("failed", name), 0, SAMPLE - 1, withscores=True)
        with client.pipeline(transaction=False) as pipe:
            for job_id, _ in ids:
                pipe.memory_usage(keys.job(job_id.decode(errors="replace")))
                pipe.memory_usage(keys.results(job_id.decode(errors="replace")))
            used = pipe.execute(raise_on_error=False)
        weights += [_bytes(used[2 * i]) + _bytes(used[2 * i + 1]) for i in range(len(ids))]
        times += [score - time.time() for _, score in ids]
    times.sort()
    return (sum(weights) / len(weights), times[len(times) // 2]) if weights else (0.0, 0.0)


def _bytes(used: Any) -> int:
    return used if isinstance(used, int) else 0  # the key is gone, or an ACL forbids MEMORY


def _kept_for_ever(client: redis.Redis, overview: Overview) -> Iterator[Finding]:
    with client.pipeline(transaction=False) as pipe:
        for queue in overview.queues:
            pipe.zcount(keys.registry("finished", queue.name), "+inf", "+inf")
        counts = pipe.execute()
    names = tuple(queue.name for queue, n in zip(overview.queues, counts, strict=True) if n)
    if names:
        text = f"{count(sum(counts), 'finished job is', 'finished jobs are')} kept for ever (result_ttl -1)."
        yield Finding("kept", "note", text, "The store grows with each: use a --result-ttl in seconds.", names)
