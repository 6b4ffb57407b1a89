"""RQ's job, queue and worker classes, changed where a finish needs it: see ``Finisher``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from redis.client import Pipeline
from rq.defaults import DEFAULT_FAILURE_TTL
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.timeouts import JobTimeoutException
from rq.worker import SimpleWorker

from jobqueue.protocol import bounds
from jobqueue.protocol.hashes import check_written, readable
from jobqueue.workers.rq_finish.callbacks import ServedCallbacks, call_failure_callback, call_handlers
from jobqueue.workers.rq_finish.fence import FencedPipeline, FencedRedis
from jobqueue.workers.rq_finish.limits import FinishLimits
from jobqueue.workers.running.error_text import printed_anyhow, traceback_of
from jobqueue.workers.running.limits import OURS
from jobqueue.workers.shared.endings import FAILURE, HANDLER


class FinishingJob(ServedCallbacks):
    """A job whose status is written by the fenced transaction only: RQ sets some of it directly before."""

    may_retry = True
    calls_back = True
    plain = False  # without any code of the user's
    ran: Mapping[str, Any] = {}  # when and where; in a job's first 5 ms the store does not know it yet

    def restore(self, raw_data: Any) -> None:
        super().restore(readable(raw_data))
        self.__dict__.update(self.ran)

    def get_status(self, refresh: bool = True) -> JobStatus:
        """For callbacks: a job that ends was running."""
        status = super().get_status(refresh)
        return JobStatus.STARTED if status is JobStatus.QUEUED else status

    @property
    def failure_callback(self) -> Any:
        return super().failure_callback if self.calls_back and not self.plain else None

    @property
    def stopped_callback(self) -> Any:
        return super().stopped_callback if not self.plain else None

    def to_dict(self, *args: Any, **set_up: Any) -> dict[str, Any]:
        written: dict[str, Any] = super().to_dict(*args, **set_up)
        check_written(written)
        return written

    def get_result_ttl(self, default_ttl: int) -> int:
        ttl: int = super().get_result_ttl(default_ttl)
        return min(ttl, bounds.LONGEST)  # beyond that the store refuses it in the middle of a transaction

    @property
    def should_retry(self) -> bool:
        return self.may_retry and super().should_retry

    def set_status(self, status: JobStatus, pipeline: Pipeline | None = None) -> None:
        self._status = status
        if pipeline is not None:
            super().set_status(status, pipeline=pipeline)
        if isinstance(pipeline, FencedPipeline) and status in (JobStatus.FAILED, JobStatus.STOPPED):
            pipeline.fence.ends = status.value

    def heartbeat(self, timestamp: datetime, ttl: int, pipeline: Pipeline | None = None, xx: bool = False) -> None:
        self.last_heartbeat = timestamp
        if pipeline is not None:
            super().heartbeat(timestamp, ttl, pipeline=pipeline, xx=xx)


class FinishingQueue(Queue):
    """A queue whose dependents are enqueued by ENQUEUE DEPENDENTS: in steps that can be resumed by anybody, where RQ
    commits the end first and then goes through the dependents one by one, in memory."""

    bring_on: Callable[[], object]  # enqueue the dependents of the job that has just ended

    def move_dependents_to_ready(self, job: Job, pipeline: Any = None, *_: Any, **__: Any) -> dict[str, list[str]]:
        """RQ's success asks this in the transaction that records it."""
        assert isinstance(pipeline, FencedPipeline)
        pipeline.fence.ends = "finished"
        return {}

    def enqueue_ready_jobs_by_queue(self, job_ids_by_queue_name: dict[str, list[str]]) -> None:
        """RQ's success asks this after it."""
        self.bring_on()

    def enqueue_dependents(self, job: Job, *_: Any, **__: Any) -> dict[str, list[str]]:
        """RQ's failure asks this after it; what this raises is logged by RQ, and asked again by ``Finisher``."""
        self.bring_on()
        return {}


class QuietWorker(SimpleWorker):
    """An RQ worker that only finishes: it prepares nothing, listens to nobody, and leaves the log to the slot."""

    log_result_lifespan = False

    connection: FencedRedis
    limits: FinishLimits
    text = ""  # why the job fails, once that is settled: handlers hear of it next

    def cleanup_execution(self, job: Job, pipeline: Pipeline, execution: Execution | None = None) -> None:
        """RQ calls this in the transaction that records the outcome, be it a success, a failure or a retry."""
        assert isinstance(pipeline, FencedPipeline)
        pipeline.records = True
        fence = pipeline.fence
        fence.frees = job.rate_limit_key or ""
        if isinstance(job.failure_ttl, int):
            job.failure_ttl = min(job.failure_ttl, bounds.LONGEST)
        if fence.ends != "finished":
            check_written({"failure_ttl": job.failure_ttl})  # the store would find out amid the transaction
            fence.keeps = DEFAULT_FAILURE_TTL if job.failure_ttl is None else int(job.failure_ttl)
        super().cleanup_execution(job, pipeline, execution)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Nobody gives a handler a limit: it has the failure callback's, whose default says nothing of a short job."""
        limit = min(job.failure_callback_timeout, self.limits.longest)
        call_handlers(self._exc_handlers, job, self.death_penalty_class, limit, *exc_info)

    def fail(self, job: FinishingJob, queue: Queue, execution: Execution, error: BaseException, text: str) -> None:
        """As RQ's _finalize_failure, but what was raised is printed already: that runs code of its class."""
        job._status = JobStatus.FAILED
        self.handle_execution_ended(job, queue, job.failure_callback_timeout)
        try:
            self.limits.of = FAILURE
            call_failure_callback(job, self.death_penalty_class, error)
        except OURS:
            raise
        except JobTimeoutException as e:  # why the job failed is worth more
            text = f"{text.rstrip()}\n{e}\n"
        except BaseException as e:  # a callback's failure takes the place of the job's, as in RQ
            error, text = e, printed_anyhow(e)
        self.text = text
        self.limits.of = HANDLER
        self.handle_exception(job, type(error), error, traceback_of(error))
        self.handle_job_failure(
            job=job,
            exc_string=text,
            queue=queue,
            started_job_registry=queue.started_job_registry,
            execution=execution,
        )
