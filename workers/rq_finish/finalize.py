"""Record one outcome through RQ's own methods: a success, a failure, a failure without a retry, a stop."""

from __future__ import annotations

import base64
import logging
from datetime import UTC, datetime
from typing import Any

import redis
from redis.exceptions import InvalidResponse, ResponseError, WatchError
from rq.callbacks import execute_stopped_callback
from rq.exceptions import AbandonedJobError
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.queue import Queue

from jobqueue.protocol.outcomes import RETURNED
from jobqueue.store.error_texts import is_away
from jobqueue.workers.rq_finish.callbacks import CallbackFailed, call_failure_callback
from jobqueue.workers.rq_finish.limits import FinishLimits
from jobqueue.workers.rq_finish.rq_objects import FinishingJob, QuietWorker
from jobqueue.workers.running.error_text import LONGEST_IN_LOG, printed_anyhow
from jobqueue.workers.running.limits import OURS
from jobqueue.workers.running.runner import Ending, Runner
from jobqueue.workers.shared.endings import FAILURE, STOPPED_CALLBACK, SUCCESS, decode_text, encode_text

log = logging.getLogger(__name__)

MOST_CALLBACK_LOSSES = 3  # lost connections of a success callback in one finish, while the store answers; then it fails


class Finalizer:
    """Call the methods of RQ's worker that end a job. ``Finisher`` calls one of these, in each attempt of a finish."""

    def __init__(self, worker: QuietWorker, runner: Runner, client: redis.Redis, limits: FinishLimits) -> None:
        self._worker = worker
        self._runner = runner
        self._client = client
        self._limits = limits

    def end(self, job: Job, queue: Queue, execution: Execution, ending: Ending) -> None:
        """Record what the job returned, or why it failed."""
        if ending.kind != RETURNED:
            self._end_failed(job, queue, execution, ending)
            return
        try:
            self._limits.of = SUCCESS
            self._worker._finalize_success(job, queue, execution, self._value(job, ending))
        except CallbackFailed as e:  # as in RQ's perform_job: what a success callback raises fails the job
            if self._may_be_an_outage(e.error):
                raise e.error from None
            self._fail(job, queue, execution, e.error)
        except Exception as e:
            if self._worker.connection.fence.committed or is_store_error(e, ending):
                raise
            self._fail(job, queue, execution, e)

    def end_for_good(self, job: Job, queue: Queue, execution: Execution, ending: Ending) -> None:
        """Record a failure, and use none of RQ's retries."""
        assert isinstance(job, FinishingJob)
        job.may_retry = False
        self._end_failed(job, queue, execution, ending)

    def end_stopped(self, job: Job, queue: Queue, execution: Execution, ending: Ending) -> None:
        """Call the stopped callback, then record that the job was stopped."""
        job.ended_at = datetime.now(UTC)
        self._worker._stopped_job_id = job.id
        try:
            self._limits.of = STOPPED_CALLBACK
            execute_stopped_callback(job, self._worker.death_penalty_class)
        except OURS:
            raise
        except BaseException as e:
            log.error("job %s: its stopped callback failed\n%s", job.id, printed_anyhow(e, LONGEST_IN_LOG))
        self._worker.handle_job_failure(job, queue, exc_string=decode_text(ending.payload), execution=execution)

    # -- a success -----------------------------------------------------------------------------------------------------

    def _value(self, job: Job, ending: Ending) -> Any:
        """Return what RQ takes for the job's result. The result is encoded already; it is encoded again only where a
        success callback may have changed it."""
        if ending.is_retry or not ending.payload:
            return ending.value
        if job._success_callback_name:
            return ending.value if ending.value is not None else self._decoded(ending)
        serializer: Any = job.serializer
        return serializer.has(ending.value, base64.b64decode(ending.payload))

    def _decoded(self, ending: Ending) -> Any:
        return self._runner.ending_of(ending.kind, ending.payload).value

    def _may_be_an_outage(self, error: BaseException) -> bool:
        """Return whether to do the finish again, because a success callback lost its connection.

        Our store does not answer: yes, the finish waits for it. It answers: yes, a few times, as it may have been away
        for a moment; then the error is the callback's, which may use another server.
        """
        if not isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
            return False
        try:
            self._client.ping()
        except redis.RedisError:
            return True
        fence = self._worker.connection.fence
        fence.callback_losses += 1
        return fence.callback_losses <= MOST_CALLBACK_LOSSES

    def _fail(self, job: Job, queue: Queue, execution: Execution, error: BaseException) -> None:
        """Fail a job that had succeeded so far."""
        assert isinstance(job, FinishingJob)
        fence = self._worker.connection.fence
        fence.outcome, fence.error = "", None  # what the success has left there
        self._worker.fail(job, queue, execution, error, printed_anyhow(error))

    # -- a failure -----------------------------------------------------------------------------------------------------

    def _end_failed(self, job: Job, queue: Queue, execution: Execution, ending: Ending) -> None:
        assert isinstance(job, FinishingJob)
        ending = self._without_refused_callback(job, ending)
        if ending.error is not None and not job.plain:
            self._worker.fail(job, queue, execution, ending.error, decode_text(ending.payload))
            return
        # Only the text is known: from the journal of a process that died, or it says how the process died.
        text = decode_text(ending.payload)
        job._status = JobStatus.FAILED
        job.ended_at = datetime.now(UTC)
        try:
            self._limits.of = FAILURE
            call_failure_callback(job, self._worker.death_penalty_class, AbandonedJobError(text))
        except OURS:
            raise
        except BaseException as e:  # logged only: the record keeps the job's own failure
            log.error("job %s: its failure callback failed\n%s", job.id, printed_anyhow(e, LONGEST_IN_LOG))
        self._worker.handle_job_failure(job, queue, exc_string=text, execution=execution)

    def _without_refused_callback(self, job: FinishingJob, ending: Ending) -> Ending:
        """Note in the failure's text that this worker does not serve the failure callback, and do not call it."""
        try:
            _ = job.failure_callback
            return ending
        except Exception as e:
            job.calls_back = False
            note = f"Its failure callback was not called: {e}"
        return ending._replace(payload=encode_text(f"{decode_text(ending.payload).rstrip()}\n{note}\n"))


def is_store_error(error: BaseException, ending: Ending) -> bool:
    """Return whether the store caused the error, so that another attempt may succeed: later, or with a text in place of
    a result that the store refuses (``Finisher._after``). An error in the data that was to be sent is not the store's:
    redis-py cannot encode it, or the store refuses the record of a failure."""
    if isinstance(error, ResponseError):
        return ending.kind == RETURNED or is_away(error)
    return isinstance(error, (redis.ConnectionError, redis.TimeoutError, WatchError, InvalidResponse))
