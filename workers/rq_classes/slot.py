"""Run RQ's jobs in a slot as RQ does: with the worker's serializer, any function, RQ's texts for time limits.

Jobs without special features are settled by CYCLE. A job that RQ's own finish must end (features, exception handlers, a
current job that was changed while it ran) is ended by RQ's methods, on a job with the attributes that the function set.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from rq.logutils import blue, green
from rq.timeouts import JobTimeoutException
from rq.utils import get_call_string
from rq.worker import BaseWorker

from jobqueue.protocol.claims import Claimed, StartMark
from jobqueue.protocol.outcomes import RAISED
from jobqueue.workers.child.slot import Slot
from jobqueue.workers.child.slot_parts import SlotParts
from jobqueue.workers.rq_classes.ending import RQFinisher
from jobqueue.workers.rq_classes.runner import RQRunner
from jobqueue.workers.rq_finish.finish import Finisher
from jobqueue.workers.rq_finish.finishing import Finishing
from jobqueue.workers.rq_finish.limits import FinishLimits
from jobqueue.workers.running.current import CurrentJob, current_of
from jobqueue.workers.running.job_variable import JobVariable
from jobqueue.workers.running.limits import PASSING, CallbackStopped
from jobqueue.workers.running.runner import Ending
from jobqueue.workers.shared.endings import decode_text


class RQSlot(Slot):
    """Run jobs in place of RQ's ``worker``, in the main thread."""

    needs_threads = False  # nothing here waits for a lock of another thread, and RQ's worker runs such jobs too
    _runner: RQRunner

    def __init__(self, worker: BaseWorker, parts: SlotParts, runner: RQRunner, *, in_horse: bool) -> None:
        self._worker = worker
        self._job_class = current_of(worker.job_class)
        self._in_horse = in_horse
        self._logs = worker.log.isEnabledFor(logging.INFO)
        super().__init__(0, parts, runner, make_current=self._make_job)

    def bind(self) -> None:
        self._handler = signal.getsignal(signal.SIGALRM)
        self._on_term = signal.getsignal(signal.SIGTERM)
        super().bind()

    def unbind(self) -> None:
        """Restore the handler of SIGALRM, after switching off a timer that a job has left: it would end the process."""
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, self._handler)

    def interrupt(self, target: int, error: type[BaseException]) -> bool:
        """Interrupt with RQ's exception and text for time limits."""
        if issubclass(error, JobTimeoutException) and error is not CallbackStopped:
            error = _rq_time_limit(self.limit)
        return super().interrupt(target, error)

    @property
    def _has_the_process(self) -> bool:
        return self._in_horse

    @property
    def is_deaf(self) -> bool:
        return self._runner.prints

    def start_mark(self, job: Claimed) -> StartMark:
        """Return the start mark, with the lifetime that RQ's worker class gives an execution."""
        timed: Any = _Timed(int(self.limit))
        return super().start_mark(job)._replace(ttl=self._worker.get_heartbeat_ttl(timed))

    def _record(self, finishing: Finishing) -> None:
        super()._record(finishing)
        self._consumer.wake()  # it may have enqueued dependents, or the job itself, after the queue was found empty

    # -- the steps of a run --------------------------------------------------------------------------------------------

    def _make_job(self, job_id: str) -> CurrentJob:
        return self._job_class(job_id, self._worker.connection, self._worker.name, self._runner.serializer_of)

    def _perform(self, job: Claimed) -> Ending:
        if self._logs:
            self._runner.on_decoded = partial(self._log_start, job)
        try:
            return super()._perform(job)
        finally:
            self._hear_the_parent()

    def _withdraw(self, why: str) -> None:
        """Have the horse replaced. A rescue follows, for the jobs that it still holds."""
        self._worker.log.warning(
            "Worker %s: %s: another work horse takes the place of this one", self._worker.name, why
        )
        self._worker.engine.begin_anew()  # type: ignore[attr-defined]

    def _hear_the_parent(self) -> None:
        """Restore SIGTERM, by which the parent asks the horse to stop: a job may have set a handler or blocked it."""
        self.unblock()
        if self._in_horse and signal.getsignal(signal.SIGTERM) is not self._on_term:
            signal.signal(signal.SIGTERM, self._on_term)

    def _variables(self) -> Callable[[str], object] | None:
        """Set the environment as RQ's fork_work_horse does. In SimpleWorker it belongs to the caller, and stays."""
        if not self._in_horse:
            return None
        job_variable, name = JobVariable(), self._worker.name

        def set_variables(job_id: str) -> None:
            os.environ["RQ_WORKER_ID"] = name
            job_variable.set(job_id)

        return set_variables

    def _fails_by_rq(self, job: Claimed) -> bool:
        worker = self._worker
        return super()._fails_by_rq(job) or bool(worker._exc_handlers or worker.disable_default_exception_handler)

    def _make_finisher(self, limits: FinishLimits) -> Finisher:
        parts = self._parts
        return RQFinisher(self._worker, parts.settings, parts.owner, parts.protocol.client, limits=limits)

    # -- the log: RQ's lines -------------------------------------------------------------------------------------------

    def _log_start(self, job: Claimed, call: tuple[str, Any, Any] | None) -> None:
        """Log RQ's line, within the job's limit, as printing the arguments runs their code."""
        name, queue = self._worker.name, green(job.queue)
        if not self._worker.log_job_description:
            self._worker.log.info("Worker %s: %s: %s", name, queue, job.id)
            return
        text = ""
        try:
            if call is not None:
                text = get_call_string(*call, max_length=75) or ""
        except PASSING:
            raise
        except BaseException:  # the job does not fail because its arguments cannot be printed
            pass
        self._worker.log.info("Worker %s: %s: %s (%s)", name, queue, blue(text), job.id)

    def _log(self, job: Claimed, ending: Ending, seconds: float) -> None:
        if self._to_rq:  # RQ's own finish writes the log line
            return
        try:
            self._log_end(job, ending, seconds)
        except ValueError:  # the job has closed stderr; its outcome is recorded all the same
            pass

    def _log_end(self, job: Claimed, ending: Ending, seconds: float) -> None:
        worker = self._worker
        if ending.kind == RAISED:
            worker.log.error(
                "Worker %s: job %s: exception raised while executing (%s)\n%s",
                worker.name,
                job.id,
                self._runner.name,
                decode_text(ending.payload),
                extra={"queue": job.queue, "job_id": job.id},
            )
        elif self._logs:
            self._log_success(job, seconds)

    def _log_success(self, job: Claimed, seconds: float) -> None:
        worker = self._worker
        worker.log.info(
            "Worker %s: %s: %s (%s) in %.6fs", worker.name, green(job.queue), blue("Job OK"), job.id, seconds
        )
        if worker.log_result_lifespan:
            ttl = self._settings.default_result_ttl if job.result_ttl is None else job.result_ttl
            kept = "will never expire, clean up result key manually" if ttl < 0 else f"is kept for {ttl} seconds"
            worker.log.info("Worker %s: job %s result %s", worker.name, job.id, kept)


class _Timed:
    """The only attribute that RQ's get_heartbeat_ttl reads of a job."""

    def __init__(self, timeout: int) -> None:
        self.timeout = timeout


def _rq_time_limit(limit: float) -> type[JobTimeoutException]:
    class JobTimeout(JobTimeoutException):
        def __init__(self) -> None:
            super().__init__(f"Task exceeded maximum timeout value ({limit:g} seconds)")

    JobTimeout.__name__ = JobTimeout.__qualname__ = JobTimeoutException.__name__
    JobTimeout.__module__ = JobTimeoutException.__module__
    return JobTimeout
