"""Measure no-op jobs per second: RQ's SimpleWorker and jobq, on the same store, with the same jobs.

    python benchmarks/throughput.py [--rounds N] [--json]

Each round runs every variant once, in turn (A B C A B C), so that other load on the machine hits all of them; the table
shows medians over the rounds. The jobs are `square(i)`, JSON, enqueued before the worker starts. The rate is jobs /
(the last job's ended_at - the first job's started_at), as the workers recorded them: starting Python and importing the
worker is not counted (of several RQ workers, the one that is up first begins). Results are kept, as both do by default;
RQ logs with --quiet. RQ gets fewer jobs, so that a round of it does not take minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from typing import Any, NamedTuple

from bench import LIMIT, QUEUE, Bench, bench

from jobqueue import Queue

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Variant(NamedTuple):
    """A way to run the jobs: ``mode`` is one of `jobq worker`'s, or "rq": then ``number`` workers of RQ's."""

    name: str
    jobs: int
    mode: str
    number: int


def rq(workers: int) -> Variant:
    return Variant(f"rq SimpleWorker, {workers} of them", 500 * workers, "rq", workers)


def jobq(mode: str, number: int) -> Variant:
    return Variant(f"jobq --mode {mode} -n {number}", 20_000, mode, number)


def variants() -> list[Variant]:
    several = [number for number in (1, CORES) if number == 1 or CORES > 1]
    return [*map(rq, several), *(jobq("process", n) for n in several), jobq("thread", 8)]


def run(variant: Variant, on: Bench) -> float:
    """Return jobs per second. Raises SystemExit when a worker fails or a job did not give its result."""
    with on.store.client() as client:
        client.flushdb()
    with Queue(QUEUE, store=on.store) as queue:
        ids = list(queue.enqueue_many("square", range(variant.jobs)).ids)
    if variant.mode == "rq":
        flags = ("--serializer", "json", "--burst")
        running = [on.rq_worker("rq.worker.SimpleWorker", *flags) for _ in range(variant.number)]
        codes = [worker.wait(LIMIT) for worker in running]
        if any(codes):
            raise SystemExit(f"{variant.name} failed")
    else:
        on.burst(on.worker(variant.mode, variant.number, ["--burst"]))
    return on.rate(ids)


def measure(rounds: int) -> list[dict[str, Any]]:
    rates: dict[Variant, list[float]] = {variant: [] for variant in variants()}
    with bench() as on:
        for number in range(rounds):
            for variant, measured in rates.items():
                measured.append(run(variant, on))
                print(f"round {number + 1}/{rounds}  {variant.name:<28}{measured[-1]:>8,.0f}", file=sys.stderr)
    return [{"name": v.name, "jobs": v.jobs, "rates": measured} for v, measured in rates.items()]


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
