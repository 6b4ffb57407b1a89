"""Compare RQ's worker classes with jobq's in their places: `rq worker --worker-class`, no-op jobs, interleaved.

    python benchmarks/rq_classes.py [--rounds N] [--jobs N]

Each round runs every class once, in turn, so that other load on the machine hits all of them; the table shows medians.
The jobs are pickled `operator.add(1, 2)`, enqueued before the worker starts. The rate is jobs / (the last job's
ended_at - the first job's started_at), so starting Python is not counted. "reads" is how often the store read from a
socket (INFO total_reads_processed) per job, about the number of round trips; "commands" includes those inside scripts.
"""

from __future__ import annotations

import argparse
import operator
import statistics
import sys
from typing import NamedTuple

import redis
import rq
from bench import LIMIT, QUEUE, Bench, bench

PLACES = {
    "rq SimpleWorker": "rq.worker.SimpleWorker",
    "jobq SimpleWorker": "jobqueue.rq.SimpleWorker",
    "rq Worker": "rq.worker.Worker",
    "jobq Worker": "jobqueue.rq.Worker",
}


class Run(NamedTuple):
    """The figures of one run of one class."""

    rate: float  # jobs per second
    reads: float  # per job
    commands: float  # per job


def run(name: str, jobs: int, on: Bench) -> Run:
    """Run the jobs with one class. Raises SystemExit when it fails or leaves one behind."""
    client = on.store.client()
    client.flushdb()
    queue = rq.Queue(QUEUE, connection=client)
    ids = [job.id for job in queue.enqueue_many([rq.Queue.prepare_data(operator.add, (1, 2))] * jobs)]
    before = counters(client)
    if on.rq_worker(PLACES[name], "--burst").wait(LIMIT):
        raise SystemExit(f"{name} failed")
    after = counters(client)
    client.close()
    return Run(on.rate(ids), (after[0] - before[0]) / jobs, (after[1] - before[1]) / jobs)


def counters(client: redis.Redis) -> tuple[int, int]:
    info = client.info("stats")
    return info["total_reads_processed"], info["total_commands_processed"]


def main() -> None:
    parser = argparse.ArgumentParser(description="RQ's worker classes and ours in their places.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2000, help="for our classes; RQ's get a tenth")
    options = parser.parse_args()
    runs: dict[str, list[Run]] = {name: [] for name in PLACES}
    with bench() as on:
        for number in range(options.rounds):
            for name, measured in runs.items():
                jobs = options.jobs if name.startswith("jobq") else max(1, options.jobs // 10)
                measured.append(run(name, jobs, on))
                print(f"round {number + 1}/{options.rounds}  {name:<20}{measured[-1].rate:>8,.0f}", file=sys.stderr)
    show(runs)


def show(runs: dict[str, list[Run]]) -> None:
    print(f"\n{'':<20}{'jobs/s':>9}{'least':>8}{'most':>8}{'reads':>8}{'commands':>10}   ratio to RQ's")
    for name, measured in runs.items():
        theirs = runs[name.replace("jobq", "rq")]
        ratio = statistics.median(mine.rate / their.rate for mine, their in zip(measured, theirs, strict=True))
        rates = [one.rate for one in measured]
        numbers = f"{statistics.median(rates):>9,.0f}{min(rates):>8,.0f}{max(rates):>8,.0f}"
        reads, commands = (statistics.median(one[i] for one in measured) for i in (1, 2))
        print(f"{name:<20}{numbers}{reads:>8.2f}{commands:>10.1f}   {ratio:.1f}")


if __name__ == "__main__":
    main()
