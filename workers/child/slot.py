"""Run jobs one at a time in a slot: take a job, mark its start where that is needed, run it, hand its outcome over.

In a child with one slot it lives in the main thread, so that a time limit wakes a sleeping job; otherwise each slot is
a thread. What it runs and since when stands in shared memory before the first line of the job is executed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jobqueue.clock import monotonic, now
from jobqueue.errors import StoppedOnRequest
from jobqueue.logs import running
from jobqueue.protocol.claims import Claimed, StartMark
from jobqueue.protocol.outcomes import RAISED, RETURNED, JobOutcome
from jobqueue.words import count
from jobqueue.workers.child.hooks import nothing
from jobqueue.workers.child.job_environment import JobEnvironment
from jobqueue.workers.child.slot_finish import SlotFinish
from jobqueue.workers.child.slot_parts import SlotParts
from jobqueue.workers.child.slot_plugins import SlotPlugins
from jobqueue.workers.child.withdrawal import put_limits_back, why_unfit, withdraw
from jobqueue.workers.rq_finish.finishing import NOTHING, Finishing
from jobqueue.workers.rq_finish.limits import FinishLimits
from jobqueue.workers.running.context import after_imports
from jobqueue.workers.running.current import CurrentJob
from jobqueue.workers.running.failed_runs import INTERRUPTED, STOPPED, TIME_LIMIT
from jobqueue.workers.running.job_variable import JobVariable
from jobqueue.workers.running.limits import Interrupted, Interruptible, Stopped, WrittenOff
from jobqueue.workers.running.monkey_patches import is_patched
from jobqueue.workers.running.resource_limits import resource_limits
from jobqueue.workers.running.runner import Ending, Runner, interrupted
from jobqueue.workers.shared.endings import encode_text
from jobqueue.workers.shared.process_tree import Find, OfProcess, OfThread, end_processes
from jobqueue.workers.shared.retry import CutOff, retry_request
from jobqueue.workers.shared.timestamps import rq_time

if TYPE_CHECKING:
    from jobqueue.workers.rq_finish.finish import Finisher

log = logging.getLogger(__name__)


class Slot(Interruptible):
    """Runs one job after the other until the consumer has no more for it."""

    needs_threads = True  # of this process; RQ's worker classes do without

    def __init__(
        self, number: int, parts: SlotParts, runner: Runner, make_current: Callable[[str], CurrentJob]
    ) -> None:
        super().__init__()
        self.number = number
        self._parts = parts
        self._settings = parts.settings
        self._page = parts.page
        self._consumer = parts.consumer
        self._runner = runner
        self.meter = parts.usage.meter()
        self._environment = JobEnvironment(make_current, self._variables(), alone=parts.settings.slots == 1)
        self._finish = SlotFinish(self, number, parts.page, parts.consumer, self._make_finisher)
        self._plugins = self._hears_of_jobs(parts)
        self._processes: Find | None = None  # finds the processes that its jobs have started
        self._to_rq = False  # the job that ran last is ended by RQ's own finish
        self._carried: Mapping[str, Any] = NOTHING  # the values that this job set on its own RQ job
        self.job: Claimed | None = None
        self.since = 0.0  # monotonic seconds, of the job that runs
        self.inherited: Finishing | None = None  # taken over from a thread that was written off, to be done first
        self.marked = 0  # the claim whose start was marked last
        self.waits = False  # it waits for the store or for work, or has left: no user code holds it

    def run(self) -> None:
        """Run until there is nothing more to run."""
        self.bind()
        self._page.bind(self.number, self.thread or 0)
        if self.meter:
            self.meter.bind()
        try:
            self.call_plugins("thread_start")
            if self.inherited is not None:
                after_imports.copy().run(self._record, self.inherited)
            if self._plugins is not None:
                self._plugins.report()
            while not self.written_off and (work := self._consumer.next()) is not None:
                self.take(work)
            self.call_plugins("thread_stop")
        except WrittenOff:
            pass
        except CutOff as e:  # what the store does not know of this slot's job, the supervisor tells it
            log.error("this process cannot reach the store any more (%s), and another takes its place", e)
            self._parts.ask_to_retire()
        self.waits = True  # no thread waits for it any more

    def take(self, work: Claimed | JobOutcome) -> None:
        """Do one piece of work, in a context of its own: run a job, or let RQ's own finish record an outcome that the
        fast path could not."""
        if isinstance(work, JobOutcome):
            after_imports.copy().run(self._finish_settled, work)
        else:
            after_imports.copy().run(self._run_one, work)
            if self._plugins is not None:
                self._plugins.report()
            changed = resource_limits.were_set or resource_limits.stuck or is_patched()  # here: no call more per job
            if changed and (why := why_unfit(self.needs_threads)):
                self._withdraw(why)

    def call_plugins(self, *methods: str) -> None:
        """(its thread) Call these methods of the plugins, if there are any."""
        if self._plugins is not None:
            for method in methods:
                self._plugins.call(method)

    def bind(self) -> None:
        super().bind()
        self._environment.bind()
        self._processes = OfProcess.here(self._parts.owner) if self._has_the_process else OfThread()

    @property
    def _has_the_process(self) -> bool:
        """Whether every program that is started in this process was started by its job."""
        return self._settings.slots == 1

    # -- what others ask -----------------------------------------------------------------------------------------------

    @property
    def finishing(self) -> Finishing | None:
        """The outcome that RQ's own code is about to record."""
        return self._finish.finishing

    @property
    def busy_since(self) -> float:
        """(child watchdog) Since when it runs a job, has RQ's code record its end, callbacks and all, or runs a plugin
        (monotonic seconds); 0: none of these."""
        if self.job is not None:
            return self.since
        return self._finish.since

    @property
    def is_deaf(self) -> bool:
        """(child watchdog) Whether code that prints exceptions may have swallowed the interrupt, and no other process
        ends this one for it: then raise it again."""
        return False

    def enter(self, target: int, limit: float) -> None:
        """Set a limit, for a job or a callback, and make sure that the watchdog watches it."""
        super().enter(target, limit)
        self._parts.stir()

    def end_processes(self, since: float) -> None:
        """(its thread, or the child watchdog) End the processes that its job has started since ``since`` (monotonic
        seconds)."""
        if self._processes is not None and (number := end_processes(self._processes, since)):
            log.info("%s that the job had started: ended with it", count(number, "process"))

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Allow its thread, within the block, not to answer roll calls of the consumer."""
        self.waits = True
        try:
            yield
        finally:
            self.waits = False

    # -- one job -------------------------------------------------------------------------------------------------------

    def _run_one(self, job: Claimed) -> None:
        running.set(job)  # for the log, until the job's context is dropped
        self._begin(job)
        if not self._may_start(job):
            self._consumer.let_go(job.claim, self.number)
            return
        if self.meter:
            self.meter.begin()
        started = now()
        ending: Ending | BaseException | None
        try:
            ending = self._perform(job)
        except (Interrupted, Stopped) as e:
            ending = e
        ended = now()
        self.job = None
        if self.written_off:
            return
        if self._plugins is not None:
            self._plugins.note(ending, ended - started, repeats=not self._may_not_repeat(job))
        if isinstance(ending, BaseException) or (ending.kind == RAISED and self.was_aimed_at):
            self.end_processes(self.since)
            self._to_rq = self._to_rq or self._fails_by_rq(job)  # the limit came after _close
        if isinstance(ending, BaseException):
            self._end_early(job, ending, started, ended)
            return
        if self.meter and ending.task:
            waited = started - job.ready_at if job.ready_at else None
            self.meter.end(ending.task, ended - started, ending.kind == RAISED, waited)
        if ending.kind == RAISED:
            self._parts.usage.failed.raised(ending.words)
        self._log(job, ending, ended - started)
        if not self._to_rq:
            self._settle(job, ending, started, ended)
            return
        finishing = self._finishing(job, ending, started, self._carried)
        ending, self._carried = None, NOTHING  # nothing else refers to the job's objects
        self._record(finishing)
        self._consumer.note_duration(monotonic() - self.since)

    def _begin(self, job: Claimed) -> None:
        limit = self._settings.default_timeout if job.timeout is None else job.timeout
        self.limit = limit
        self.since = monotonic()
        self._page.begin(self.number, job.claim, self.since, max(0.0, limit))
        self.job = job

    def _may_start(self, job: Claimed) -> bool:
        """Mark the start before the job runs, where it must be known afterwards. Return False if the job was taken from
        us."""
        page = self._page  # read after the claim was written
        must_ask = page.revoked or page.is_stale(self.since) or self._consumer.is_doubtful(job.claim)
        if not (must_ask or self._settings.strict_start or job.features.marked_first):
            return True
        self.marked = job.claim
        mark = [self.start_mark(job)]
        with self.waiting():
            parts, worker = self._parts, self._settings.worker
            return retry_request(lambda: parts.protocol.start_mark(parts.owner, worker, mark), "a start mark")[0]

    def start_mark(self, job: Claimed) -> StartMark:
        """Return the job's start mark; the execution lives as long as RQ lets its own live."""
        started = now() - (monotonic() - self.since)
        remaining = min(self.limit, 30.0) if self.limit > 0 else 30.0
        return StartMark(job, rq_time(started), int(remaining) + 60)

    def _perform(self, job: Claimed) -> Ending:
        environment = self._environment
        environment.enter(job.id)
        if self._plugins is not None:
            self._plugins.begin(job, environment.current)
        self._to_rq, self._carried = True, NOTHING  # until _close finds that CYCLE can settle it
        try:
            self.enter(job.claim, self.limit)
            return self._runner.run(job.data, self._forget_current, self._close)
        finally:
            if self.is_entered:
                self.leave()
            if environment.current is not None:
                environment.leave()

    def _close(self, ending: Ending) -> Ending:
        """(within the job's limit) Find out what its finish needs of the job's objects, and drop the rest: comparing
        and dropping them runs code of theirs."""
        job, current = self.job, self._environment.current
        assert job is not None
        if self._plugins is not None:
            self._plugins.keep_error(ending.error)
        returned = ending.kind == RETURNED
        to_rq = (ending.is_retry or job.features.success_by_rq) if returned else self._fails_by_rq(job)
        self._to_rq = to_rq or (current is not None and current.settled_by_rq)
        if self._to_rq:
            self._carried = current.carried() if current is not None else NOTHING
        elif ending.value is not None or ending.error is not None:
            return Ending(ending.kind, ending.payload, None, None, ending.task, ending.words)
        return ending

    def _forget_current(self) -> None:
        """(last within the job's limit) Drop the objects that the job has put on its own RQ job: that runs code of
        theirs."""
        self._environment.leave()
        self.leave()

    def _log(self, job: Claimed, ending: Ending, seconds: float) -> None:
        if ending.kind == RAISED:
            outcome = "retried" if job.retries_left > 0 else "failed"
            log.warning("job %s failed: %s", job.id, ending.words, extra=_end(outcome, seconds))
        elif self._settings.verbose:
            outcome = "retried" if ending.is_retry else "finished"
            log.info("job %s finished in %.3f s", job.id, seconds, extra=_end(outcome, seconds))

    def _settle(self, job: Claimed, ending: Ending, started: float, ended: float) -> None:
        if self._consumer.finish(self._outcome(job, ending, started, ended), self.number):
            self._record(self._finishing(job, self._left(job.claim, ending), started))

    def _outcome(self, job: Claimed, ending: Ending, started: float, ended: float) -> JobOutcome:
        if ending.kind == RETURNED:
            ttl = self._settings.default_result_ttl if job.result_ttl is None else job.result_ttl
        else:
            ttl = self._settings.default_failure_ttl if job.failure_ttl is None else job.failure_ttl
        times = (rq_time(started), rq_time(ended), started, ended)
        return JobOutcome(job.id, job.claim, job.queue, ending.kind, ttl, ending.payload, *times)

    # -- the slow ways out ---------------------------------------------------------------------------------------------

    def _record(self, finishing: Finishing) -> None:
        """Let RQ's own code record the end."""
        put_limits_back()
        self._finish.record(finishing)
        if self._plugins is not None:
            self._plugins.recorded(finishing)

    def _finish_settled(self, work: JobOutcome) -> None:
        self._record(self._finishing(work, self._left(work.claim, Ending(work.kind, work.payload)), work.started))

    def _left(self, claim: int, ending: Ending) -> Ending:
        """Return the outcome that RQ's finish has to record in place of CYCLE: the job has dependents, or the store
        refuses its outcome."""
        why = self._consumer.why_refused(claim)
        return Ending(RAISED, encode_text(why)) if why else ending

    def _finishing(
        self, job: Claimed | JobOutcome, ending: Ending, started: float, changes: Mapping[str, Any] = NOTHING
    ) -> Finishing:
        finishing = Finishing(job.id, job.claim, job.queue, ending, started, self.limit, changes)
        finishing.heard = self._plugins and self._plugins.heard
        return finishing

    def _fails_by_rq(self, job: Claimed) -> bool:
        return job.features.failure_by_rq or bool(self._settings.exception_handlers)

    def _end_early(self, job: Claimed, why: BaseException, started: float, ended: float) -> None:
        """Record the end of a job that we ended: stopped on request, or interrupted by a shutdown, which counts
        nothing."""
        if isinstance(why, Stopped):
            self._parts.usage.failed.add(STOPPED)
            log.warning("job %s was stopped on request", job.id, extra=_end("stopped", ended - started))
            finishing = self._finishing(job, Ending(RAISED, encode_text(StoppedOnRequest().recorded)), started)
            finishing.stopped = True
            self._record(finishing)
            return
        if self._may_not_repeat(job):
            self._parts.usage.failed.add(INTERRUPTED)
            if job.features.failure_by_rq:
                self._record(self._finishing(job, interrupted(), started))
            else:
                self._settle(job, interrupted(), started, ended)
            return
        text = "job %s was interrupted by shutdown and goes back to its queue"
        log.warning(text, job.id, extra=_end("interrupted", ended - started))
        token, protocol = job.token(self._parts.owner), self._parts.protocol
        with self.waiting():
            retry_request(lambda: protocol.give_back(self._settings.worker, [token]), "giving an interrupted job back")
        self._consumer.let_go(job.claim, self.number)

    def _may_not_repeat(self, job: Claimed) -> bool:
        """Whether --on-crash fail applies, set by the job or else by this worker."""
        return job.features.fails_at_crash or (self._settings.on_crash == "fail" and not job.features.repeats_at_crash)

    # -- what differs in RQ's worker classes ---------------------------------------------------------------------------

    def _withdraw(self, why: str) -> None:
        """Have this process replaced."""
        with self.waiting():
            withdraw(self._parts, why)

    def _variables(self) -> Callable[[str], object] | None:
        """Return what sets a job's id in the environment; None: the environment is shared by several slots."""
        return JobVariable().set if self._settings.slots == 1 else None

    def _hears_of_jobs(self, parts: SlotParts) -> SlotPlugins | None:
        if parts.plugins is None:
            return None
        # the outcome must not wait behind a plugin: a slot that has nothing to do sends it, or the child watchdog
        send = self._consumer.wake if parts.settings.slots > 1 else nothing
        return SlotPlugins(parts.plugins, parts.settings.worker, parts.protocol.client, self._finish, send)

    def _make_finisher(self, limits: FinishLimits) -> Finisher:
        from jobqueue.workers.rq_finish.finish import Finisher

        return Finisher(self._settings, self._parts.owner, self._parts.protocol.client, limits=limits)

    # -- written off ---------------------------------------------------------------------------------------------------

    def write_off(self, claim: int) -> bool:
        """(child watchdog) Write off the thread, which does not come back from this job. Return False if it just
        did."""
        with self._lock:  # leave() waits for it, as an interrupt was tried before
            if self.target != claim:
                return False
            self.written_off = True
            return True

    def inherit(self, stuck: Slot, job: Claimed, ending: Ending, stopped: bool) -> None:
        """(child watchdog, before the thread starts) Have this slot record the end of the job from which ``stuck`` did
        not come back."""
        ended = now()
        started = ended - (monotonic() - stuck.since)
        if self._plugins is not None and stuck._plugins is not None:
            self._plugins.note_written_off(stuck._plugins, ending, ended - started, stopped)
        self._parts.usage.failed.add(STOPPED if stopped else TIME_LIMIT)
        finishing = Finishing(job.id, job.claim, job.queue, ending, started, stuck.limit, stopped=stopped)
        if (
            stopped
            or job.features.failure_by_rq
            or self._consumer.finish(self._outcome(job, ending, started, ended), self.number)
        ):
            self.inherited = finishing


def _end(outcome: str, seconds: float) -> dict[str, object]:
    """Return the fields of a log line that says how a job ended; the others come from its context."""
    return {"outcome": outcome, "seconds": round(seconds, 6)}
