"""Measure what the usage accounting costs: no-op jobs per second with and without it, in turn.

    python benchmarks/accounting.py [--rounds N] [--jobs N] [--mode process|thread] [-n N] [--pairs N] [--json]

First inside one worker (``jobqueue.rq.SimpleWorker``: the same slot and consumer), which accounts for one block of
1,000 jobs and not for the next: other load on the machine hits both, and hundreds of pairs give an interval narrow
enough to tell one per cent from three. Then whole workers, whose runs differ more: each round runs one with accounting
and one without (JOBQ_ACCOUNTING=0), on the same store with the same jobs, every second round in the other order. Ratios
are taken within a pair or a round. The interval is that of the median by order statistics, 95 %, whatever the
distribution. CPU time is shown as well, which other load disturbs less.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import resource
import statistics
import sys
import time
from typing import Any
from unittest import mock

import rq
from bench import QUEUE, Bench, bench

import jobqueue.workers.rq_classes.engine
from jobqueue import Queue
from jobqueue.protocol import keys
from jobqueue.workers.child.slot import Slot
from jobqueue.workers.rq_classes.worker import SimpleWorker
from jobqueue.workers.running.task_meter import Usage

BLOCK = 1000  # jobs; many more than make up one record, so that the cost of writing it falls into the block
MOST = 0.03  # share of the throughput that accounting may cost


def run(on: Bench, options: argparse.Namespace, accounting: bool) -> tuple[float, float]:
    """Return jobs per second, and the CPU microseconds that the worker's processes took per job."""
    with on.store.client() as client:
        client.flushdb()
    with Queue(QUEUE, store=on.store) as queue:
        ids = list(queue.enqueue_many("square", range(options.jobs)).ids)
    before = cpu_of_children()
    on.burst(on.worker(options.mode, options.number, ["--burst"], {"JOBQ_ACCOUNTING": str(int(accounting))}))
    cpu = cpu_of_children() - before
    with on.store.client() as client:
        if bool(client.exists(keys.USAGE)) is not accounting:
            raise SystemExit("the switch does not work")
    return on.rate(ids), cpu / options.jobs * 1e6


def cpu_of_children() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


def measure(options: argparse.Namespace) -> dict[str, Any]:
    rates: dict[bool, list[float]] = {True: [], False: []}
    cpus: dict[bool, list[float]] = {True: [], False: []}
    with bench() as on:
        for number in range(options.rounds):
            for accounting in (True, False) if number % 2 else (False, True):
                rate, cpu = run(on, options, accounting)
                rates[accounting].append(rate)
                cpus[accounting].append(cpu)
            ratio = rates[True][-1] / rates[False][-1]
            print(f"round {number + 1}/{options.rounds}  with {rates[True][-1]:,.0f}/s  without "
                  f"{rates[False][-1]:,.0f}/s  ratio {ratio:.3f}", file=sys.stderr)  # fmt: skip
    return {
        "rates": {"with": rates[True], "without": rates[False]},
        "cpu_us": {"with": cpus[True], "without": cpus[False]},
    }


def measure_within(pairs: int) -> dict[str, Any]:
    """Return jobs per second and CPU microseconds per job (of the worker's thread), per block with and without."""
    marks: list[tuple[float, float]] = []
    began, meter = 0, None
    run_one = Slot._run_one

    def switching(slot: Slot, job: Any) -> None:
        nonlocal began, meter
        if began % BLOCK == 0:
            meter = meter or slot.meter
            slot.meter = None if len(marks) % 2 else meter
            marks.append((time.perf_counter(), time.thread_time()))
        began += 1
        run_one(slot, job)

    accounts = mock.patch.object(jobqueue.workers.rq_classes.engine, "Usage", lambda slots, _on: Usage(slots, True))
    with bench() as on, accounts, mock.patch.object(Slot, "_run_one", switching):
        with Queue(QUEUE, store=on.store) as queue:
            queue.enqueue_many("square", range((2 * pairs + 3) * BLOCK))
        client = on.store.client()
        theirs = rq.Queue(QUEUE, connection=client, serializer="json")
        SimpleWorker([theirs], connection=client, serializer="json").work(burst=True, logging_level="WARNING")
    blocks = [(BLOCK / (b[0] - a[0]), (b[1] - a[1]) / BLOCK * 1e6) for a, b in itertools.pairwise(marks)]
    accounted, plain = blocks[2::2][:pairs], blocks[3::2][:pairs]  # the first two are warm-up
    return {
        "rates": {"with": [b[0] for b in accounted], "without": [b[0] for b in plain]},
        "cpu_us": {"with": [b[1] for b in accounted], "without": [b[1] for b in plain]},
    }


def ratios(pairs: dict[str, list[float]]) -> list[float]:
    return [a / b for a, b in zip(pairs["with"], pairs["without"], strict=True)]


def interval(values: list[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of the median by order statistics: the number of values below it is binomial(n, 1/2)."""
    ordered, n = sorted(values), len(values)
    below, tail = 0, 0.5**n
    while below < n // 2 and 2 * tail <= 1 - confidence:
        below += 1
        tail += math.comb(n, below) * 0.5**n
    # The values number `below` from either end: it is rarer than allowed that fewer than that many lie below the
    # median.

    at = max(0, below - 1)
    return ordered[at], ordered[n - 1 - at]


def show(where: str, found: dict[str, Any]) -> None:
    print(where)
    for name, unit in (("rates", "jobs/s"), ("cpu_us", "µs of CPU per job")):
        values = ratios(found[name])
        low, high = interval(values)
        medians = [statistics.median(found[name][key]) for key in ("with", "without")]
        print(f"  {unit}: with {medians[0]:,.1f}, without {medians[1]:,.1f}; "
              f"median ratio {statistics.median(values):.3f}, 95 % interval {low:.3f} to {high:.3f}")  # fmt: skip
    cost = 1 - statistics.median(ratios(found["rates"]))
    print(f"  accounting costs {cost:.1%} of the throughput; at most {MOST:.0%} are allowed")


def main() -> None:
    parser = argparse.ArgumentParser(description="What the usage accounting costs.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--mode", choices=["process", "thread"], default="process")
    parser.add_argument("-n", dest="number", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--pairs", type=int, default=200, help="of blocks, within one worker")
    options = parser.parse_args()
    found = {
        f"within one worker, {options.pairs} pairs of {BLOCK:,} jobs": measure_within(options.pairs),
        f"whole workers with their start-up, {options.rounds} alternations": measure(options)
        if options.rounds
        else None,
    }
    if options.json:
        print(json.dumps(found))
        return
    for where, figures in found.items():
        show(where, figures)


if __name__ == "__main__":
    main()
