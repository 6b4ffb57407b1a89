"""The metrics of one worker, served by its supervisor: what it knows itself, and its own registration in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import psutil
from prometheus_client.core import Metric

from jobqueue.admin.demand import Demand
from jobqueue.metrics.families import counter, gauge, single, version
from jobqueue.metrics.tree_facts import TreeFacts
from jobqueue.model import WorkerView
from jobqueue.store.connection import redis

MOST_QUEUES = 100  # that have label values; a worker of more shows the first ones


class TreeMetrics:
    """A collector of prometheus_client."""

    def __init__(
        self,
        facts: Callable[[], TreeFacts],
        registration: Callable[[], WorkerView | None],
        demands: Callable[[], Mapping[str, Demand]] = dict,
    ) -> None:
        """registration: reads what the store knows of the worker; demands: reads what its queues ask for."""
        self._facts = facts
        self._registration = registration
        self._demands = demands

    def collect(self) -> Iterator[Metric]:
        facts = self._facts()
        yield version("jobq_tree", "The worker, and its version of jobq.", worker=facts.worker)
        yield single("jobq_tree_can_claim", "Whether the worker can claim jobs.", float(not facts.why_not))
        yield single("jobq_tree_slots", "Jobs that it can run at a time.", facts.slots)
        yield single("jobq_tree_slots_busy", "Jobs that run.", facts.slots_busy)
        yield single("jobq_tree_processes", "Processes that run jobs.", len(facts.pids))
        if facts.lease_age is not None:
            text = "Seconds since the store confirmed the lease."
            yield single("jobq_tree_lease_age_seconds", text, facts.lease_age)
        deaths = {(cause,): float(n) for cause, n in facts.deaths.items()}
        yield counter("jobq_tree_deaths", "Processes that run jobs and died, by cause.", ("cause",), deaths)
        text = "Memory that only these processes use (USS)."
        memory = {("supervisor",): _memory(0), ("children",): sum(map(_memory, facts.pids))}
        yield gauge("jobq_tree_memory_bytes", text, ("process",), memory)
        yield from self._registered()

    def _registered(self) -> Iterator[Metric]:
        """Yield what the store knows; without the store only that it could not be read."""
        try:
            found, demands = self._registration(), self._demands()
        except (redis.RedisError, OSError):
            yield single("jobq_up", "Whether the store could be read.", 0.0)
            return
        yield single("jobq_up", "Whether the store could be read.", 1.0)
        if found is not None:
            outcomes = {("finished",): float(found.done), ("failed",): float(found.failed)}
            yield counter("jobq_tree_jobs", "Jobs that it has ended.", ("outcome",), outcomes)
            yield counter("jobq_tree_busy_seconds", "Seconds that jobs ran.", (), {(): found.working_time})
        jobs = {(name, "waiting"): float(it.waiting) for name, it in demands.items()}
        jobs |= {(name, "running"): float(it.running) for name, it in demands.items()}
        text = "Jobs of the queues that it serves, whichever worker runs them."
        yield gauge("jobq_tree_queue_jobs", text, ("queue", "state"), jobs)
        latency = {(name,): it.latency for name, it in demands.items()}
        text = "Seconds since the oldest waiting job of the queue was enqueued; 0: none waits."
        yield gauge("jobq_tree_queue_latency_seconds", text, ("queue",), latency)


def _memory(pid: int) -> float:
    """Return the bytes that this process alone uses; 0 where that cannot be read. ``pid`` 0: this process."""
    try:
        process = psutil.Process(pid or None)
        return float(process.memory_full_info().uss)
    except (psutil.Error, OSError):
        return 0.0
