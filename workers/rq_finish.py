"""RQ's own finish, fenced: callbacks, webhooks, repeats, rate limits, retries and dependents are RQ's to the letter.

RQ 3.0's ``_finalize_success`` and ``_finalize_failure`` run unchanged on a worker object whose connection gives out
fenced pipelines. RQ cleans the execution up in the one transaction that records the outcome; before its EXEC it

    WATCHes rq:jobq:fin:ID    set by us for this finish, deleted by RESCUE
    checks the token          gone: OwnershipLost, and nothing is written
    adds to the same MULTI    ZREM own, DEL fin, LREM intermediate, DEL first_seen

so that who was rescued meanwhile writes nothing, and who commits is settled in the same step. Callbacks and webhooks
run outside of it: at least once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import redis
from redis.client import Pipeline
from rq.callbacks import execute_failure_callback, execute_stopped_callback
from rq.exceptions import AbandonedJobError
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.job_lifecycle import call_exception_handlers
from rq.queue import Queue
from rq.timeouts import BaseDeathPenalty
from rq.worker import SimpleWorker

from jobqueue import keys
from jobqueue.errors import OwnershipLost
from jobqueue.protocol import RETURNED
from jobqueue.serializers import Auto, decompress, format_of
from workers.patience import insist
from workers.runner import Ending, decode_text
from workers.settings import Settings

log = logging.getLogger(__name__)

FIN_TTL = 3600  # seconds; a finish that takes longer is not fenced by WATCH any more, but still by the token


Finalize = Callable[[Job, Queue, Execution, Ending], None]


class Fence:
    """The token of the job that is being finished, and what a commit must clean up with it."""

    def __init__(self, owner: str, job_id: str, claim: int, queue: str) -> None:
        self.own = keys.own(owner)
        self.job_id = job_id
        self.claim = claim
        self.queue = queue
        self.committed = False

    def check(self, score: float | None) -> None:
        if score is None or int(score) != self.claim:
            raise OwnershipLost(f"job {self.job_id} was taken from this worker; its outcome is not recorded")

    def clean_up(self, pipe: Any) -> None:
        intermediate = keys.intermediate(self.queue)
        pipe.zrem(self.own, self.job_id)
        pipe.delete(keys.fin(self.job_id), f"{intermediate}:first_seen:{self.job_id}")
        pipe.lrem(intermediate, 1, self.job_id)


class FencedPipeline(Pipeline):
    """A pipeline that commits under the token if it is the one that records the outcome. What RQ reads before that,
    what it does afterwards, and what a callback does on its connection, is not fenced and settles nothing."""

    fence: Fence
    records = False

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        fence = self.fence
        if not self.records or fence.committed or not self.command_stack:
            return super().execute(raise_on_error)
        commands, self.command_stack = self.command_stack, []
        self.explicit_transaction = False  # so that the next two commands are sent at once
        self.watch(keys.fin(fence.job_id))  # type: ignore[no-untyped-call]
        fence.check(self.zscore(fence.own, fence.job_id))
        self.multi()
        self.command_stack = commands
        wanted = len(commands)
        fence.clean_up(self)
        replies = super().execute(raise_on_error)
        fence.committed = True
        return replies[:wanted]


class FencedRedis(redis.Redis):
    """A client over an existing pool whose pipelines are fenced while a finish is under way."""

    fence: Fence

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        pipe = FencedPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipe.fence = self.fence
        return pipe


class FinishingJob(Job):
    """A job whose status is written by the fenced transaction only: RQ sets some of it directly before."""

    may_retry = True

    @property
    def should_retry(self) -> bool:
        return self.may_retry and super().should_retry

    def set_status(self, status: JobStatus, pipeline: Pipeline | None = None) -> None:
        self._status = status
        if pipeline is not None:
            super().set_status(status, pipeline=pipeline)

    def heartbeat(self, timestamp: datetime, ttl: int, pipeline: Pipeline | None = None, xx: bool = False) -> None:
        self.last_heartbeat = timestamp
        if pipeline is not None:
            super().heartbeat(timestamp, ttl, pipeline=pipeline, xx=xx)


class QuietWorker(SimpleWorker):
    """An RQ worker that only finishes: it prepares nothing, listens to nobody, and leaves the log to the slot."""

    log_result_lifespan = False

    connection: FencedRedis

    def cleanup_execution(self, job: Job, pipeline: Pipeline, execution: Execution | None = None) -> None:
        """RQ calls this in the transaction that records the outcome, be it a success, a failure or a retry."""
        assert isinstance(pipeline, FencedPipeline)
        pipeline.records = True
        super().cleanup_execution(job, pipeline, execution)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        call_exception_handlers(self._exc_handlers, job, *exc_info)


class Finisher:
    """Finishes jobs of one slot through RQ's own methods."""

    def __init__(
        self,
        settings: Settings,
        owner: str,
        client: redis.Redis,
        penalty: type[BaseDeathPenalty],
        *,
        worker: str = "",
    ) -> None:
        self._owner = owner
        self._name = worker or settings.worker
        self._settings = settings
        self._client = client
        self._connection = FencedRedis(connection_pool=client.connection_pool)
        self._worker = self._make_worker(penalty)

    def _make_worker(self, penalty: type[BaseDeathPenalty]) -> QuietWorker:
        worker = QuietWorker(
            [Queue(name, connection=self._connection, serializer=Auto) for name in self._settings.queues],
            name=self._name,
            connection=self._connection,
            prepare_for_work=False,
            serializer=Auto,
            default_result_ttl=self._settings.default_result_ttl,
        )
        worker.log = logging.getLogger("rq.worker")
        worker.death_penalty_class = penalty
        return worker

    def finish(self, job_id: str, claim: int, queue: str, ending: Ending, started: float) -> None:
        """Record how the job ended. An outcome that is not ours any more is dropped, with a warning."""
        self._insist(job_id, claim, queue, ending, started, self._finalize)

    def finish_stopped(self, job_id: str, claim: int, queue: str, ending: Ending, started: float) -> None:
        """Record that the job was stopped on request, as RQ does: its callback first, then status and registry."""
        self._insist(job_id, claim, queue, ending, started, self._finalize_stopped)

    def finish_for_good(self, job_id: str, claim: int, queue: str, ending: Ending, started: float) -> None:
        """Record a failure after which RQ's retries do not apply, and are not touched: the job killed its process."""
        self._insist(job_id, claim, queue, ending, started, self._finalize_for_good)

    def _insist(self, job_id: str, claim: int, queue: str, ending: Ending, started: float, finalize: Finalize) -> None:

        def attempt() -> None:
            fence = Fence(self._owner, job_id, claim, queue)
            self._client.set(keys.fin(job_id), claim, ex=FIN_TTL)
            try:
                self._finish_once(fence, ending, started, finalize)
            except OwnershipLost as e:
                log.warning("%s", e)

        insist(attempt, f"finishing job {job_id}")

    def _finish_once(self, fence: Fence, ending: Ending, started: float, finalize: Finalize) -> None:
        self._connection.fence = fence
        if not (raw := self._client.hgetall(keys.job(fence.job_id))):
            self._let_go(fence)
            return
        job = self._job(fence, raw, ending, started)
        queue = Queue(fence.queue, connection=self._connection, job_class=FinishingJob, serializer=job.serializer)
        queue.death_penalty_class = self._worker.death_penalty_class
        execution = Execution(f"{fence.claim:032x}", job.id, self._connection, self._name)
        execution.created_at = datetime.fromtimestamp(started, UTC)
        finalize(job, queue, execution, ending)
        if (
            not fence.committed
        ):  # RQ logs what its transaction raises and goes on: find out whether it was ours to write
            fence.check(self._client.zscore(fence.own, fence.job_id))
            raise redis.ConnectionError("RQ's finish was not recorded")

    def _job(self, fence: Fence, raw: Any, ending: Ending, started: float) -> FinishingJob:
        kind = format_of(decompress(raw[b"data"]))
        job = FinishingJob(fence.job_id, connection=self._connection, serializer=kind)
        job.restore(raw)
        job.started_at = datetime.fromtimestamp(started, UTC)
        job.worker_name = self._name
        return job

    def _finalize(self, job: Job, queue: Queue, execution: Execution, ending: Ending) -> None:
        worker = self._worker
        if ending.kind != RETURNED:
            self._finalize_failure(job, queue, execution, ending)
            return
        try:
            worker._finalize_success(job, queue, execution, ending.value)
        except (redis.RedisError, OSError):
            raise
        except Exception as e:  # as in RQ's perform_job: what a success callback raises fails the job
            worker._finalize_failure(job, queue, execution, exc_info(e))

    def _finalize_failure(self, job: Job, queue: Queue, execution: Execution, ending: Ending) -> None:
        if ending.error is not None:
            self._worker._finalize_failure(job, queue, execution, exc_info(ending.error))
            return
        # Only the text is left: of a record that a dead process had written, or of the death itself.
        text = decode_text(ending.payload)
        job._status = JobStatus.FAILED
        job.ended_at = datetime.now(UTC)
        try:
            error = AbandonedJobError(text)
            execute_failure_callback(job, self._worker.death_penalty_class, AbandonedJobError, error, None)
        except Exception:  # the job's own end stays what is recorded
            log.exception("job %s: its failure callback failed", job.id)
        self._worker.handle_job_failure(job, queue, exc_string=text, execution=execution)

    def _finalize_for_good(self, job: Job, queue: Queue, execution: Execution, ending: Ending) -> None:
        assert isinstance(job, FinishingJob)
        job.may_retry = False
        self._finalize_failure(job, queue, execution, ending)

    def _finalize_stopped(self, job: Job, queue: Queue, execution: Execution, ending: Ending) -> None:
        job.ended_at = datetime.now(UTC)
        self._worker._stopped_job_id = job.id
        try:
            execute_stopped_callback(job, self._worker.death_penalty_class)
        except Exception:
            log.exception("job %s: its stopped callback failed", job.id)
        self._worker.handle_job_failure(job, queue, exc_string=decode_text(ending.payload), execution=execution)

    def _let_go(self, fence: Fence) -> None:
        """The job is gone: nothing is recorded, and nothing says any more that it runs."""
        fence.check(self._client.zscore(fence.own, fence.job_id))  # else these are somebody else's traces
        job_id, x = fence.job_id, f"{fence.claim:032x}"
        with self._client.pipeline() as pipe:
            fence.clean_up(pipe)
            pipe.zrem(keys.registry("wip", fence.queue), f"{job_id}:{x}")
            pipe.zrem(keys.executions(job_id), x)
            pipe.srem(keys.worker_executions(self._name), f"{job_id}:{x}")
            pipe.delete(keys.execution(job_id, x))
            pipe.execute()


def exc_info(error: BaseException | None) -> Any:
    return type(error), error, error.__traceback__ if error else None
