"""Record a job's outcome by RQ's own code, so that callbacks, retries, repeats, dependents, rate limits and webhooks
do exactly what RQ does.

RQ 3.0's ``_finalize_success`` and ``_finalize_failure`` run unchanged, on a worker object whose connection makes fenced
pipelines (``fence``): the transaction that records the outcome also releases the claim, and it writes nothing where the
job was rescued meanwhile. Callbacks and webhooks run outside of that transaction, at least once.

    the store does not answer   the finish waits for it and starts over
    the token is gone           nothing is written
    another error               for example, the job set a value on itself that cannot be written: the job fails with
                                this reason, in a second finish that reads the job from the store as it is and runs no
                                code of the user's

``finalize`` has the calls to RQ's methods, ``rq_objects`` the subclasses of RQ's classes that they run on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

import redis
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.timeouts import BaseDeathPenalty, JobTimeoutException

from jobqueue.clock import now
from jobqueue.errors import OwnershipLost
from jobqueue.protocol import keys
from jobqueue.protocol.outcomes import RAISED, RETURNED
from jobqueue.protocol.protocol import Protocol
from jobqueue.protocol.rescue import ForRQ, Verdict
from jobqueue.workers.rq_finish.callbacks import handlers_of
from jobqueue.workers.rq_finish.encode_once import EncodedOnce, Sealed
from jobqueue.workers.rq_finish.fence import Fence, FencedRedis
from jobqueue.workers.rq_finish.finalize import Finalizer, is_store_error
from jobqueue.workers.rq_finish.limits import FinishLimits
from jobqueue.workers.rq_finish.rq_objects import FinishingJob, FinishingQueue, QuietWorker
from jobqueue.workers.running.context import after_imports
from jobqueue.workers.running.error_text import (
    one_line,
    one_line_without_its_code,
    printed_anyhow,
    printed_without_its_code,
)
from jobqueue.workers.running.own_classes import job_class_of, on_top, runner_for
from jobqueue.workers.running.runner import Ending, Runner
from jobqueue.workers.shared.endings import decode_text, encode_text
from jobqueue.workers.shared.refusals import never_taken, refused_text
from jobqueue.workers.shared.retry import retry_request
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)

FIN_TTL = 3600  # seconds; the key that a finish WATCHes expires then; afterwards only the check of the token fences it


Finalize = Callable[[Job, Queue, Execution, Ending], None]


class Finisher:
    """Finish the jobs of one slot, one at a time, in the slot's thread."""

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
        """limits: the slot's; without them only callbacks are limited, by ``penalty``. worker: the name of the worker
        that ran the jobs. job_class: the class of the jobs that callbacks and handlers get. The last two are taken from
        the settings where they are left out."""
        self._owner = owner
        self._job_class = on_top(FinishingJob, job_class or job_class_of(settings))
        self._name = worker or settings.worker
        self._settings = settings
        self._client = client
        self._protocol = Protocol(client)
        self._limits = limits or FinishLimits(None)
        self._limit, self._plain = 0.0, False  # of the current job: its time limit; whether to run no user code
        self._on_commit: Callable[[str], None] = _nothing
        self._connection = FencedRedis(connection_pool=client.connection_pool)
        self._connection.limits = self._limits
        self.runner = self._make_runner()
        self._worker = self._make_worker(penalty or self._limits.penalty())
        self._worker.limits = self._limits
        self._finalizer = Finalizer(self._worker, self.runner, client, self._limits)

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
    def set_up(self, limit: float, plain: bool, on_commit: Callable[[str], None]) -> Iterator[None]:
        """Set what holds for the finish inside: limit is the job's time limit (seconds; 0 or less: none), plain says to
        run no code of the user's, on_commit is called with the outcome when it is in the store."""
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
        """Record how the job ended. ``changes``: the attributes that it set on its current job (``get_current_job()``)
        while it ran. Where the token is gone, log a warning and record nothing."""

        def finalize(job: Job, queue: Queue, execution: Execution, ending: Ending) -> None:
            job.__dict__.update(changes or {})
            self._finalizer.end(job, queue, execution, ending)

        self._retry_request(job_id, claim, queue, ending, started, finalize)

    def finish_stopped(self, job_id: str, claim: int, queue: str, ending: Ending, started: float) -> None:
        """Record that the job was stopped on request, as RQ does: call its callback, then write status and registry."""
        self._retry_request(job_id, claim, queue, ending, started, self._finalizer.end_stopped)

    def finish_for_good(self, job_id: str, claim: int, queue: str, ending: Ending, started: float) -> None:
        """Record a failure without using RQ's retries or counting one: the job killed its process."""
        self._retry_request(job_id, claim, queue, ending, started, self._finalizer.end_for_good)

    def finish_left(self, job: ForRQ, plain: bool = False) -> str | None:
        """Record the end of a job of a dead owner, which a rescue left for RQ's code: the result that stood in the
        journal, or why the job failed. ``plain``: run no code of the user's. Return what was recorded: "finished",
        "failed", "stopped", "" if it runs again; None if nothing was."""
        ending = Ending(RETURNED if job.verdict is Verdict.RETURNED else RAISED, job.cause)
        ways = {Verdict.STOP: self.finish_stopped, Verdict.FAIL_FOR_GOOD: self.finish_for_good}
        finish = ways.get(job.verdict, self.finish)
        recorded: list[str] = []
        with self.set_up(limit=0.0, plain=plain, on_commit=recorded.append):
            after_imports.run(finish, job.id, job.claim, job.queue, ending, now())
        return recorded[0] if recorded else None

    def _retry_request(
        self, job_id: str, claim: int, queue: str, ending: Ending, started: float, finalize: Finalize
    ) -> None:
        """Attempt the finish until the store has answered: the outcome is recorded, or it is not ours to record."""
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
                    if self._begin(fence) is not None:  # logs why the job is not ours; if it is ours again, start over
                        raise redis.ConnectionError("RQ's finish was disturbed") from None
                except (redis.RedisError, OSError) as e:
                    ending = self._after(fence, ending, e)
                    raise
                if why:
                    ending, self._plain = Ending(RAISED, encode_text(why)), True
                    if finalize != self._finalizer.end_stopped:
                        finalize = self._finalizer.end_for_good
                    attempt()
                    return
            self._enqueue_dependents(fence)

        try:
            retry_request(attempt, f"finishing job {job_id}")
        finally:
            self._plain = was_plain

    def _after(self, fence: Fence, ending: Ending, error: BaseException) -> Ending:
        """Return what the next attempt records: the same, or a failure where the store will never take the result."""
        size, error = len(ending.payload), fence.error or error
        if ending.kind != RETURNED or not never_taken(size, error, fence.losses):
            return ending
        log.warning("job %s: the store refuses its outcome (%d bytes): %s", fence.job_id, size, error)
        return Ending(RAISED, encode_text(refused_text(size, error)))

    def _begin(self, fence: Fence) -> dict[bytes, bytes] | None:
        """Return the job's hash from the store; None: the job is not ours any more, and no code of it runs."""
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
        """Log that the token is gone. Where the reply to our own EXEC was lost, the token may be gone because that EXEC
        was executed: then the outcome is recorded."""
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

    def _enqueue_dependents(self, fence: Fence) -> None:
        """Enqueue the dependents, some with each request. Other processes may do the same at the same time: each
        dependent is enqueued once."""
        if not (fence.sent and (fence.outcome or fence.rate_limit)):
            return
        while self._protocol.enqueue_dependents(fence.job_id)[0]:
            self._limits.beat()

    def _finish_once(self, fence: Fence, raw: Any, ending: Ending, started: float, finalize: Finalize) -> str:
        """Make one attempt. Return "", or why the job fails, where its outcome cannot be recorded as it is."""
        self._worker.text = fence.outcome = ""
        fence.error = fence.failure_ttl = None
        try:
            self._finish_by_rq(fence, raw, ending, started, finalize)
        except Exception as e:
            if is_store_error(e, ending) or (self._plain and not fence.committed):
                raise
            if not fence.committed:
                return self._why(fence, ending, e)
            log.error("job %s: its end is recorded; what RQ does afterwards failed: %s", fence.job_id, _line(e))
        return ""

    def _finish_by_rq(self, fence: Fence, raw: Any, ending: Ending, started: float, finalize: Finalize) -> None:
        self._connection.fence = fence
        job = self._job(fence, raw, started)
        queue = FinishingQueue(
            fence.queue, connection=self._connection, job_class=self._job_class, serializer=job.serializer
        )
        queue.enqueue_all_dependents = lambda: self._enqueue_dependents(fence)
        queue.death_penalty_class = self._worker.death_penalty_class
        execution = Execution(f"{fence.claim:032x}", job.id, self._connection, self._name)
        execution.created_at = datetime.fromtimestamp(started, UTC)
        finalize(job, queue, execution, ending)
        if not fence.committed:  # RQ logs what its transaction raises and goes on
            raise fence.error or RuntimeError("RQ's finish has recorded nothing")

    def _why(self, fence: Fence, ending: Ending, error: Exception) -> str:
        """Return the text that is recorded in place of the outcome: why the job failed, if it did, and this error. Runs
        within the time limit of a stretch, as it may call the error's ``__str__``."""
        line = _line(error)
        log.error("job %s: its end cannot be recorded as the job left it: %s", fence.job_id, line)
        text = self._worker.text or (decode_text(ending.payload) if ending.kind != RETURNED else "")
        if not text:
            return _printed(error)
        return (
            text if line in text else f"{text.rstrip()}\n\nIts end could not be recorded as the job left it. {line}\n"
        )

    def _job(self, fence: Fence, raw: Any, started: float) -> FinishingJob:
        serializer = Sealed() if self._plain else EncodedOnce(self.runner.serializer_of(raw.get(b"data", b"")))
        job_class: type[FinishingJob] = FinishingJob if self._plain else self._job_class
        job = job_class(fence.job_id, connection=self._connection, serializer=serializer)
        job.plain, job.limits = self._plain, self._limits
        job.resolve = self.runner.resolve
        job.ran = {"started_at": datetime.fromtimestamp(started, UTC), "worker_name": self._name}
        job.restore(raw)
        job.last_heartbeat = datetime.now(UTC)
        return job


def _nothing(_outcome: str) -> None:
    pass


def _line(error: BaseException) -> str:
    """Return the error in one line. Its own ``__str__`` may run into the time limit: then do without that."""
    try:
        return one_line(error)
    except JobTimeoutException:
        return one_line_without_its_code(error)


def _printed(error: BaseException) -> str:
    """Return the error with its traceback, likewise."""
    try:
        return printed_anyhow(error)
    except JobTimeoutException:
        return printed_without_its_code(error)
