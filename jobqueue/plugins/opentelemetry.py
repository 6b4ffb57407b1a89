"""Trace jobs with OpenTelemetry: a producer span for each enqueue, a consumer span for each run, linked.

The context travels across the queue as W3C ``traceparent`` (or what the configured propagator writes), in a field of
its own of the job's hash. Attributes follow the semantic conventions for messaging. It is active when the API is
imported, and a TracerProvider or MeterProvider is set where the served modules are imported; a provider that is set
later (``process_start`` of a plugin of yours) needs ``--plugin opentelemetry``.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from jobqueue.clock import monotonic
from jobqueue.plugins.plugin import JobEnd, NewJob, Plugin, ProcessInfo, RunningJob

log = logging.getLogger(__name__)

PREFIX = "jobq_"  # of the fields in the job's hash
SCOPE = "jobqueue"  # the name of the instrumentation
MOST_QUEUES = 100  # that have gauges
FRESH = 0.5  # seconds for which what was read serves both gauges
_NO_ERRORS = frozenset({"Interrupted", "Stopped", "WrittenOff"})  # raised by the worker, and no fault of the job


class OpenTelemetryPlugin(Plugin):
    """See above."""

    name = "opentelemetry"

    def __init__(self) -> None:
        self._meters: Any = None
        self._queues: _QueueObserver | None = None

    def why_inactive(self) -> str:
        """Return why nothing is traced: the API is missing, or nobody listens."""
        if find_spec("opentelemetry") is None or find_spec("opentelemetry.trace") is None:
            return "opentelemetry-api is not installed: pip install 'jobq[otel]'"
        if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return "OTEL_SDK_DISABLED is set"
        if self.is_asked_for or _traces() or _measures():
            return ""
        return "no TracerProvider and no MeterProvider is set where the served modules are imported"

    # -- where jobs run ------------------------------------------------------------------------------------------------

    def process_start(self) -> None:
        """Make the gauges of the queues; they are asked for when a MeterProvider is set, now or later."""
        if self.worker is not None and self.process is not None:
            self._queues = _QueueObserver(self.worker.queues, self.process)

    def around_job(self, job: RunningJob, call_next: Callable[[], Any]) -> Any:
        """Run the job in a consumer span, as a child of the producer's span, to which it is linked too."""
        if not _traces():
            return call_next()
        from opentelemetry.trace import StatusCode

        with self._span(job) as span:
            job.state[self] = True
            try:
                value = call_next()
            except BaseException as e:
                kind = type(e).__name__
                if kind in _NO_ERRORS:
                    span.set_attribute("jobq.end", "interrupted")
                else:
                    span.record_exception(e)
                    span.set_attribute("error.type", f"{type(e).__module__}.{type(e).__qualname__}")
                    span.set_status(StatusCode.ERROR, f"{kind}: {e}"[:300])
                raise
            return value

    def job_ended(self, job: RunningJob, end: JobEnd) -> None:
        """Count the run; make the span of a job whose own process has died, or which could not be decoded."""
        self._measure(job, end)
        if self in job.state or not end.text or not _traces():
            return
        from opentelemetry.trace import StatusCode

        kind, _, value = end.text.strip().rpartition("\n")[2].partition(": ")
        with self._span(job) as span:
            span.set_attribute("error.type", kind)
            span.set_status(StatusCode.ERROR, f"{kind}: {value}"[:300])

    def process_stop(self) -> None:
        """Send what is left, as far as the providers can be told to."""
        from opentelemetry import metrics, trace

        if self._queues is not None:
            self._queues.over = True  # the store may be away, and nothing must wait for it now
        for provider in (trace.get_tracer_provider(), metrics.get_meter_provider()):
            if flush := getattr(provider, "force_flush", None):
                flush(2000)  # milliseconds

    def _span(self, job: RunningJob) -> Any:
        from opentelemetry import trace

        context = _extracted(job)
        origin = trace.get_current_span(context).get_span_context()
        attributes = _attributes(job, "process") | {"messaging.client.id": job.worker}
        if job.task:
            attributes["code.function.name"] = job.task
        return trace.get_tracer(SCOPE).start_as_current_span(
            f"process {job.queue}",
            context=context,
            kind=trace.SpanKind.CONSUMER,
            attributes=attributes,
            links=[trace.Link(origin)] if origin.is_valid else [],
            record_exception=False,
            set_status_on_exception=False,
        )

    def _measure(self, job: RunningJob, end: JobEnd) -> None:
        if not _measures():
            return
        if self._meters is None:
            self._meters = _Meters()
        self._meters.ended(job, end)

    # -- where jobs are submitted --------------------------------------------------------------------------------------

    def before_enqueue(self, job: NewJob) -> None:
        """Make one producer span per request, and send its context along with the job."""
        if self in job.state or not _traces():
            return
        from opentelemetry import propagate, trace

        job.state[self] = True
        attributes: dict[str, Any] = _attributes(job, "send") | {"code.function.name": job.task}
        if job.count > 1:
            del attributes["messaging.message.id"]
            attributes["messaging.batch.message_count"] = job.count
        tracer = trace.get_tracer(SCOPE)
        with tracer.start_as_current_span(f"send {job.queue}", kind=trace.SpanKind.PRODUCER, attributes=attributes):
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
        job.fields |= {_field(header): value.encode() for header, value in carrier.items()}


class _Meters:
    """The instruments. Made in the process that uses them."""

    def __init__(self) -> None:
        from opentelemetry import metrics

        meter = metrics.get_meter(SCOPE)
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages", "{message}", "Runs of jobs, by how they ended."
        )
        self._seconds = meter.create_histogram("messaging.process.duration", "s", "How long runs of jobs took.")
        self._waits = meter.create_histogram("jobq.job.wait", "s", "How long jobs had waited in their queues.")
        self._deaths = meter.create_counter("jobq.job.deaths", "{job}", "Jobs that failed because their process died.")

    def ended(self, job: RunningJob, end: JobEnd) -> None:
        """Count one run."""
        names = _attributes(job, "process") | {"code.function.name": job.task, "jobq.end": end.kind}
        del names["messaging.message.id"]  # measures have few values
        if end.error is not None:
            names["error.type"] = f"{type(end.error).__module__}.{type(end.error).__qualname__}"
        self._consumed.add(1, names)
        if end.seconds is not None:
            self._seconds.record(end.seconds, names)
        if job.waited is not None:
            self._waits.record(job.waited, names)
        if end.was_killed:
            self._deaths.add(1, names)


class _QueueObserver:
    """What the queues of the worker ask for. One process of the worker reports it, as it is the same for all."""

    def __init__(self, queues: Sequence[str], process: ProcessInfo) -> None:
        from opentelemetry import metrics

        self._names = tuple(queues)[:MOST_QUEUES]
        self._process = process
        self._lock = threading.Lock()
        self._found: Sequence[Any] = ()
        self._read_at = -FRESH
        self.over = False
        meter = metrics.get_meter(SCOPE)
        text = "Jobs that wait in the queues of the worker, and that run, in any worker."
        meter.create_observable_gauge("jobq.queue.jobs", [self._jobs], "{job}", text)
        text = "How long the oldest waiting job has waited; 0: none waits."
        meter.create_observable_gauge("jobq.queue.latency", [self._latency], "s", text)

    def _jobs(self, _options: Any) -> Iterator[Any]:
        from opentelemetry.metrics import Observation

        for name, found in self._read():
            yield Observation(found.waiting, _of_queue(name) | {"jobq.state": "waiting"})
            yield Observation(found.running, _of_queue(name) | {"jobq.state": "running"})

    def _latency(self, _options: Any) -> Iterator[Any]:
        from opentelemetry.metrics import Observation

        for name, found in self._read():
            yield Observation(found.latency, _of_queue(name))

    def _read(self) -> list[tuple[str, Any]]:
        """Read the store, once for both gauges. Nothing where another process reports, or the store cannot be read."""
        with self._lock:
            if self.over or not self._process.speaks_for_worker():
                return []
            if monotonic() - self._read_at >= FRESH:
                try:
                    self._found = self._process.demands(self._names)
                except (
                    Exception
                ) as e:  # redis-py's: a gauge that is missing says this better than one that stands still
                    log.debug("the store cannot be read for the gauges of queues: %s", e)
                    self._found = ()
                self._read_at = monotonic()
            return list(zip(self._names, self._found, strict=False))


def _of_queue(name: str) -> dict[str, str]:
    return {"messaging.system": "jobq", "messaging.destination.name": name}


def _attributes(job: RunningJob | NewJob, operation: str) -> dict[str, Any]:
    return {
        "messaging.system": "jobq",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": job.queue,
        "messaging.message.id": job.id,
    }


def _field(header: str) -> str:
    return f"{PREFIX}{header.lower().replace('-', '_')}"


def _extracted(job: RunningJob) -> Any:
    """Return the context that the producer has sent along."""
    from opentelemetry import propagate

    headers = sorted(propagate.get_global_textmap().fields)
    values = job.fields(*map(_field, headers)) if headers else ()
    carrier = {name: value.decode("ascii", "replace") for name, value in zip(headers, values, strict=True) if value}
    return propagate.extract(carrier)


def _traces() -> bool:
    """Return whether somebody has set a TracerProvider."""
    from opentelemetry import trace

    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider)


def _measures() -> bool:
    """Return whether somebody has set a MeterProvider."""
    from opentelemetry import metrics

    provider = metrics.get_meter_provider()
    return type(provider).__name__ not in ("_ProxyMeterProvider", "NoOpMeterProvider")
