"""Run ``jobq bench``: on the user's store, in queues of its own, with workers of its own; nothing is left of it.

    bare loop ─► enqueue one by one, in bulk ─► for each width: worker ─► stopped, filled, set going: a drain, again
                                                 └─► the first one also: single jobs, their latency

While a queue is filled the worker's tree is stopped by SIGSTOP, so that a drain begins with its whole backlog there and
no start-up counts. At most ``MOST_JOBS`` are in the store at a time, with their results some 100 MB.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Protocol

from jobqueue.bench.figures import BenchDrain, BenchFigures, BenchLatency, DrainRun
from jobqueue.bench.store_meter import StoreMeter
from jobqueue.compare.candidate_starter import CandidateStarter
from jobqueue.compare.candidates import Surroundings, WorkerCandidate
from jobqueue.compare.figures import LOOP, Work
from jobqueue.compare.measure import CpuMeter
from jobqueue.compare.measured_queue import MeasuredQueue, measured_queue
from jobqueue.compare.noise import Others
from jobqueue.compare.plan import Cell
from jobqueue.errors import JobqError
from jobqueue.executor.private_queue import new_name
from jobqueue.harness.freezing import frozen
from jobqueue.harness.processes import environment, run_directory
from jobqueue.harness.store import refuse_suspended, users
from jobqueue.insight.capacity import cores as usable_cores
from jobqueue.producing import catalog
from jobqueue.store.open import Store

TASK = "square"  # the smallest job there is
WORK = Work(TASK, catalog.dotted_name(TASK), ((7,),))
MOST_JOBS = 20_000
BULK = 5000  # jobs of one bulk enqueue
PROBE = 500  # jobs by whose rate the number of a run's jobs is chosen
RUNS = 3  # drains of each worker
SLICES = 15  # equal parts of the time: 2 enqueue, 3 x 3 drain, 1 is latency, the rest is starting and stopping
LATENCIES = (20, 200)  # single jobs, at least and at most
GAP = 0.01  # seconds between two of them
SETTLE = 0.1  # seconds after the last outcome until the costs are read: none is recorded later
LIMIT = 120.0  # seconds that one drain may take


class BenchFailed(JobqError):
    """The measurement could not be finished; the message says why."""


class BenchScreen(Protocol):
    """Receives the progress of a measurement; done is a share of the whole."""

    def ready(self, store: str) -> None: ...
    def step(self, text: str, done: float) -> None: ...


def run(url: str | None, seconds: float, screen: BenchScreen) -> BenchFigures:
    """Measure for about this number of seconds. Raises BenchFailed, CandidateFailed, StoreErrors; Ctrl-C raises one
    KeyboardInterrupt."""
    with run_directory("jobq-bench-") as directory, users(url, environment(directory)) as (store, env):
        screen.ready(store.describe())
        refuse_suspended(store)
        with store.client() as client:
            meter = StoreMeter(store, client)
            return Measurement(store, meter, Surroundings(env, directory), seconds, screen).figures()


def widths(cores: int) -> list[Cell]:
    """Return the widths to measure: one process, one per core, and threads."""
    several = [Cell("process", cores)] if cores > 1 else []
    return [Cell("process", 1), *several, Cell("thread", 8)]


class Measurement:
    """All steps of one ``jobq bench``."""

    def __init__(
        self, store: Store, meter: StoreMeter, around: Surroundings, seconds: float, screen: BenchScreen
    ) -> None:
        self._store, self._meter, self._screen = store, meter, screen
        self._starter = CandidateStarter(store, around)
        self._slice = seconds / SLICES
        self._others = Others(meter.unseen)
        self._taken: list[float] = []
        self._began = time.monotonic()

    def figures(self) -> BenchFigures:
        self._screen.step("what else this machine does", 0.0)
        self._taken.append(self._others.look())
        cells, cores = widths(usable_cores()), usable_cores()
        loop = self._loop()
        one_by_one, bulk = self._enqueue()
        drains: list[BenchDrain] = []
        latency = BenchLatency((), ())
        for number, cell in enumerate(cells):
            self._screen.step(f"{cell.mode} mode, -n {cell.workers}", 0.25 + 0.75 * number / len(cells))
            with self._starter.worker(cell.mode, cell.workers, "bench") as candidate:
                if number == 0:
                    latency = self._latency(candidate.queue)
                drains.append(BenchDrain(cell, tuple(self._drains(candidate))))
        return BenchFigures(
            loop, one_by_one, bulk, tuple(drains), latency, self._meter.round_trip(), cores, self._meter.is_near,
            time.monotonic() - self._began, statistics.median(self._taken),
        )  # fmt: skip

    # -- the steps -----------------------------------------------------------------------------------------------------

    def _loop(self) -> float:
        """Return calls per second of the task in a plain loop, in a process of its own."""
        self._screen.step("a plain loop", 0.03)
        with self._starter.candidate(LOOP, 1) as candidate:
            sample = candidate.run(WORK, MOST_JOBS, time.monotonic() + LIMIT)
        return 1 / statistics.median(sample.latencies)

    def _enqueue(self) -> tuple[float, float]:
        """Return jobs per second, one by one and in bulk. Nobody serves the queue."""
        with measured_queue(self._store, new_name("bench-enqueue")) as into:
            self._screen.step("enqueue, one by one", 0.08)
            one_by_one = self._one_by_one(into)
            self._screen.step("enqueue, in bulk", 0.16)
            rates: list[float] = []
            until = time.monotonic() + self._slice
            while not rates or time.monotonic() < until:
                if len(into.ids) + BULK > MOST_JOBS:
                    into.clean()
                began = time.monotonic()
                into.submit(TASK, ((number,) for number in range(BULK)))
                rates.append(BULK / (time.monotonic() - began))
        return one_by_one, statistics.median(rates)

    def _one_by_one(self, into: MeasuredQueue) -> float:
        enqueue, ids = into.queue.enqueue, into.ids
        enqueue(TASK, 0)  # connects
        began = time.monotonic()
        until = began + self._slice
        while time.monotonic() < until and len(ids) < MOST_JOBS:
            ids.append(enqueue(TASK, 7).id)
        return len(ids) / (time.monotonic() - began)

    def _latency(self, queue: MeasuredQueue) -> BenchLatency:
        """Enqueue one job at a time into an idle worker on this machine, whose clock is ours."""
        starts: list[float] = []
        results: list[float] = []
        least, most = LATENCIES
        until = time.monotonic() + self._slice
        while len(results) < least or (time.monotonic() < until and len(results) < most):
            at, began = time.time(), time.monotonic()
            job = queue.queue.enqueue(TASK, 7)
            job.result(LIMIT)
            results.append(time.monotonic() - began)
            queue.ids.append(job.id)
            starts.append(max(0.0, queue.started(job.id) - at))
            time.sleep(GAP)
        queue.forget_jobs()
        return BenchLatency(tuple(starts), tuple(results))

    def _drains(self, candidate: WorkerCandidate) -> Iterator[DrainRun]:
        probe = self._drain(candidate, PROBE)
        jobs = int(min(max(probe.rate * self._slice, PROBE), MOST_JOBS))
        for _ in range(RUNS):
            yield self._drain(candidate, jobs)

    def _drain(self, candidate: WorkerCandidate, jobs: int) -> DrainRun:
        """Let the worker run jobs that are all there before it begins. Raises BenchFailed, CandidateFailed."""
        queue = candidate.queue
        with frozen(candidate.pid):
            ids = queue.submit(TASK, ((number,) for number in range(jobs)))
            meter, store = CpuMeter(candidate.pid), self._meter.cpu()
            self._others.lap()
            began = time.monotonic()
        if not queue.wait(jobs, began + LIMIT, candidate.check):
            raise BenchFailed(f"{jobs:,} jobs did not end within {LIMIT:g} s.")
        wall = time.monotonic() - began
        others = self._others.lap()
        time.sleep(SETTLE)
        after = self._meter.cpu()
        spent = None if store is None or after is None else after - store
        found = DrainRun(jobs, wall, meter.lap()[0], spent, others)
        if failed := [i for i, status in zip(ids, queue.statuses(ids), strict=True) if status != "finished"]:
            raise BenchFailed(f"{len(failed):,} of {jobs:,} jobs failed: {queue.why(failed[0])}")
        queue.forget_jobs()
        self._taken.append(others)
        return found
