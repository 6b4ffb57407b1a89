"""Measure one cell of one peer: figures by name. All times are in seconds, memory in bytes."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import quantiles

from peers.body import LONG
from peers.candidate import Candidate, Peer, PeerFailed, running
from peers.plan import Cell, Options, Width
from peers.stamps import Stamps
from peers.store import BenchStore

Figures = dict[str, float]
PROBE = 300  # jobs by whose rate the number of a run's jobs is chosen
LEAST, MOST = 100, 200_000  # jobs of a run
SETTLING = 0.3  # seconds after the last body's end that count to the costs: what is recorded late is work too
GAP = 0.02  # seconds between two jobs of the row latency
PATIENCE = 600.0  # seconds that filling the queue for the row growth may take
LITTLE = 1000  # waiting jobs that the row growth compares with


class Measure:
    """Measures cells on one store, with one file of stamps."""

    def __init__(self, store: BenchStore, stamps: Stamps, options: Options) -> None:
        self._store, self._stamps, self._options = store, stamps, options

    def cell(self, peer: Peer, cell: Cell) -> Figures:
        """Measure the cell; {} where the peer has no such width. Raises PeerFailed."""
        self._store.erase()
        try:
            if cell.width is None:
                return self._enqueue(peer)
            with running(peer, cell.width, self._stamps, cell.task) as candidate:
                if candidate is None:
                    return {}
                ways: dict[str, Callable[[Candidate, Cell, Width], Figures]] = {
                    "drain": self._drain, "latency": self._latency, "memory": self._memory, "growth": self._growth,
                }  # fmt: skip
                return ways[cell.what](candidate, cell, cell.width)
        finally:
            self._store.erase()

    # -- the ways ------------------------------------------------------------------------------------------------------

    def _enqueue(self, peer: Peer) -> Figures:
        most = self._options.jobs or MOST
        if peer.is_pool:
            return self._submit(peer, most)
        one = peer.ask("enqueue", self._options.seconds, most)
        figures = {"rate": one["jobs"] / one["seconds"]}
        if peer.said["bulk"]:
            self._store.erase()
            many = peer.ask("enqueue_many", self._options.seconds, most)
            figures["bulk"] = many["jobs"] / many["seconds"]
        return figures

    def _submit(self, pool: Peer, most: int) -> Figures:
        """Measure what submit() of a plain pool takes while its thread waits."""
        pool.ask("open_pool", "slot", 1)
        try:
            self._stamps.set_gate(False)
            pool.ask("hold_pool")
            one = pool.ask("enqueue", self._options.seconds, most)
        finally:
            self._stamps.set_gate(True)
            pool.ask("close_pool")
        return {"rate": one["jobs"] / one["seconds"]}

    def _drain(self, candidate: Candidate, cell: Cell, width: Width) -> Figures:
        memory = candidate.pss()
        jobs = self._options.jobs or self._worth(candidate, cell.task, width)
        cpu, before = candidate.cpu(), self._store.counters()
        candidate.fill(cell.task, jobs)
        filled = self._store.counters()
        began = candidate.go()
        candidate.wait(range(jobs))
        ended = self._stamps.last_end(range(jobs))
        time.sleep(SETTLING)
        after = self._store.counters()
        figures = {"rate": jobs / (ended - began) * 1e9, "pss": memory, "jobs": jobs}
        if candidate.peer.is_pool:  # a plain pool submits in the same process, so the cost is not only its workers'
            return figures
        return figures | {
            "worker_cpu": (candidate.cpu() - cpu) / jobs,
            "store_cpu": (after.cpu - filled.cpu) / jobs,
            "enqueue_cpu": (filled.cpu - before.cpu) / jobs,
            "commands": (after.commands - filled.commands - 2) / jobs,  # two are the INFO commands of this measurement
        }

    def _worth(self, candidate: Candidate, task: str, width: Width) -> int:
        """Return how many jobs take about as long as a run should."""
        probe = PROBE if task == "noop" else max(4, 2 * width.number)
        began, ended = candidate.drain(task, probe)
        rate = probe / max(ended - began, 1) * 1e9
        if task != "noop":
            rate = min(rate, width.number / LONG)
        return int(min(max(rate * self._options.seconds, min(LEAST, 2 * probe)), MOST))

    def _latency(self, candidate: Candidate, _cell: Cell, _width: Width) -> Figures:
        jobs = self._options.jobs or max(20, int(self._options.seconds / GAP))
        self._stamps.clear(range(jobs))
        times = candidate.peer.ask("latency", jobs, GAP)
        starts = [(self._stamps.read(number)[0] - began) / 1e9 for number, (began, _) in enumerate(times)]
        results = [(back - began) / 1e9 for began, back in times]
        if min(starts) < 0:
            raise PeerFailed("a job's result was there before the job")
        return {f"{name}_{part}": value
                for name, found in (("start", starts), ("result", results))
                for part, value in _percentiles(found).items()}  # fmt: skip

    def _memory(self, candidate: Candidate, _cell: Cell, _width: Width) -> Figures:
        return {"pss": candidate.pss()}

    def _growth(self, candidate: Candidate, _cell: Cell, _width: Width) -> Figures:
        """Measure the cost of a job with few and with many waiting jobs: the time from job to job in the first
        seconds."""
        few = 0.0
        rounds, until = 0, time.monotonic() + self._options.seconds
        while rounds < 1 or time.monotonic() < until:
            began, ended = candidate.drain("noop", LITTLE)
            few, rounds = few + (ended - began) / 1e9 / LITTLE, rounds + 1
        many = self._options.waiting
        expected = self._filling(candidate, many)
        if expected > PATIENCE:
            return {"few": few / rounds, "filling": expected}
        candidate.fill("noop", many)
        began = candidate.go()
        done = candidate.wait(range(many), time.monotonic() + self._options.seconds)
        took = (self._stamps.last_end(range(done)) - began) / 1e9 if done else float("inf")
        return {"few": few / rounds, "many": took / done if done else took}

    def _filling(self, candidate: Candidate, jobs: int) -> float:
        """Estimate how many seconds it takes to enqueue this number of jobs."""
        began = time.monotonic()
        candidate.fill("noop", LITTLE)
        took = (time.monotonic() - began) / LITTLE * jobs
        candidate.go()
        candidate.wait(range(LITTLE))
        return took


def _percentiles(values: list[float]) -> Figures:
    cut = quantiles(values, n=100, method="inclusive")
    return {"p50": cut[49], "p95": cut[94], "p99": cut[98]}
