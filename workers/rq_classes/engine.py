"""Run the jobs of RQ's worker on our engine, in one process: the parts of a Child, with RQ's loop around them.

    take ──► nothing there: settle, look whether suspended, wait for a push ──► take again
      └────► a job: run it in this thread ──► the outcome settles with the next claim

Life: serve() → close(). Only the main thread serves. Threads beside it: the child watchdog (start marks, limits, the
buffer behind a long job), its request thread, and the waiter while there is nothing to do.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from functools import partial

import redis
from redis.exceptions import RedisError
from rq.exceptions import StopRequested
from rq.worker import BaseWorker, DequeueStrategy, WorkerStatus

from jobqueue.clock import monotonic
from jobqueue.network.backoff import Backoff
from jobqueue.plugins.calls import Plugins
from jobqueue.protocol.claims import Claimed
from jobqueue.protocol.cycle import CycleState
from jobqueue.workers.child.child import CUT_OFF, STUCK, leave
from jobqueue.workers.child.hooks import Hooks, nothing
from jobqueue.workers.child.supervisor_link import SupervisorLink
from jobqueue.workers.child.wiring import Wiring
from jobqueue.workers.rq_classes.idle_sleep import IdleSleep
from jobqueue.workers.rq_classes.runner import RQRunner
from jobqueue.workers.rq_classes.slot import RQSlot
from jobqueue.workers.running.plugin_calls import wrap_calls
from jobqueue.workers.shared.journal import SharedPage
from jobqueue.workers.shared.messages import StopJob, encode
from jobqueue.workers.shared.retry import CutOff
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.shared.spare_descriptors import spare_descriptors

log = logging.getLogger(__name__)

LAST_WORD = 5.0  # seconds that a worker which is to stop waits for a store that does not answer
SOON = 0.005  # seconds until a burst checks again whether all jobs are given back
LOOK = 60.0  # seconds that an idle worker sleeps at most before it does its duties


class Engine:
    """Claim, run and settle jobs for ``worker`` under the owner name ``owner``, which is registered already."""

    def __init__(
        self,
        worker: BaseWorker,
        settings: Settings,
        owner: str,
        page: SharedPage,
        client: redis.Redis,
        tend: Callable[[], object] = lambda: None,
        in_horse: bool = False,
        plugins: Plugins | None = None,
        is_first: bool = True,
    ) -> None:
        """is_first: it is the first of its process, so plugins are told of the process too."""
        self._worker = worker
        self.owner = owner
        self._settings = settings
        self._tend = tend  # does what is due, in the main thread, between two jobs
        self._looked = False  # a request for jobs found none since the last job
        self._backoff = Backoff()  # while the store refuses to record that the worker is idle
        self._last_word_by = 0.0  # monotonic seconds; 0: no stop was requested
        self.fenced = False
        self.completed = 0
        self._idle_sleep = IdleSleep(worker.connection, settings.queues, polls=not in_horse)
        self._control, ours = socket.socketpair()
        runner = RQRunner(settings, worker.serializer)
        wrap_calls(runner, plugins or Plugins())
        self._is_first = is_first
        wiring = Wiring(
            settings,
            owner,
            page,
            client,
            SupervisorLink(ours, listens=False),
            hooks := self._hooks(in_horse),
            make_slot=lambda parts, _number: RQSlot(worker, parts, runner, in_horse=in_horse),
            plugins=plugins,
            is_alone=True,
        )
        self._leave_cut_off = hooks.on_cut_off
        spare_descriptors.keep(self.begin_anew if in_horse else nothing)
        (slot,) = wiring.slots
        assert isinstance(slot, RQSlot)
        self.slot = slot
        self.consumer, self._watchdog, self._request_thread = wiring.consumer, wiring.watchdog, wiring.request_thread
        self._one_by_one = not _plain_order(worker)
        if self._one_by_one:
            self.consumer.claim_one_by_one()

    def _hooks(self, in_horse: bool) -> Hooks:
        return Hooks(
            on_fenced=self._on_fenced,
            on_cut_off=partial(leave, CUT_OFF) if in_horse else self._on_cut_off,
            on_away=self._give_up_at_last,
            on_failed=self._on_deaf,
            on_stuck=partial(leave, STUCK) if in_horse else None,
            asks_itself=in_horse,
        )

    # -- serving -------------------------------------------------------------------------------------------------------

    def serve(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> None:
        """Run jobs until there is a reason to stop. Raises what RQ's loop raises: StopRequested, SystemExit."""
        worker = self._worker
        self.consumer.hand_out_at_most(max_jobs)
        self.slot.bind()
        self._watchdog.start()
        self.slot.call_plugins(*(("process_start",) if self._is_first else ()), "thread_start")
        idle_since = monotonic()
        while not (worker._stop_requested or self.fenced):
            self._tend()
            if (work := self.consumer.next(linger=False)) is not None:
                self._looked = False
                self._run(work)
                idle_since = monotonic()
            elif self.consumer.has_had_its_share:
                worker.log.info("Worker %s: finished executing %d jobs, quitting", worker.name, max_jobs)
                return
            elif not self._idle(burst, max_idle_time, idle_since):
                return
        if worker._stop_requested:
            worker.log.info("Worker %s: stopping on request", worker.name)

    def _run(self, work: object) -> None:
        worker = self._worker
        worker._state = WorkerStatus.BUSY  # the start mark writes this to the store, if the job runs that long
        if isinstance(work, Claimed):
            self.completed += 1
            if self._one_by_one:
                self._reorder(work.queue)
        try:
            self.slot.take(work)  # type: ignore[arg-type]
        except CutOff as e:
            log.error("this process cannot reach the store any more: %s", e)
            self._leave_cut_off()

    def _reorder(self, served: str) -> None:
        """Order the queues anew, as RQ's strategies do after each job."""
        worker = self._worker
        worker.reorder_queues(next(queue for queue in worker.queues if queue.name == served))
        self.consumer.serve_in_order(tuple(queue.name for queue in worker._ordered_queues))

    def _idle(self, burst: bool, max_idle_time: int | None, since: float) -> bool:
        """Do what is due while there is no job and all outcomes are settled. Return False if the worker has to end."""
        try:
            stays = self._stay(burst, max_idle_time, since)
            self._backoff.reset()
        except RedisError:  # the consumer's next request shows whether the store answers; a refused write does not
            self._sleep(self._backoff.failed())
            stays = True
        if stays:
            self.consumer.wake()
        return stays

    def _stay(self, burst: bool, max_idle_time: int | None, since: float) -> bool:
        worker = self._worker
        if self.consumer.said is CycleState.SUSPENDED:
            with self.slot.waiting():
                worker.check_for_suspension(burst)
        elif (
            burst and self._looked and self._request_thread.is_busy
        ):  # jobs that are being given back are not in the queue yet
            self._looked = False
            self._sleep(SOON)
        elif burst and self._looked:
            worker.set_state(WorkerStatus.IDLE)
            worker.log.info("Worker %s: done, quitting", worker.name)
            return False
        elif burst:  # RQ's finish of the last job may have enqueued a job after the queue was found empty
            self._looked = True
        elif max_idle_time is not None and monotonic() - since >= max_idle_time:
            worker.log.info("Worker %s: idle for %d seconds, quitting", worker.name, max_idle_time)
            return False
        else:
            self._rest(LOOK if max_idle_time is None else max(0.0, since + max_idle_time - monotonic()))
        return True

    def _rest(self, most: float) -> None:
        """Wait for a push, a signal, or ``most`` seconds."""
        worker = self._worker
        worker.set_state(WorkerStatus.IDLE)
        worker.procline("Listening on " + ",".join(self._settings.queues))
        if worker._stop_requested:  # the signal came before the state
            return
        self._idle_sleep.call_at_push()
        self._sleep(min(most, LOOK))

    def _sleep(self, most: float) -> None:
        """Sleep until ``stir`` is called, a signal comes, or ``most`` seconds are over."""
        try:
            with self.slot.waiting():
                self._idle_sleep.sleep(most)
        except (OSError, ValueError) as e:  # a job has closed our descriptors: start over with a new engine
            log.warning("worker %s starts over: %s", self._settings.worker, e)
            self.fenced = True

    def stir(self) -> None:
        """Wake the main thread if it sleeps. Signal handlers and other threads call this."""
        self._idle_sleep.stir()

    def begin_anew(self) -> None:
        """Have another engine go on after the job that runs. Signal handlers call this."""
        self.fenced = True

    def stop_job(self, claim: int) -> bool:
        """Interrupt the job of this claim, if it runs here."""
        try:
            self._control.send(encode(StopJob(claim)))
        except OSError:
            return False
        return True

    def set_aside(self) -> None:
        """Settle, and give the buffered jobs back. Call it before something that may take long."""
        self.consumer.settle()
        tokens = [job.token(self.owner) for job in self.consumer.drop_buffer()]
        if tokens:
            self._request_thread.give_back(tokens)

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Settle what is finished. A rescue follows, for the jobs that the owner still holds."""
        if self.consumer.quiet_now():
            try:
                self.consumer.settle()
            except (RedisError, OSError) as e:
                log.warning("not settled: %s", e)
        if not self.fenced:
            self.slot.call_plugins("thread_stop")
        cut_off = self._watchdog.failed  # a job closed our descriptors: their numbers may belong to other files now
        if not cut_off:  # shut down, not only closed: a copy that a job forked may hold this end open
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._control.detach() if cut_off else self._control.close()
        self._watchdog.close()
        self._request_thread.stop()
        self.slot.unbind()
        self._idle_sleep.close(cut_off)

    def _give_up_at_last(self) -> None:
        """Called after each failed attempt to reach the store. If a stop was requested, wait for the store at most
        LAST_WORD seconds, to settle finished jobs, then leave them to a rescue."""
        now = monotonic()
        if self._worker._stop_requested:
            self._last_word_by = self._last_word_by or now + LAST_WORD
            if now >= self._last_word_by:
                raise StopRequested

    def _on_cut_off(self) -> None:
        """Stop: this process is the whole worker, and cannot reach the store any more."""
        log.error("worker %s stops: what it finished is left to a rescue", self._settings.worker)
        raise StopRequested

    def _on_deaf(self) -> None:
        """Start over with a new watchdog, as time limits are not enforced any more. The failed watchdog calls this."""
        self.fenced = True
        self.stir()

    def _on_fenced(self) -> None:
        log.warning("worker %s counted as dead, or the store was emptied: it starts over", self._settings.worker)
        self.fenced = True


def _plain_order(worker: BaseWorker) -> bool:
    return len(worker.queues) == 1 or worker._dequeue_strategy in (None, DequeueStrategy.DEFAULT)
