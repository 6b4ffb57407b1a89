"""Measure whether the process that runs jobs grows with the number of jobs: no-op jobs, and its memory now and again.

    python benchmarks/memory.py [--jobs N] [--kinds process,thread,Worker,SimpleWorker]

The jobs are enqueued in blocks while the worker runs; their results are kept for a second, so that the store does not
grow either. What is measured is the memory that belongs to the process alone (USS), after each twentieth of the jobs.
What it needs to begin with (pools, caches, the allocator's reserve) is there after the first fifth: from there to the
end it may grow by ``MOST`` bytes a job and by ``SLACK``. The exit code is 1 when it grew by more.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator

import psutil
from bench import QUEUE, Bench, bench

from jobqueue import Queue

MOST = 1.0  # bytes a job; for comparison, an environment variable that was set with each job took 96
SLACK = 300_000  # bytes by which memory may vary by itself
PARTS = 20
SETTLED = 4  # parts until the memory does not grow any more
RQS = {"Worker": "jobqueue.rq.Worker", "SimpleWorker": "jobqueue.rq.SimpleWorker"}


@contextlib.contextmanager
def running(kind: str, on: Bench) -> Iterator[int]:
    """Run a worker of this kind; yield the pid that it was started with."""
    if kind not in RQS:
        with on.worker(kind, 1) as worker:
            yield worker.pid
        return
    rqs = on.rq_worker(RQS[kind], "--serializer", "jobqueue.serializers.Auto", RQ_WORKER_TTL="60")
    try:
        yield rqs.pid
    finally:
        rqs.terminate()
        rqs.wait()


def runs_jobs(kind: str, worker: psutil.Process) -> psutil.Process:
    """Wait for the process in which the jobs of this kind of worker run, and return it."""
    depth = {"SimpleWorker": 0, "Worker": 1}.get(kind, 2)
    found = [worker]
    while len(found) <= depth:
        found += found[-1].children()[:1]
        time.sleep(0.05)
    return found[depth]


def enqueue(queue: Queue, jobs: int) -> None:
    """Enqueue the jobs, and wait until the last has run."""
    last = None
    for begun in range(0, jobs, 5000):
        for job in queue.enqueue_many("square", range(min(5000, jobs - begun)), result_ttl=1):
            last = job
    assert last is not None
    last.result(600)
    while queue.count:
        time.sleep(0.05)


def measure(kind: str, jobs: int, on: Bench) -> list[int]:
    """Return USS in bytes after each part."""
    with on.store.client() as client:
        client.flushdb()
    sizes = []
    with running(kind, on) as pid, Queue(QUEUE, store=on.store) as queue:
        queue.enqueue("square", 1).result(60)
        process = runs_jobs(kind, psutil.Process(pid))
        for _ in range(PARTS):
            enqueue(queue, jobs // PARTS)
            sizes.append(process.memory_full_info().uss)
            print(f"{kind}: {len(sizes) * jobs // PARTS:,} jobs, {sizes[-1] / 1e6:.1f} MB", flush=True)
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--kinds", default="process,thread,Worker,SimpleWorker")
    options = parser.parse_args()
    grew = False
    with bench() as on:
        for kind in options.kinds.split(","):
            sizes = measure(kind, options.jobs, on)
            per_job = (sizes[-1] - sizes[SETTLED - 1]) / (options.jobs * (PARTS - SETTLED) / PARTS)
            print(
                f"{kind}: {' '.join(f'{size / 1e6:.1f}' for size in sizes)} MB, {per_job:.2f} bytes a job", flush=True
            )
            grew = grew or sizes[-1] - sizes[SETTLED - 1] > MOST * options.jobs + SLACK
    sys.exit(f"a process grew by more than {MOST:g} bytes a job" if grew else 0)


if __name__ == "__main__":
    main()
