"""The metrics of a whole store, read from it at each scrape: queues, workers, tasks, deaths."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client.core import Metric

from jobqueue.metrics.bounded_labels import OTHER, BoundedLabels, summed
from jobqueue.metrics.families import RUN_BOUNDS, WAIT_BOUNDS, counter, gauge, histograms, single, version
from jobqueue.metrics.snapshot import StoreSnapshot, read_store
from jobqueue.model import WorkerView
from jobqueue.store.connection import redis

log = logging.getLogger(__name__)

MOST_QUEUES = MOST_TASKS = 100
MOST_WORKERS = 200
MOST_CAUSES = 20
STATES = ("queued", "claimed", "started", "finished", "failed", "scheduled", "deferred", "canceled")


class StoreMetrics:
    """A collector of prometheus_client. Only one thread may collect at a time."""

    def __init__(
        self,
        client: redis.Redis,
        read: Callable[[redis.Redis], StoreSnapshot] = read_store,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._read = read
        self._clock = clock
        self._queues = BoundedLabels(MOST_QUEUES)
        self._tasks = BoundedLabels(MOST_TASKS)
        self._workers = BoundedLabels(MOST_WORKERS)
        self._classes = BoundedLabels(MOST_CAUSES)  # of exceptions
        self._was_up = True

    def collect(self) -> Iterator[Metric]:
        """Read the store. Where that fails, say ``jobq_up 0`` and nothing of the store."""
        began = self._clock()
        found = self._try()
        yield version("jobq", "The version of jobq that serves this.")
        yield single("jobq_up", "Whether the store could be read.", float(found is not None))
        if found is not None:
            self._choose(found)
            for part in (
                self._of_queues,
                self._of_workers,
                self._of_tasks,
                self._of_failures,
                _of_deaths,
                _of_the_server,
            ):
                yield from part(found)
        text = "Seconds that reading the store took."
        yield single("jobq_scrape_duration_seconds", text, self._clock() - began)

    def _try(self) -> StoreSnapshot | None:
        try:
            found = self._read(self._client)
        except (redis.RedisError, OSError) as e:
            if self._was_up:
                log.warning("the store cannot be read: %s", e)
            self._was_up = False
            return None
        self._was_up = True
        return found

    def _choose(self, found: StoreSnapshot) -> None:
        """Choose who has label values of its own: first the queues with the most to do, the tasks with the most
        runs."""
        demand = found.demands
        busiest = sorted(demand, key=lambda name: -(demand[name].waiting + demand[name].running))
        self._queues.choose(busiest)
        runs = {usage.task: sum(record.runs for record in usage.records) for usage in found.usage}
        self._tasks.choose(sorted(runs, key=lambda task: -runs[task]))
        self._workers.choose([worker.name for worker in found.overview.workers])
        failed = found.failed_runs
        self._classes.choose([it for it in sorted(failed, key=lambda end: -failed[end]) if _is_class(it)])

    # -- queues ------------------------------------------------------------------------------------------------------

    def _of_queues(self, found: StoreSnapshot) -> Iterator[Metric]:
        own, queues, demand = self._queues.of, found.overview.queues, found.demands
        jobs = summed(((own(q.name), state), getattr(q, state)) for q in queues for state in STATES)
        text = "Jobs by state; finished, failed and canceled: those that are still kept."
        yield gauge("jobq_queue_jobs", text, ("queue", "state"), jobs)
        backlog = summed(((own(name),), it.waiting + it.running) for name, it in demand.items())
        yield gauge("jobq_queue_backlog_jobs", "Jobs that wait or run: what to scale workers by.", ("queue",), backlog)
        latency: dict[tuple[str, ...], float] = {}
        for name, it in demand.items():
            latency[(own(name),)] = max(latency.get((own(name),), 0.0), it.latency)
        text = "Seconds since the oldest waiting job was enqueued; 0: none waits."
        yield gauge("jobq_queue_latency_seconds", text, ("queue",), latency)
        paused = summed(((own(q.name),), q.paused) for q in queues)
        yield gauge("jobq_queue_paused", "Whether the queue is paused.", ("queue",), paused)
        text = "Whether all workers are suspended."
        yield single("jobq_suspended", text, float(found.overview.suspended))

    # -- workers -----------------------------------------------------------------------------------------------------

    def _of_workers(self, found: StoreSnapshot) -> Iterator[Metric]:
        workers, own = found.overview.workers, self._workers.of

        def each(name: str, text: str, value: Callable[[WorkerView], float | None]) -> Metric:
            pairs = [((own(it.name),), value(it)) for it in workers]
            return gauge(name, text, ("worker",), summed((of, n) for of, n in pairs if n is not None))

        states = {(state,): float(n) for state, n in Counter(it.state for it in workers).items()}
        yield gauge("jobq_workers", "Registered workers by state.", ("state",), states)
        yield each("jobq_worker_slots", "Jobs that the worker can run at a time.", lambda it: it.slots)
        text = "Jobs of the worker that have run for 50 ms or more."
        yield each("jobq_worker_slots_busy", text, lambda it: it.running)
        text = "Seconds since the worker renewed its lease, by its clock and this one."
        age = {
            (own(it.name),): max(0.0, it.heartbeat_age) for it in workers if it.heartbeat_age is not None
        }  # of "other": any one
        yield gauge("jobq_worker_lease_age_seconds", text, ("worker",), age)
        outcomes = summed(
            ((own(it.name), outcome), n)
            for it in workers
            for outcome, n in (("finished", it.done), ("failed", it.failed))
        )
        yield counter("jobq_worker_jobs", "Jobs that the worker has ended.", ("worker", "outcome"), outcomes)
        busy = summed(((own(it.name),), it.working_time) for it in workers)
        yield counter("jobq_worker_busy_seconds", "Seconds that jobs ran in the worker.", ("worker",), busy)

    # -- tasks -------------------------------------------------------------------------------------------------------

    def _of_tasks(self, found: StoreSnapshot) -> Iterator[Metric]:
        own = self._tasks.of
        records = [(own(usage.task), record) for usage in found.usage for record in usage.records]
        runs = summed(
            ((task, outcome), n)
            for task, record in records
            for outcome, n in (("finished", record.runs - record.errors), ("failed", record.errors))
        )
        text = "Runs that returned, and runs that raised; a retry is a run of its own."
        yield counter("jobq_task_runs", text, ("task", "outcome"), runs)
        times = _added((task, record.histogram, record.wall_s) for task, record in records)
        yield histograms("jobq_task_run_seconds", "Seconds that a run took.", ("task",), RUN_BOUNDS, times)
        waits = _added((task, record.waits, record.wait_s) for task, record in records if any(record.waits))
        text = "Seconds from when a job came to its queue to the start of its run."
        yield histograms("jobq_job_wait_seconds", text, ("task",), WAIT_BOUNDS, waits)
        peaks: dict[tuple[str, ...], float] = {}
        for task, record in records:
            if record.memory_peak_mb is not None:
                peaks[(task,)] = max(peaks.get((task,), 0.0), record.memory_peak_mb * 2**20)
        text = "The most memory that a run took beyond what its process had before."
        yield gauge("jobq_task_memory_peak_bytes", text, ("task",), peaks)

    # -- failures ----------------------------------------------------------------------------------------------------

    def _of_failures(self, found: StoreSnapshot) -> Iterator[Metric]:
        ends = summed((self._labels(end), n) for end, n in found.failed_runs.items())
        text = "Runs that did not return, by the class of what they raised, or by what ended them."
        yield counter("jobq_failed_runs", text, ("outcome", "cause"), ends)

    def _labels(self, end: str) -> tuple[str, str]:
        outcome, _, cause = end.partition(":")
        return outcome, OTHER if _is_class(end) and self._classes.of(end) == OTHER else cause


def _is_class(end: str) -> bool:
    """Return whether the end of a run is known by the name of a class, of which there may be many."""
    outcome, _, cause = end.partition(":")
    return outcome == "failed" and cause not in ("time_limit", "interrupted")


def _added(found: Iterable[tuple[str, Sequence[int], float]]) -> dict[str, tuple[list[int], float]]:
    """Return the runs per bucket and their seconds for each label value, from those of single records."""
    sums: dict[str, tuple[list[int], float]] = {}
    for of, runs, seconds in found:
        known, before = sums.get(of, ([0] * len(runs), 0.0))
        sums[of] = [a + b for a, b in zip(known, runs, strict=True)], before + seconds
    return sums


def _of_deaths(found: StoreSnapshot) -> Iterator[Metric]:
    deaths = {(cause,): float(n) for cause, n in found.deaths.items()}
    yield counter("jobq_deaths", "Processes that run jobs and died, by cause.", ("cause",), deaths)
    rescued = {(ending,): float(n) for ending, n in found.rescued.items()}
    text = "Jobs taken from dead processes: given_back had not started, run_again and failed had."
    yield counter("jobq_rescued_jobs", text, ("ending",), rescued)


def _of_the_server(found: StoreSnapshot) -> Iterator[Metric]:
    if found.memory is not None:
        yield single("jobq_store_memory_bytes", "Memory that the store's server uses.", found.memory)
    if found.memory_limit is not None:
        yield single("jobq_store_memory_limit_bytes", "The server's maxmemory; 0: none.", found.memory_limit)
