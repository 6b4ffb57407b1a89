"""The gauges of queues that the plugin for OpenTelemetry makes, read by the SDK's in-memory reader."""

from __future__ import annotations

from typing import Any

import fakeredis
import pytest
import redis
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from jobqueue.admin.demand import demands
from jobqueue.plugins.opentelemetry import MOST_QUEUES, OpenTelemetryPlugin
from jobqueue.plugins.plugin import ProcessInfo, WorkerInfo
from jobqueue.producing.queue import Queue

Points = dict[str, dict[tuple[str, ...], float]]


class Bench:
    """A plugin in a process of a worker that serves the queues, and what a reader sees of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader])
        monkeypatch.setattr(metrics, "get_meter", self.provider.get_meter)
        self.client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
        self.speaks = True
        self.asked: list[tuple[str, ...]] = []
        self.error: Exception | None = None
        self.plugin = OpenTelemetryPlugin()

    def start(self, *queues: str) -> None:
        self.plugin.worker = WorkerInfo("w", queues, 1)
        self.plugin.process = ProcessInfo(self.client, lambda: self.speaks, self.demands)
        self.plugin.process_start()

    def demands(self, queues: Any) -> Any:
        self.asked.append(tuple(queues))
        if self.error is not None:
            raise self.error
        return demands(self.client, queues)

    def read(self) -> Points:
        data: Any = self.reader.get_metrics_data()
        found: Points = {}
        for resource in data.resource_metrics if data else ():
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                for point in metric.data.data_points:
                    known = dict(point.attributes)
                    assert known.pop("messaging.system") == "jobq"
                    found.setdefault(metric.name, {})[tuple(known.values())] = point.value
        return found


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_depth_and_latency_of_the_queues_that_the_worker_serves(bench: Bench) -> None:
    Queue("a", bench.client).enqueue_many("square", range(3))
    Queue("other", bench.client).enqueue("square", 1)
    bench.start("a", "b")
    found = bench.read()
    jobs = {("a", "waiting"): 3, ("a", "running"): 0, ("b", "waiting"): 0, ("b", "running"): 0}
    assert found["jobq.queue.jobs"] == jobs
    assert 0 < found["jobq.queue.latency"]["a",] < 60
    assert found["jobq.queue.latency"]["b",] == 0
    assert bench.asked == [("a", "b")], "once for both gauges"


def test_one_process_of_the_worker_reports(bench: Bench) -> None:
    bench.start("a")
    bench.speaks = False
    assert bench.read() == {}
    assert bench.asked == []
    bench.speaks = True  # the process that did has ended
    assert "jobq.queue.jobs" in bench.read()


def test_nothing_is_reported_while_the_store_is_away(bench: Bench) -> None:
    bench.start("a")
    bench.error = redis.ConnectionError("away")
    assert bench.read() == {}


def test_no_more_than_so_many_queues_are_asked_for(bench: Bench) -> None:
    bench.start(*(f"q{n}" for n in range(MOST_QUEUES + 50)))
    assert len(bench.read()["jobq.queue.latency"]) == MOST_QUEUES


def test_nothing_waits_for_the_store_when_the_process_leaves(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: bench.provider)
    bench.start("a")
    bench.plugin.process_stop()
    assert bench.asked == []
