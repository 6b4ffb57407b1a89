"""Jobs and a set-up of OpenTelemetry for the tests: spans go into the file that SPANS names, as JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from jobqueue.plugins import Plugin


class Exporter(SpanExporter):
    """Writes down each span when it ends."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with open(os.environ["SPANS"], "a") as file:
            for span in spans:
                file.write(span.to_json(indent=None).replace("\n", " ") + "\n")
        return SpanExportResult.SUCCESS


class Measured(Plugin):
    """Sets the MeterProvider up in each process, and writes the measures down when it leaves."""

    def process_start(self) -> None:
        self.reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([self.reader]))

    def process_stop(self) -> None:
        data: Any = self.reader.get_metrics_data()
        if data is not None:
            with open(os.environ["MEASURES"], "a") as file:
                file.write(json.dumps(json.loads(data.to_json())) + "\n")


if os.environ.get("SPANS"):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Exporter()))
    trace.set_tracer_provider(provider)


def inner() -> str:
    """Make a span of its own inside of the job's."""
    with trace.get_tracer("mine").start_as_current_span("inside"):
        return format(trace.get_current_span().get_span_context().trace_id, "032x")


async def inner_of_a_coroutine() -> str:
    return inner()
