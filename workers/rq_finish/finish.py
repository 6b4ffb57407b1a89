"""RQ's own finish: callbacks, webhooks, repeats, rate limits, retries and dependents are RQ's to the letter.

RQ 3.0's ``_finalize_success`` and ``_finalize_failure`` run unchanged on a worker object whose connection gives out
fenced pipelines (``fence``), so that who was rescued meanwhile writes nothing, and who commits is settled in the
same step. Callbacks and webhooks run outside of it: at least once.

    the store is away           the finish waits, and is done again
    the token is gone           nothing is written
    anything else is raised     what the job set on itself cannot be recorded, say: the job fails with the reason, in a
                                second, plain finish, which knows the job as the store has it and calls nobody
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

import redis
from redis.exceptions import InvalidResponse, ResponseError, WatchError
from rq.callbacks import execute_stopped_callback
from rq.exceptions import AbandonedJobError
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.timeouts import BaseDeathPenalty, JobTimeoutException

from jobqueue.errors import OwnershipLost
from jobqueue.protocol import keys
from jobqueue.protocol.outcomes import RAISED, RETURNED
from jobqueue.protocol.protocol import Protocol
from jobqueue.protocol.rescue import ForRQ
from jobqueue.store.error_texts import is_away
from jobqueue.workers.rq_finish.callbacks import CallbackFailed, call_failure_callback, handlers_of
from jobqueue.workers.rq_finish.encode_once import EncodedOnce, Sealed
from jobqueue.workers.rq_finish.fence import Fence, FencedRedis
from jobqueue.workers.rq_finish.limits import FinishLimits
from jobqueue.workers.rq_finish.rq_objects import FinishingJob, FinishingQueue, QuietWorker
from jobqueue.workers.running.context import after_imports
from jobqueue.workers.running.error_text import (
    LONGEST_IN_LOG,
    one_line,
    one_line_without_its_code,
    printed_anyhow,
    printed_without_its_code,
)
from jobqueue.workers.running.limits import OURS
from jobqueue.workers.running.own_classes import job_class_of, on_top, runner_for
from jobqueue.workers.running.runner import Ending, Runner
from jobqueue.workers.shared.clock import now
from jobqueue.workers.shared.endings import FAILURE, STOPPED_CALLBACK, SUCCESS, decode_text, encode_text
from jobqueue.workers.shared.refusals import never_taken, refused_text
from jobqueue.workers.shared.retry import retry_request
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)

DISTURBED = 3  # times that a success callback may lose its connection to a store that is there, before it fails the job
FIN_TTL = 3600  # seconds; a finish that takes longer is not fenced by WATCH any more, but still by the token


Finalize = Callable[[Job, Queue, Execution, Ending], None]


class Finisher:
    """Finishes jobs of one slot through RQ's own methods."""

    def __init__(
        self,
        settings: Settings,
        owner: str,
        client: redis.Redis,
        penalty: type[BaseDeathPenalty] | None = None,
        *,
        limits: FinishLimits | None = None,
        worker: str = "",
        job_class: type[Job] | None = None,
    ) -> None:
        """limits: of a slot; without it only callbacks are limited, by ``penalty``. worker: in whose name. job_class:
        of the jobs that callbacks and handlers see. Both are the settings' unless told."""
        self._owner = owner
        self._disturbed = 0  # in this finish
        self._job_class = on_top(FinishingJob, job_class or job_class_of(settings))
        self._name = worker or settings.worker
        self._settings = settings
        self._client = client
        self._protocol = Protocol(client)
        self._limits = limits or FinishLimits(None)
        self._limit, self._plain = 0.0, False  # of the job that is finished: its time limit; no code of the user's
        self._on_commit: Callable[[], None] = _nothing
        self._connection = FencedRedis(connection_pool=client.connection_pool)
        self._connection.limits = self._limits
        self.runner = self._make_runner()
        self._worker = self._make_worker(penalty or self._limits.penalty())
        self._worker.limits = self._limits

    def _make_runner(self) -> Runner:
        return runner_for(self._settings)

    def _make_worker(self, penalty: type[BaseDeathPenalty]) -> QuietWorker:
        worker = QuietWorker(
            [Queue(name, connection=self._connection, serializer=self.runner.reads) for name in self._settings.queues],
            name=self._name,
            connection=self._connection,
            prepare_for_work=False,
            serializer=self.runner.reads,
            default_result_ttl=self._settings.default_result_ttl,
            exception_handlers=handlers_of(self._settings),
        )
        worker.log = logging.getLogger("rq.worker")
        worker.death_penalty_class = penalty
        return worker

    @contextmanager
    def set_up(self, limit: float, plain: bool, on_commit: Callable[[], None]) -> Iterator[None]:
        """For what is finished inside: the job's time limit (seconds; 0 or less: none), whether to do without any code
        of the user's, and whom to tell that the outcome is in the store."""
        self._limit, self._plain, self._on_commit = limit, plain, on_commit
        try:
            yield
        finally:
            self._limit, self._plain, self._on_commit = 0.0, False, _nothing

    def finish(
        self,
        job_id: str,
        claim: int,
        queue: str,
        ending: Ending,
        started: float,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        """Record how the job ended; ``changes`` is what it set on its own RQ job while it ran. An outcome that is not
        ours any more is dropped, with a warning."""

        def finalize(job: Job, queue: Queue, execution: Execution, ending: Ending) -> None:
            job.__dict__.update(changes or {})
            self._finalize(job, queue, execution, ending)

        self._retry_request(job_id, claim, queue, ending, started, finalize)

    def finish_stopped(self, job_id: str, claim: int, queue: str, ending: Ending, started: float) -> None:
        """Record that the job was stopped on request, as RQ does: its callback first, then status and registry."""
        self._retry_request(job_id, claim, queue, ending, started, self._finalize_stopped)

    def finish_for_good(self, job_id: str, claim: int, queue: str, ending: Ending, started: float) -> None:
        """Record a failure after which RQ's retries do not apply, and are not touched: the job killed its process."""
        self._retry_request(job_id, claim, queue, ending, started, self._finalize_for_good)

    def finish_left(self, job: ForRQ, plain: bool = False) -> None:
        """Record what a rescue left to us: what the dead owner had returned, or why the job failed. ``plain``: without
        any code of the user's."""
        ending = Ending(RETURNED if job.kind == "returned" else RAISED, job.cause)
        finish = {"stop": self.finish_stopped, "dead": self.finish_for_good}.get(job.kind, self.finish)
        with self.set_up(limit=0.0, plain=plain, on_commit=_nothing):
            after_imports.run(finish, job.id, job.claim, job.queue, ending, now())

    def _retry_request(
        self, job_id: str, claim: int, queue: str, ending: Ending, started: float, finalize: Finalize
    ) -> None:
        self._disturbed = 0
        was_plain = self._plain
        fence = Fence(self._owner, job_id, claim, queue, self._on_commit)

        def attempt() -> None:
            nonlocal ending, finalize
            if not fence.committed and (raw := self._begin(fence)) is not None:
                why = ""
                try:
                    with nullcontext() if self._plain else self._limits.stretch(self._limit):
                        why = self._finish_once(fence, raw, ending, started, finalize)
                except OwnershipLost:
                    if self._begin(fence) is not None:  # it says why, and lets the job go; unless that has changed
                        raise redis.ConnectionError("RQ's finish was disturbed") from None
                except (redis.RedisError, OSError) as e:
                    ending = self._after(fence, ending, e)
                    raise
                if why:
                    ending, self._plain = Ending(RAISED, encode_text(why)), True
                    if finalize != self._finalize_stopped:
                        finalize = self._finalize_for_good
                    attempt()
                    return
            self._bring_on(fence)

        try:
            retry_request(attempt, f"finishing job {job_id}")
        finally:
            self._plain = was_plain

    def _after(self, fence: Fence, ending: Ending, error: BaseException) -> Ending:
        """What to record in the next attempt: the same, unless the store will never take it."""
        size, error = len(ending.payload), fence.error or error
        if ending.kind != RETURNED or not never_taken(size, error, fence.losses):
            return ending
        log.warning("job %s: the store refuses its outcome (%d bytes): %s", fence.job_id, size, error)
        return Ending(RAISED, encode_text(refused_text(size, error)))

    def _begin(self, fence: Fence) -> dict[bytes, bytes] | None:
        """The job's hash; None: it is not ours to finish (any more), and nothing runs on its behalf."""
        args = (fence.job_id, fence.claim, fence.queue, FIN_TTL)
        begun = self._protocol.begin_finish(self._owner, self._name, *args)
        if isinstance(begun, dict):
            return begun
        if begun == "lost":
            self._lost(fence)
        elif begun == "canceled":
            log.info("job %s was canceled while it ran; its outcome is not recorded", fence.job_id)
        return None

    def _lost(self, fence: Fence) -> None:
        """The token is gone. Where the reply to an EXEC of ours was lost, it is gone because that was executed."""
        if fence.sent and self._has_recorded(fence):
            fence.committed = True
        elif fence.sent:
            log.info("job %s: the reply to its outcome was lost; it is recorded, or not ours any more", fence.job_id)
        else:
            log.warning("job %s was taken from this worker; its outcome is not recorded", fence.job_id)

    def _has_recorded(self, fence: Fence) -> bool:
        latest: Any = self._client.xrevrange(keys.results(fence.job_id), count=10)
        execution = b"%032x" % fence.claim
        return any(fields.get(b"execution_id") == execution for _, fields in latest)

    def _bring_on(self, fence: Fence) -> None:
        """Enqueue the dependents, some at a time; whoever else sees the mark may do it too."""
        if not (fence.sent and (fence.ends or fence.frees)):
            return
        while self._protocol.enqueue_dependents(fence.job_id)[0]:
            pass

    def _finish_once(self, fence: Fence, raw: Any, ending: Ending, started: float, finalize: Finalize) -> str:
        """Return why the job fails when its end cannot be recorded as the job left it, else ""."""
        self._worker.text = fence.ends = ""
        fence.error = fence.keeps = None
        try:
            self._finish_by_rq(fence, raw, ending, started, finalize)
        except Exception as e:
            if self._is_of_the_store(e, ending) or (self._plain and not fence.committed):
                raise
            if not fence.committed:
                return self._why(fence, ending, e)
            log.error("job %s: its end is recorded; behind it RQ failed: %s", fence.job_id, _line(e))
        return ""

    def _finish_by_rq(self, fence: Fence, raw: Any, ending: Ending, started: float, finalize: Finalize) -> None:
        self._connection.fence = fence
        job = self._job(fence, raw, started)
        queue = FinishingQueue(
            fence.queue, connection=self._connection, job_class=self._job_class, serializer=job.serializer
        )
        queue.bring_on = lambda: self._bring_on(fence)
        queue.death_penalty_class = self._worker.death_penalty_class
        execution = Execution(f"{fence.claim:032x}", job.id, self._connection, self._name)
        execution.created_at = datetime.fromtimestamp(started, UTC)
        finalize(job, queue, execution, ending)
        if not fence.committed:  # RQ logs what its transaction raises and goes on
            raise fence.error or RuntimeError("RQ's finish has recorded nothing")

    def _is_of_the_store(self, error: BaseException, ending: Ending) -> bool:
        """Whether waiting helps, or less of a result (``_after``). Not where the mistake is in what was to be sent:
        redis-py cannot encode it, or the store refuses what a failure has to say."""
        if isinstance(error, ResponseError):
            return ending.kind == RETURNED or is_away(error)
        return isinstance(error, (redis.ConnectionError, redis.TimeoutError, WatchError, InvalidResponse))

    def _why(self, fence: Fence, ending: Ending, error: Exception) -> str:
        """(within the limit of a stretch) What is recorded instead: why the job failed, if it had, and this error."""
        line = _line(error)
        log.error("job %s: its end cannot be recorded as the job left it: %s", fence.job_id, line)
        said = self._worker.text or (decode_text(ending.payload) if ending.kind != RETURNED else "")
        if not said:
            return _printed(error)
        return (
            said if line in said else f"{said.rstrip()}\n\nIts end could not be recorded as the job left it. {line}\n"
        )

    def _job(self, fence: Fence, raw: Any, started: float) -> FinishingJob:
        serializer = Sealed() if self._plain else EncodedOnce(self.runner.serializer_of(raw.get(b"data", b"")))
        job_class: type[FinishingJob] = FinishingJob if self._plain else self._job_class
        job = job_class(fence.job_id, connection=self._connection, serializer=serializer)
        job.plain = self._plain
        job.resolve = self.runner.resolve
        job.ran = {"started_at": datetime.fromtimestamp(started, UTC), "worker_name": self._name}
        job.restore(raw)
        job.last_heartbeat = datetime.now(UTC)
        return job

    def _finalize(self, job: Job, queue: Queue, execution: Execution, ending: Ending) -> None:
        if ending.kind != RETURNED:
            self._finalize_failure(job, queue, execution, ending)
            return
        try:
            self._limits.of = SUCCESS
            self._worker._finalize_success(job, queue, execution, self._value(job, ending))
        except CallbackFailed as e:  # as in RQ's perform_job: what a success callback raises fails the job
            if self._may_be_an_outage(e.error):
                raise e.error from None
            self._fail(job, queue, execution, e.error)
        except Exception as e:
            if self._connection.fence.committed or self._is_of_the_store(e, ending):
                raise
            self._fail(job, queue, execution, e)

    def _value(self, job: Job, ending: Ending) -> Any:
        """What the job returned. It is encoded already, and encoded again only after a success callback had it."""
        if ending.is_retry or not ending.payload:
            return ending.value
        if job._success_callback_name:
            return ending.value if ending.value is not None else self._decoded(ending)
        serializer: Any = job.serializer
        return serializer.has(ending.value, base64.b64decode(ending.payload))

    def _decoded(self, ending: Ending) -> Any:
        return self.runner.ending_of(ending.kind, ending.payload).value

    def _fail(self, job: Job, queue: Queue, execution: Execution, error: BaseException) -> None:
        assert isinstance(job, FinishingJob)
        fence = self._connection.fence
        fence.ends, fence.error = "", None  # it was about to end otherwise
        self._worker.fail(job, queue, execution, error, printed_anyhow(error))

    def _may_be_an_outage(self, error: BaseException) -> bool:
        """A callback lost its connection: to our store, which is away (the finish waits for it) or was for a moment
        (it is tried again, a few times), or to another."""
        if not isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
            return False
        try:
            self._client.ping()
        except redis.RedisError:
            return True
        self._disturbed += 1
        return self._disturbed <= DISTURBED

    def _finalize_failure(self, job: Job, queue: Queue, execution: Execution, ending: Ending) -> None:
        assert isinstance(job, FinishingJob)
        ending = self._without_refused_callback(job, ending)
        if ending.error is not None and not self._plain:
            self._worker.fail(job, queue, execution, ending.error, decode_text(ending.payload))
            return
        # Only the text is left: of a record that a dead process had written, or of the death itself.
        text = decode_text(ending.payload)
        job._status = JobStatus.FAILED
        job.ended_at = datetime.now(UTC)
        try:
            self._limits.of = FAILURE
            call_failure_callback(job, self._worker.death_penalty_class, AbandonedJobError(text))
        except OURS:
            raise
        except BaseException as e:  # the job's own end stays what is recorded
            log.error("job %s: its failure callback failed\n%s", job.id, printed_anyhow(e, LONGEST_IN_LOG))
        self._worker.handle_job_failure(job, queue, exc_string=text, execution=execution)

    def _without_refused_callback(self, job: FinishingJob, ending: Ending) -> Ending:
        """A failure callback that this worker does not serve must not hide why the job failed."""
        try:
            _ = job.failure_callback
            return ending
        except Exception as e:
            job.calls_back = False
            note = f"Its failure callback was not called: {e}"
        return ending._replace(payload=encode_text(f"{decode_text(ending.payload).rstrip()}\n{note}\n"))

    def _finalize_for_good(self, job: Job, queue: Queue, execution: Execution, ending: Ending) -> None:
        assert isinstance(job, FinishingJob)
        job.may_retry = False
        self._finalize_failure(job, queue, execution, ending)

    def _finalize_stopped(self, job: Job, queue: Queue, execution: Execution, ending: Ending) -> None:
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


def _nothing() -> None:
    pass


def _line(error: BaseException) -> str:
    """Here and below: a limit may end the error's own code."""
    try:
        return one_line(error)
    except JobTimeoutException:
        return one_line_without_its_code(error)


def _printed(error: BaseException) -> str:
    try:
        return printed_anyhow(error)
    except JobTimeoutException:
        return printed_without_its_code(error)
