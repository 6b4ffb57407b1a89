"""Report failed jobs to Sentry, with one transaction per job.

It is active when the Sentry SDK is set up where the served modules are imported, or when SENTRY_DSN is set: then it
sets the SDK up itself in each process. One event for each job that fails for good, also where its process was killed;
none while RQ's retries remain, unless JOBQ_SENTRY_RETRIES=1. What a job sets on Sentry's scope (tags, breadcrumbs, a
user) is gone after it, also among threads. A trace of the producer goes on in the job.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from jobqueue.plugins.plugin import JobEnd, NewJob, Plugin, RunningJob

log = logging.getLogger(__name__)

FLUSH = 2.0  # seconds to send what is left, when a process leaves
HEADERS = {"sentry-trace": "jobq_sentry_trace", "baggage": "jobq_sentry_baggage"}  # header → field of the job's hash
MISSING = "sentry-sdk is not installed: pip install 'jobq[sentry]'"
OP, ORIGIN = "queue.task.jobq", "auto.queue.jobq"


class SentryPlugin(Plugin):
    """See above. Derive from it to change what is sent."""

    name = "sentry"

    def why_inactive(self) -> str:
        """Return why nothing is reported: the SDK is missing, or not set up."""
        if find_spec("sentry_sdk") is None:
            log.warning("failed jobs are not reported to Sentry: %s", MISSING)
            return MISSING
        if os.environ.get("SENTRY_DSN") or self.is_asked_for or _sdk().is_initialized():
            return ""
        return "the Sentry SDK is not set up where the served modules are imported, and SENTRY_DSN is not set"

    def process_start(self) -> None:
        """Set the SDK up, unless a module has done that; do not report what RQ's own code logs of failures."""
        sdk = _sdk()
        from sentry_sdk.integrations.logging import ignore_logger

        ignore_logger("rq.worker")
        if not sdk.is_initialized():
            from sentry_sdk.integrations.rq import RqIntegration

            sdk.init(disabled_integrations=[RqIntegration])  # it would report the same jobs in RQ's worker classes

    def process_stop(self) -> None:
        """Send what is left."""
        _sdk().flush(timeout=FLUSH)

    def around_job(self, job: RunningJob, call_next: Callable[[], Any]) -> Any:
        """Run the job in a scope and a transaction of its own."""
        sdk = _sdk()
        if not sdk.is_initialized():
            return call_next()
        with sdk.isolation_scope() as scope:
            scope.clear_breadcrumbs()
            self.describe(scope, job)
            job.state[self] = scope
            if not _traces(sdk):
                return call_next()
            name = job.task or "unknown task"
            transaction = sdk.continue_trace(_headers(job), op=OP, name=name, source="task", origin=ORIGIN)
            with sdk.start_transaction(transaction, custom_sampling_context={"job_id": job.id, "queue": job.queue}):
                transaction.set_data("messaging.message.id", job.id)
                transaction.set_data("messaging.destination.name", job.queue)
                return call_next()

    def job_ended(self, job: RunningJob, end: JobEnd) -> None:
        """Report a failure for good."""
        asked = end.kind == "retried" and end.text and os.environ.get("JOBQ_SENTRY_RETRIES") == "1"
        sdk = _sdk()
        if not sdk.is_initialized() or not (end.kind == "failed" or asked):
            return
        from sentry_sdk.scope import use_isolation_scope

        scope = job.state.pop(self, None)
        if scope is None:  # the job was not decoded, or has died with its process
            with sdk.isolation_scope() as scope:
                scope.clear_breadcrumbs()
                self.describe(scope, job)
                self._capture(sdk, scope, job, end)
        else:
            with use_isolation_scope(scope):
                self._capture(sdk, scope, job, end)

    def describe(self, scope: Any, job: RunningJob) -> None:
        """Put what is known of the job on its scope. Arguments are sent only if the SDK's PII setting allows it."""
        scope.set_tags({"jobq.task": job.task or "unknown", "jobq.queue": job.queue, "jobq.job_id": job.id})
        scope.set_context("job", _known(job) | self._arguments(job))

    def _arguments(self, job: RunningJob) -> dict[str, Any]:
        if not job.task or not _sdk().get_client().should_send_default_pii():
            return {}
        return {"args": list(job.args), "kwargs": dict(job.kwargs)}

    def _capture(self, sdk: Any, scope: Any, job: RunningJob, end: JobEnd) -> None:
        scope.set_context("job", _known(job) | {"attempt": job.attempt(end)} | self._arguments(job))
        mechanism = {"type": "jobq", "handled": False}
        if end.error is None:
            kind, _, value = end.text.strip().rpartition("\n")[2].partition(": ")
            values = [{"type": kind, "value": value or kind, "mechanism": mechanism}]
            sdk.capture_event({"level": "error", "exception": {"values": values}})
            return
        from sentry_sdk.utils import event_from_exception

        event, hint = event_from_exception(end.error, client_options=sdk.get_client().options, mechanism=mechanism)
        sdk.capture_event(event, hint=hint)

    def before_enqueue(self, job: NewJob) -> None:
        """Send the trace that is under way here along with the job."""
        sdk = _sdk()
        if sdk.is_initialized() and sdk.get_current_span() is not None:
            headers = dict(sdk.get_current_scope().iter_trace_propagation_headers())
            job.fields |= {field: headers[name].encode() for name, field in HEADERS.items() if name in headers}


def _known(job: RunningJob) -> dict[str, Any]:
    return {"id": job.id, "task": job.task, "queue": job.queue, "worker": job.worker}


def _sdk() -> Any:
    if (sdk := sys.modules.get("sentry_sdk")) is not None:
        return sdk
    import sentry_sdk

    return sentry_sdk


def _traces(sdk: Any) -> bool:
    options = sdk.get_client().options
    return options.get("traces_sample_rate") is not None or options.get("traces_sampler") is not None


def _headers(job: RunningJob) -> dict[str, str]:
    texts = zip(HEADERS, job.fields(*HEADERS.values()), strict=True)
    return {name: text.decode("ascii", "replace") for name, text in texts if text}
