"""Finish jobs by RQ's own code as a worker of RQ's classes does: with its serializer, exception handlers and log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import redis
from rq.exceptions import DeserializationError
from rq.job import Job
from rq.job_lifecycle import call_exception_handlers
from rq.timeouts import BaseDeathPenalty, JobTimeoutException
from rq.worker import BaseWorker

from jobqueue.plugins.calls import Plugins
from jobqueue.protocol.rescue import ForRQ
from jobqueue.workers.child.task_name import task_name
from jobqueue.workers.rq_classes.runner import RQRunner
from jobqueue.workers.rq_finish.finish import Finisher
from jobqueue.workers.rq_finish.limits import FinishLimits
from jobqueue.workers.rq_finish.reported_deaths import ReportedDeaths
from jobqueue.workers.rq_finish.rq_objects import QuietWorker
from jobqueue.workers.running.context import after_imports
from jobqueue.workers.running.error_text import LONGEST_IN_LOG, printed_anyhow
from jobqueue.workers.running.limits import OURS
from jobqueue.workers.running.runner import Runner
from jobqueue.workers.shared.copies import end_copy
from jobqueue.workers.shared.deaths import LeftForRQ
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)


class Ender(QuietWorker):
    """A worker that ends jobs in place of another RQ worker, and logs as that one does."""

    log_result_lifespan = True

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Write RQ's log line and call RQ's chain of handlers. When a handler raises, RQ's worker ends and leaves the
        job as running; here the exception is logged, and the job's failure is recorded."""
        try:
            self._log_failure(job)
            if not self._exc_handlers:
                return
            with self.death_penalty_class(job.failure_callback_timeout, JobTimeoutException, job_id=job.id):
                handlers = [after_imports.apart(handler) for handler in self._exc_handlers]
                call_exception_handlers(handlers, job, *exc_info)
        except OURS:
            raise
        except BaseException as e:
            end_copy()
            text = printed_anyhow(e, LONGEST_IN_LOG)
            self.log.error("Worker %s: job %s: an exception handler failed\n%s", self.name, job.id, text)
        end_copy()

    def _log_failure(self, job: Job) -> None:
        """Log RQ's line with the text that is recorded."""
        extra: dict[str, Any] = {"queue": job.origin, "job_id": job.id}
        try:
            name = job.func_name
            extra |= {"func": name, "arguments": job.args, "kwargs": job.kwargs}
        except DeserializationError:
            name = "<DeserializationError>"
        line = "Worker %s: job %s: exception raised while executing (%s)\n%s"
        self.log.error(line, self.name, job.id, name, self.text, extra=extra)


class RQFinisher(Finisher):
    """Finish jobs as ``worker`` does."""

    def __init__(
        self,
        worker: BaseWorker,
        settings: Settings,
        owner: str,
        client: redis.Redis,
        penalty: type[BaseDeathPenalty] | None = None,
        limits: FinishLimits | None = None,
    ) -> None:
        self._place_of = worker
        super().__init__(settings, owner, client, penalty, limits=limits, job_class=worker.job_class)

    def _make_worker(self, penalty: type[BaseDeathPenalty]) -> QuietWorker:
        theirs = self._place_of
        worker = Ender(
            [],
            name=theirs.name,
            connection=self._connection,
            prepare_for_work=False,
            serializer=theirs.serializer,
            default_result_ttl=theirs.default_result_ttl,
            disable_default_exception_handler=theirs.disable_default_exception_handler,
            log_job_description=theirs.log_job_description,
        )
        worker._exc_handlers = theirs._exc_handlers
        worker.log_result_lifespan = theirs.log_result_lifespan
        worker.log = theirs.log
        worker.death_penalty_class = penalty
        return worker

    def _make_runner(self) -> Runner:
        return RQRunner(self._settings, self._place_of.serializer)


def finish_left(
    left: LeftForRQ,
    worker: BaseWorker,
    settings: Settings,
    client: redis.Redis,
    limits: FinishLimits,
    plugins: Plugins | None = None,
    on_begin: Callable[[int], object] = lambda claim: None,
    own_process: bool = False,
) -> None:
    """Have RQ's own code end the jobs that a rescue left for it. This calls user code: only in a main thread.
    ``on_begin`` is called before each with its claim."""
    finisher: Finisher
    if left.worker == worker.name:
        finisher = RQFinisher(worker, settings, left.owner, client, limits=limits)
    else:  # jobs of a jobq tree, or of an RQ worker whose classes are not known here
        finisher = Finisher(settings, left.owner, client, limits=limits, worker=left.worker)

    def finish(job: ForRQ) -> str | None:
        on_begin(job.claim)
        return finisher.finish_left(job, plain=job.claim in left.plain)

    if plugins is not None and plugins.has("job_ended"):
        ReportedDeaths(plugins, left.worker, client, limits, task_name).finish(left.jobs, finish, own_process)
        return
    for job in left.jobs:
        finish(job)
