"""RQ's job, queue and worker classes, with what a finish needs of them changed: see ``finish``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
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
from jobqueue.workers.rq_finish.webhooks import LimitedWebhooks
from jobqueue.workers.running.error_text import printed_anyhow, traceback_of
from jobqueue.workers.running.limits import OURS
from jobqueue.workers.shared.endings import FAILURE, HANDLER, WEBHOOK


class FinishingJob(LimitedWebhooks, ServedCallbacks):
    """A job whose status only the fenced transaction writes. RQ's job writes a part of it before, without a fence."""

    limits: FinishLimits
    may_retry = True
    calls_back = True
    plain = False  # run no code of the user's
    ran: Mapping[str, Any] = {}  # its start and its worker; the store does not have them before the start mark

    def restore(self, raw_data: Any) -> None:
        super().restore(readable(raw_data))
        self.__dict__.update(self.ran)

    def get_status(self, refresh: bool = True) -> JobStatus:
        """Return STARTED, which callbacks expect, also where the job ended before its start mark was sent."""
        status = super().get_status(refresh)
        return JobStatus.STARTED if status is JobStatus.QUEUED else status

    def limited(self, seconds: int) -> AbstractContextManager[None]:
        """Limit the code inside by the slot's own limit."""
        return self.limits.limited(WEBHOOK, seconds)

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
        return min(ttl, bounds.LONGEST)  # a longer one the store would refuse in the middle of the transaction

    @property
    def should_retry(self) -> bool:
        return self.may_retry and super().should_retry

    def retry(self, queue: Queue, pipeline: Pipeline) -> None:
        """Retry as RQ does, and count it: RQ only counts down how many are left."""
        super().retry(queue, pipeline)
        pipeline.hincrby(self.key, "jobq_retries", 1)

    def set_status(self, status: JobStatus, pipeline: Pipeline | None = None) -> None:
        self._status = status
        if pipeline is not None:
            super().set_status(status, pipeline=pipeline)
        if isinstance(pipeline, FencedPipeline) and status in (JobStatus.FAILED, JobStatus.STOPPED):
            pipeline.fence.outcome = status.value

    def heartbeat(self, timestamp: datetime, ttl: int, pipeline: Pipeline | None = None, xx: bool = False) -> None:
        self.last_heartbeat = timestamp
        if pipeline is not None:
            super().heartbeat(timestamp, ttl, pipeline=pipeline, xx=xx)


class FinishingQueue(Queue):
    """A queue that leaves dependents to the script ENQUEUE DEPENDENTS, whose work any process can resume. RQ's queue
    first commits the outcome, then enqueues the dependents one by one from memory: a kill between loses them."""

    enqueue_all_dependents: Callable[[], object]  # those of the job that has just ended

    def move_dependents_to_ready(self, job: Job, pipeline: Any = None, *_: Any, **__: Any) -> dict[str, list[str]]:
        """Do nothing but note the success: RQ calls this in the transaction that records it."""
        assert isinstance(pipeline, FencedPipeline)
        pipeline.fence.outcome = "finished"
        return {}

    def enqueue_ready_jobs_by_queue(self, job_ids_by_queue_name: dict[str, list[str]]) -> None:
        """Enqueue the dependents: RQ calls this after the transaction of a success."""
        self.enqueue_all_dependents()

    def enqueue_dependents(self, job: Job, *_: Any, **__: Any) -> dict[str, list[str]]:
        """Enqueue the dependents: RQ calls this after the transaction of a failure. RQ logs what this raises, and
        ``Finisher`` does it again."""
        self.enqueue_all_dependents()
        return {}


class QuietWorker(SimpleWorker):
    """An RQ worker that only ends jobs: it does not register, takes no commands, and leaves the log to the slot."""

    log_result_lifespan = False

    connection: FencedRedis
    limits: FinishLimits
    text = ""  # why the job fails; set before the exception handlers are called

    def cleanup_execution(self, job: Job, pipeline: Pipeline, execution: Execution | None = None) -> None:
        """Add the fence to the transaction: RQ calls this in the one that records a success, a failure or a retry."""
        assert isinstance(pipeline, FencedPipeline)
        pipeline.records = True
        fence = pipeline.fence
        fence.rate_limit = job.rate_limit_key or ""
        if isinstance(job.failure_ttl, int):
            job.failure_ttl = min(job.failure_ttl, bounds.LONGEST)
        if fence.outcome != "finished":
            check_written({"failure_ttl": job.failure_ttl})  # else the store fails it in the middle of the transaction
            fence.failure_ttl = DEFAULT_FAILURE_TTL if job.failure_ttl is None else int(job.failure_ttl)
        super().cleanup_execution(job, pipeline, execution)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Call the exception handlers under the failure callback's time limit (RQ gives them none), and at most the
        limit of a stretch."""
        limit = min(job.failure_callback_timeout, self.limits.longest)
        call_handlers(self._exc_handlers, job, self.death_penalty_class, limit, *exc_info)

    def fail(self, job: FinishingJob, queue: Queue, execution: Execution, error: BaseException, text: str) -> None:
        """Do what RQ's ``_finalize_failure`` does, with a ``text`` that is printed already: printing an exception runs
        code of its class, which has had its time limit."""
        job._status = JobStatus.FAILED
        self.handle_execution_ended(job, queue, job.failure_callback_timeout)
        try:
            self.limits.of = FAILURE
            call_failure_callback(job, self.death_penalty_class, error)
        except OURS:
            raise
        except JobTimeoutException as e:  # the record keeps why the job failed, and adds this
            text = f"{text.rstrip()}\n{e}\n"
        except BaseException as e:  # as in RQ, the record says what the callback raised, not the job
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
