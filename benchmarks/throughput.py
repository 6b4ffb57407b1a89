"""How many no-op jobs per second: RQ's SimpleWorker and jobq, on the same store, with the same jobs.

    python benchmarks/throughput.py [--rounds N] [--json]

Each round runs every variant once, in turn (A B C A B C), so that whatever else the machine does hits all of them; the
table shows medians over the rounds. The jobs are `square(i)`, JSON, enqueued before the worker starts. The rate is
jobs / (the last job's ended_at - the first job's started_at), as the workers wrote them themselves: starting Python and
importing the worker is not counted (of several RQ workers, the one that is up first begins). Results are kept, as both
do by default; RQ logs with --quiet. RQ gets fewer jobs, so that a round of it does not take minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from jobqueue import Queue
from jobqueue.protocol import keys
from jobqueue.store.open import Store, open_store

QUEUE = "bench"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Variant(NamedTuple):
    """A way to run the jobs: ``workers`` processes of this command, each on a store URL that is appended."""

    name: str
    jobs: int
    workers: int
    argv: tuple[str, ...]


def rq(workers: int) -> Variant:
    argv = ("rq.cli", "worker", QUEUE, "--worker-class", "rq.worker.SimpleWorker", "--serializer", "json", "--burst")
    return Variant(f"rq SimpleWorker, {workers} of them", 500 * workers, workers, (*argv, "--quiet"))


def jobq(mode: str, number: int) -> Variant:
    argv = ("jobqueue.cli", "worker", QUEUE, "--mode", mode, "-n", str(number), "--burst")
    return Variant(f"jobq --mode {mode} -n {number}", 20_000, 1, argv)


def variants() -> list[Variant]:
    several = [number for number in (1, CORES) if number == 1 or CORES > 1]
    return [*map(rq, several), *(jobq("process", n) for n in several), jobq("thread", 8)]


def run(variant: Variant, store: Store) -> float:
    """Return jobs per second. Raises when a worker fails or a job did not give its result."""
    client = store.client()
    client.flushdb()
    with Queue(QUEUE, store=store) as queue:
        ids = list(queue.enqueue_many("square", range(variant.jobs)).ids)
    url = f"unix://{store.address.unix_socket_path}"
    argv = [sys.executable, "-m", *variant.argv, "--url", url]
    running = [subprocess.Popen(argv, stderr=subprocess.DEVNULL) for _ in range(variant.workers)]
    codes = [worker.wait(timeout=300) for worker in running]
    if any(codes):
        raise SystemExit(f"{variant.name} failed: {' '.join(argv)}")
    with client.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.hmget(keys.job(job_id), "status", "started_at", "ended_at")
        rows = pipe.execute()
    if unfinished := sum(status != b"finished" for status, _, _ in rows):
        raise SystemExit(f"{variant.name} left {unfinished} jobs behind")
    began, ended = min(seconds(row[1]) for row in rows), max(seconds(row[2]) for row in rows)
    return variant.jobs / (ended - began)


def seconds(stamp: bytes) -> float:
    return datetime.fromisoformat(stamp.decode()).timestamp()


def measure(rounds: int) -> list[dict[str, Any]]:
    rates: dict[Variant, list[float]] = {variant: [] for variant in variants()}
    with tempfile.TemporaryDirectory(prefix="jobq-bench-") as home, open_store(env=environment(home)) as store:
        for number in range(rounds):
            for variant, measured in rates.items():
                measured.append(run(variant, store))
                print(f"round {number + 1}/{rounds}  {variant.name:<28}{measured[-1]:>8,.0f}", file=sys.stderr)
    return [{"name": v.name, "jobs": v.jobs, "rates": measured} for v, measured in rates.items()]


def environment(home: str) -> dict[str, str]:
    """A store of its own, whatever JOBQ_URL says."""
    return {"JOBQ_HOME": str(Path(home) / "store"), "PATH": os.environ.get("PATH", "")}


def show(results: list[dict[str, Any]]) -> None:
    base = results[0]["rates"]
    print(f"\n{'jobs per second':<28}{'median':>9}{'least':>9}{'most':>9}{'jobs':>8}   ratio to the first row")
    for result in results:
        rates = result["rates"]
        ratio = statistics.median(mine / theirs for mine, theirs in zip(rates, base, strict=True))
        numbers = f"{statistics.median(rates):>9,.0f}{min(rates):>9,.0f}{max(rates):>9,.0f}{result['jobs']:>8,}"
        print(f"{result['name']:<28}{numbers}   {ratio:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="No-op jobs per second: RQ's SimpleWorker and jobq.")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    results = measure(options.rounds)
    print(json.dumps(results)) if options.json else show(results)


if __name__ == "__main__":
    main()
