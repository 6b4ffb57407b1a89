"""Jobs are traced and measured with OpenTelemetry's SDK, and traces go on across the queue."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import Start
from helpers import lines, status
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from rq import Retry

from jobqueue.plugins.opentelemetry import OpenTelemetryPlugin
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys

SERVE = ("samples", "samples_otel")


@pytest.fixture(autouse=True)
def sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs that these tests start find the SDK."""
    monkeypatch.setenv("TESTS_WITH_OTEL", "1")


@pytest.fixture
def spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "spans"
    monkeypatch.setenv("SPANS", str(path))
    return path


def made(spans: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(spans)]


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The spans of this process, which submits jobs."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(trace, "get_tracer", lambda name: provider.get_tracer(name))
    yield exporter
    provider.shutdown()


@pytest.fixture
def traced(store: redis.Redis, exporter: InMemorySpanExporter) -> Queue:
    return Queue(connection=store, plugins=[OpenTelemetryPlugin()])


def test_a_trace_goes_on_across_the_queue(
    start: Start, traced: Queue, exporter: InMemorySpanExporter, spans: Path, mode: str
) -> None:
    plain, coroutine = traced.enqueue("samples_otel.inner"), traced.enqueue("samples_otel.inner_of_a_coroutine")
    sent, of_coroutine = exporter.get_finished_spans()
    assert start("-b", "-n", "1", mode=mode, serve=SERVE).wait() == 0
    assert sent.name == "send default"
    assert sent.kind is trace.SpanKind.PRODUCER
    assert dict(sent.attributes or {}) == {
        "messaging.system": "jobq",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "default",
        "messaging.message.id": plain.id,
        "code.function.name": "samples_otel.inner",
    }
    trace_id = format(sent.context.trace_id, "032x")
    assert plain.result(1) == trace_id
    assert coroutine.result(1) == format(of_coroutine.context.trace_id, "032x")
    inside, run = made(spans)[:2]
    assert (inside["name"], run["name"], run["kind"]) == ("inside", "process default", "SpanKind.CONSUMER")
    assert inside["parent_id"] == run["context"]["span_id"]
    assert run["context"]["trace_id"] == f"0x{trace_id}"
    origin = f"0x{sent.context.span_id:016x}"
    assert run["parent_id"] == origin
    assert [link["context"]["span_id"] for link in run["links"]] == [origin]
    known = run["attributes"]
    assert known.pop("messaging.client.id")
    assert known == {
        "messaging.system": "jobq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "default",
        "messaging.message.id": plain.id,
        "code.function.name": "samples_otel.inner",
    }
    assert run["status"] == {"status_code": "UNSET"}


def test_the_context_has_a_field_of_its_own(traced: Queue, exporter: InMemorySpanExporter, store: redis.Redis) -> None:
    job = traced.enqueue("samples.ok")
    (sent,) = exporter.get_finished_spans()
    expected = f"00-{sent.context.trace_id:032x}-{sent.context.span_id:016x}-{sent.context.trace_flags:02x}"
    assert store.hget(keys.job(job.id), "jobq_traceparent") == expected.encode()


def test_many_jobs_of_one_request_have_one_span(
    start: Start, traced: Queue, exporter: InMemorySpanExporter, spans: Path
) -> None:
    traced.enqueue_many("samples.ok", range(5))
    (sent,) = exporter.get_finished_spans()
    assert (sent.attributes or {})["messaging.batch.message_count"] == 5
    assert start("-b", "-n", "1", serve=SERVE).wait() == 0
    runs = made(spans)
    assert {run["parent_id"] for run in runs} == {f"0x{sent.context.span_id:016x}"}
    assert len({run["attributes"]["messaging.message.id"] for run in runs}) == 5


def test_failures_have_status_and_cause(start: Start, queue: Queue, spans: Path, mode: str) -> None:
    queue.enqueue("samples.fail", "as it is", retry=Retry(1))
    assert start("-b", "-n", "1", mode=mode, serve=SERVE).wait() == 0
    for run in made(spans):
        assert run["status"] == {"status_code": "ERROR", "description": "ValueError: as it is"}
        assert run["attributes"]["error.type"] == "builtins.ValueError"
        (event,) = run["events"]
        assert event["attributes"]["exception.message"] == "as it is"
    assert len(made(spans)) == 2


def test_a_death_has_a_span(start: Start, queue: Queue, spans: Path, tmp_path: Path, mode: str) -> None:
    job = queue.enqueue("samples.kill_itself", str(tmp_path / "died"))
    assert start("-b", "-n", "1", mode=mode, serve=SERVE).wait() == 0
    (run,) = made(spans)
    assert run["attributes"]["messaging.message.id"] == job.id
    assert run["attributes"]["error.type"] == "ChildKilled"
    assert "was killed by SIGKILL" in run["status"]["description"]


def test_a_job_without_a_producers_context_begins_a_trace(start: Start, queue: Queue, spans: Path) -> None:
    queue.enqueue("samples.ok")
    assert start("-b", "-n", "1", serve=SERVE).wait() == 0
    (run,) = made(spans)
    assert run["parent_id"] is None
    assert run["links"] == []


def test_runs_are_measured(
    start: Start, queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    measures = tmp_path / "measures"
    monkeypatch.setenv("MEASURES", str(measures))
    queue.enqueue_many("samples.ok", range(3))
    queue.enqueue("samples.fail")
    flags = ("--plugin", "opentelemetry", "--plugin", "samples_otel:Measured")
    assert start(*flags, "-b", "-n", "2", mode=mode, serve=SERVE).wait() == 0
    found: dict[str, list[Any]] = {}
    for line in lines(measures):
        for resource in json.loads(line)["resource_metrics"]:
            for scope in resource["scope_metrics"]:
                for metric in scope["metrics"]:
                    found.setdefault(metric["name"], []).extend(metric["data"]["data_points"])
    ends: Counter[str] = Counter()
    for point in found["messaging.client.consumed.messages"]:
        ends[point["attributes"]["jobq.end"]] += point["value"]
    assert ends == {"finished": 3, "failed": 1}
    assert sum(point["count"] for point in found["messaging.process.duration"]) == 4
    assert sum(point["count"] for point in found["jobq.job.wait"]) == 4
    assert 0 < sum(point["sum"] for point in found["jobq.job.wait"]) < 240
    (latency,) = found["jobq.queue.latency"]  # of one of the processes
    assert latency["attributes"] == {"messaging.system": "jobq", "messaging.destination.name": "default"}


def test_it_can_be_switched_off(start: Start, queue: Queue, store: redis.Redis, spans: Path) -> None:
    job = queue.enqueue("samples.ok")
    assert start("-b", "-n", "1", "--no-plugin", "opentelemetry", serve=SERVE).wait() == 0
    assert status(store, job.id) == "finished"
    assert made(spans) == []


def test_it_says_why_it_is_inactive(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = OpenTelemetryPlugin()
    assert (
        plugin.why_inactive() == "no TracerProvider and no MeterProvider is set where the served modules are imported"
    )
    plugin.is_asked_for = True
    assert plugin.why_inactive() == ""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert plugin.why_inactive() == "OTEL_SDK_DISABLED is set"
    monkeypatch.setattr("jobqueue.plugins.opentelemetry.find_spec", lambda name: None)
    assert plugin.why_inactive() == "opentelemetry-api is not installed: pip install 'jobq[otel]'"
