"""A child's second thread: it hears the supervisor, and it looks after jobs that take longer than a blink.

    every 5 ms while an unmarked job runs      start marks, the buffer behind a long job goes back
    at a job's deadline                        the time limit's exception
    behind a deadline that a thread ignored    its job is recorded, its slot written off, a fresh one takes over
    as told by the supervisor                  wake, quiet, interrupt, stop a job, give a sign of life
    at the end of the supervisor's socket      leave: a child never outlives its supervisor

It never waits for Redis: what needs Redis is done by the request thread, a third thread that is started by the first
job that runs longer than 5 ms. Between long jobs it sleeps in ``select`` without a timeout; a slot that begins a job
while it sleeps that way stirs it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable

from jobqueue.errors import LimitIgnored, StoppedOnRequest
from jobqueue.protocol.claims import Claimed
from jobqueue.protocol.outcomes import RAISED
from jobqueue.store.error_texts import is_own_fault
from jobqueue.workers.child.consumer import Consumer
from jobqueue.workers.child.prefetch import LONG
from jobqueue.workers.child.request_thread import RequestThread
from jobqueue.workers.child.slot import Slot
from jobqueue.workers.child.slot_watch import STUCK, SlotWatch
from jobqueue.workers.running.limits import (
    CallbackStopped,
    Interrupted,
    Stopped,
    time_limit_error,
)
from jobqueue.workers.running.procfs import queued_for_a_core
from jobqueue.workers.running.runner import Ending
from jobqueue.workers.running.task_meter import Usage
from jobqueue.workers.shared.endings import (
    FAILURE,
    HANDLER,
    HARD,
    SUBJECTS,
    SUCCESS,
    THREAD_WRITTEN_OFF,
    encode_text,
)
from jobqueue.workers.shared.journal import CAME_BACK, PULSE, REVOKED, SharedPage
from jobqueue.workers.shared.messages import (
    Dropped,
    FromChild,
    Interrupt,
    MessageReader,
    OutOfWork,
    Ping,
    Quiet,
    Retire,
    StopJob,
    ToChild,
    Wake,
    encode,
)
from jobqueue.workers.shared.polling import readable
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)

TICK = 0.005  # seconds; a job that runs longer is marked as started
LOOK_EVERY = 0.05  # seconds; so often it sees, among several slots, whether long jobs wait for the GIL
RECONCILE_EVERY = 30.0
LATE = 0.02  # seconds; who computes in Python gives the GIL away after 5 ms, so a thread that wakes waits no longer
SOFT = 1.0  # seconds that an interrupted job has to end by itself what it started


class ChildWatchdog:
    """Ears, start marks, give-backs and limits of one child."""

    def __init__(
        self,
        settings: Settings,
        owner: str,
        control: socket.socket,
        consumer: Consumer,
        slots: list[Slot],
        page: SharedPage,
        request_thread: RequestThread,
        usage: Usage,
        make_slot: Callable[[int], Slot],
        start_slot: Callable[[Slot], None],
        on_orphaned: Callable[[], None],
        on_failed: Callable[[], object] = lambda: None,
        on_stuck: Callable[[], object] | None = None,
        asks_itself: bool = False,
    ) -> None:
        """on_stuck: leave; None: this process is nobody's to leave, and no slot is called stuck. asks_itself: nobody
        asks from outside whether there is life in here, but looks at the pulse."""
        self._settings = settings
        self._owner = owner
        self._control = control
        self._consumer = consumer
        self._slots = slots  # a written-off one is replaced in place
        self._page = page
        self._make_slot = make_slot
        self._start_slot = start_slot
        self._request_thread = request_thread
        self._usage = usage
        self._on_orphaned = on_orphaned
        self.replacing = threading.Lock()  # held while a slot is written off and no other is there yet
        self._on_failed = on_failed
        self._on_stuck = on_stuck
        self._asks_itself = asks_itself
        self._slot_watch = SlotWatch(consumer, slots)
        self.failed = False  # its thread has ended of an error
        request_thread.on_failed = self.ask_to_retire
        self._awake = True
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[0], False)
        os.set_blocking(self._pipe[1], False)
        self._fired: dict[int, float] = {}  # target → when it was interrupted: by its limit, or because it is to stop
        self._freed: set[int] = set()  # of these: what they started was ended
        self._stopping: set[int] = set()  # claims that somebody asked to stop
        self._reader: MessageReader[ToChild] = MessageReader(ToChild, skips_others=True)
        self._recovering = False
        self._pulse = 0
        self._over = False
        self._returning = False  # a give-back is on its way
        self._next_reconcile = time.monotonic() + RECONCILE_EVERY
        self._next_look_at = 0.0
        self._queued = 0.0  # seconds that this thread has waited for a core, when it last asked

    def start(self) -> None:
        self._thread = threading.Thread(target=self.run, name="jobq-child-watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Free what the thread held, once it has seen the end of its socket. Where a process outlives its slots."""
        self._thread.join()
        if self.failed:  # a job may have closed them, and opened others of the same numbers
            self._control.detach()
            return
        with contextlib.suppress(OSError):
            self._control.close()
            for fd in self._pipe:
                os.close(fd)

    def stir(self) -> None:
        """Called by a slot that begins a job or a callback: from now on there is something to look after."""
        if not self._awake:
            self._awake = True
            try:
                os.write(self._pipe[1], b"!")
            except OSError:  # it is full of stirs already; or a job has closed it, which ends the thread that reads it
                pass

    def out_of_work(self) -> None:
        self._tell(OutOfWork())

    def ask_to_retire(self) -> None:
        """This process has done its share (--max-jobs), or lost a thread: somebody else should take over."""
        self._tell(Retire())

    def run(self) -> None:
        """Watch until the supervisor is gone. Without this thread the child would be deaf, with nobody to see to time
        limits: whatever ends it, also descriptors that a job has closed, the child takes nothing new, and leaves when
        what it runs has ended."""
        try:
            self._watch()
        except Exception as e:
            self.failed = True
            log.error(
                "the child's watchdog failed (%s): this process takes no more jobs, and another takes its place",
                e,
                exc_info=None if is_own_fault(e) else e,  # what a job did to descriptors and limits is no fault of ours
            )
            self.ask_to_retire()
            self._on_failed()
            self._withdraw()

    def _withdraw(self) -> None:
        dropped = self._consumer.drop_buffer(quiet=True)
        tokens = [job.token(self._owner) for job in dropped]
        self._request_thread.do(lambda: self._request_thread.give_back(tokens))

    def _watch(self) -> None:
        while not self._over:
            self._pulse += 1
            self._page.set(PULSE, self._pulse)
            self._step(time.monotonic())
            timeout = self._next_look()
            if timeout is None or timeout > 2 * TICK:
                self._awake = False
                timeout = self._next_look()  # again: what began before the line above stirred nobody
            began = time.monotonic()
            ready = readable([self._control.fileno(), self._pipe[0]], timeout)
            self._awake = True
            if timeout is not None and not ready:
                self._note_lateness(time.monotonic() - began - timeout)
            if self._pipe[0] in ready:
                os.read(self._pipe[0], 4096)
            if self._control.fileno() in ready:
                self._hear()

    def _note_lateness(self, late: float) -> None:
        """We could not run although it was time: a job keeps the GIL, or this machine has no core for us."""
        if late < LATE or not self._usage.watches_lateness:
            return
        queued = queued_for_a_core(threading.get_native_id()) or 0.0
        late, self._queued = late - (queued - self._queued), queued
        if late >= LATE:
            self._usage.late((slot.meter for slot, _ in self._running() if slot.meter), late)

    # -- what it hears -------------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        try:
            heard = self._control.recv(4096)
        except OSError:
            heard = b""
        if not heard:
            self._on_orphaned()  # does not come back where a process is no more than its slots
            self._over = True
            return
        for message in self._reader.read(heard):
            match message:
                case Wake():
                    self._consumer.wake()
                case Quiet():
                    self._request_thread.do(self._quiet)
                case Interrupt():
                    self._interrupt()
                case StopJob(claim):
                    self._stop(claim)
                case Ping():  # that we woke up the pulse says; and the slots?
                    self._look_at_slots(time.monotonic())

    def _stop(self, claim: int) -> None:
        self._stopping.add(claim)
        for slot in self._slots:
            if slot.interrupt(claim, Stopped):
                self._fired[claim] = time.monotonic()
            else:
                self._stop_callback(slot, claim)

    def _stop_callback(self, slot: Slot, claim: int) -> None:
        """The job itself has ended, so its end stays what it is: only what was called behind it ends. Not what a stop
        calls, and each once: who asks to stop asks again."""
        target, finishing = slot.target, slot.finishing  # in this order: if the shot hits, the target was this job's
        if finishing is None or finishing.claim != claim or finishing.stopped or target >= 0 or target in self._fired:
            return
        if slot.what in (SUCCESS, FAILURE, HANDLER) and slot.interrupt(target, CallbackStopped):
            self._fired[target] = time.monotonic()

    def _quiet(self) -> None:
        """(request thread) Claim nothing more; tell the supervisor what nobody started: the tree gives it back in one
        step."""
        dropped = self._consumer.drop_buffer(quiet=True)
        tokens = tuple(job.token(self._owner) for job in dropped)
        self._tell(Dropped(tokens))

    def _interrupt(self) -> None:
        for slot in self._slots:
            if job := slot.job:
                slot.interrupt(job.claim, Interrupted)

    def _tell(self, message: FromChild) -> None:
        try:
            self._control.sendall(encode(message))
        except OSError:  # the supervisor is gone: the end of its socket tells us so in a moment
            pass

    def _look_at_slots(self, now: float) -> None:
        if self._on_stuck is None or not (stuck := self._slot_watch.step(now)):
            return
        log.error(
            "a thread of this process has not come back for %.0f s although it runs no job: code that the garbage "
            "collector ran there (a __del__, a callback of a weak reference) keeps it; the process is replaced",
            STUCK,
        )
        self.ask_to_retire()
        if all(slot in stuck for slot, _ in self._running()):
            self._on_stuck()  # does not come back: what is buffered goes back when this process is buried
        self._request_thread.do(self._give_back)

    # -- what it looks after -------------------------------------------------------------------------------------------

    def _step(self, now: float) -> None:
        """Do what is due."""
        running = self._running()
        self._mark([(slot, job) for slot, job in running if slot.marked != job.claim and now - slot.since >= TICK])
        self._unburden(now)
        self._enforce(now)
        self._recover()
        self._look_at_slots(now)  # while we are awake; where we sleep we are asked from outside
        if now >= self._next_look_at and self._usage.watches_gil:
            self._next_look_at = now + LOOK_EVERY
            self._usage.look(slot.meter for slot, _ in running if slot.meter and now - slot.since >= TICK)
        if now >= self._next_reconcile:
            self._next_reconcile = now + RECONCILE_EVERY
            self._request_thread.do_if_awake(self._consumer.reconcile)

    def _running(self) -> list[tuple[Slot, Claimed]]:
        return [(slot, job) for slot in self._slots if (job := slot.job) is not None]

    def _mark(self, due: list[tuple[Slot, Claimed]]) -> None:
        if not due:
            return
        marks = [slot.start_mark(job) for slot, job in due]
        for slot, job in due:
            slot.marked = job.claim
        self._request_thread.do(
            lambda: self._request_thread.protocol.start_mark(self._owner, self._settings.worker, marks)
        )

    def _unburden(self, now: float) -> None:
        """All slots are busy with long jobs, or with callbacks: what waits behind them is better off with somebody
        else."""
        if self._returning or any(now - (slot.busy_since or now) < LONG for slot in self._slots):
            return
        if self._consumer.holds_up or self._consumer.lets_wait:
            self._returning = True
            self._request_thread.do(self._give_back)

    def _recover(self) -> None:
        """We held still so long that the supervisor gave our buffer back: drop it, nothing starts unasked before."""
        if self._page.revoked and not self._recovering:
            self._recovering = True
            self._request_thread.do(self._come_back)

    def _come_back(self) -> None:
        """(request thread) Answer what was asked before the buffer was dropped, not what comes meanwhile."""
        revoked = self._page.get(REVOKED)
        try:
            dropped = self._consumer.drop_buffer(at_rest=True)
            self._page.set(CAME_BACK, revoked)
        finally:
            self._recovering = False
        tokens = [job.token(self._owner) for job in dropped]
        self._request_thread.do(lambda: self._request_thread.give_back(tokens))

    def _give_back(self) -> None:
        """(request thread)"""
        try:
            self._consumer.settle()
            tokens = [job.token(self._owner) for job in self._consumer.drop_buffer()]
            self._request_thread.do(lambda: self._request_thread.give_back(tokens))
        finally:
            self._returning = False

    def _enforce(self, now: float) -> None:
        self._fired = {target: at for target, at in self._fired.items() if any(s.target == target for s in self._slots)}
        for number, slot in enumerate(self._slots):
            target, deadline = slot.target, slot.deadline
            if not target:
                continue
            if target in self._fired:
                if now >= self._fired[target] + SOFT and target not in self._freed:
                    self._free(slot, target)
                if now < self._fired[target] + HARD:
                    continue
                if len(self._slots) > 1:
                    self._write_off(number, slot, target)
                elif slot.is_deaf and slot.interrupt(target, _limit_error(slot)):
                    self._fired[target] = now
            elif deadline and now >= deadline and slot.interrupt(target, _limit_error(slot)):
                self._fired[target] = now

    def _free(self, slot: Slot, target: int) -> None:
        """It may wait for a program that it started: that ends now, and then it hears that its time is over."""
        self._freed = {target, *self._freed & self._fired.keys()}
        slot.end_processes(slot.deadline - slot.limit if slot.deadline else slot.since)

    def _write_off(self, number: int, slot: Slot, target: int) -> None:
        """The thread is stuck in C: a fresh slot takes its place, and records how the job ended."""
        with self.replacing:
            job, finishing = slot.job, slot.finishing
            if not slot.write_off(target):
                return
            fresh = self._make_slot(number)
            if target < 0 and finishing is not None:
                was_stopped = finishing.claim in self._stopping and not finishing.stopped
                fresh.inherited = finishing.taken_over(CallbackStopped if was_stopped else _limit_error(slot))
            elif job is not None:
                fresh.inherit(slot, job, self._ending(job, slot.limit), job.claim in self._stopping)
            self._slots[number] = fresh
            self._start_slot(fresh)
        name = finishing.job_id if finishing else job.id if job else "?"
        log.warning("job %s did not react: its thread is written off, and this process is replaced", name)
        self.ask_to_retire()

    def _ending(self, job: Claimed, limit: float) -> Ending:
        stopped = job.claim in self._stopping
        cause = StoppedOnRequest() if stopped else LimitIgnored(limit, THREAD_WRITTEN_OFF)
        return Ending(RAISED, encode_text(cause.recorded))

    def _next_look(self) -> float | None:
        """In how many seconds there is something to do; None: when something happens."""
        now = time.monotonic()
        if any(slot.marked != job.claim for slot, job in self._running()):
            return TICK
        if any(slot.busy_since and now - slot.busy_since < 2 * LONG for slot in self._slots):
            return TICK
        deadlines = [s.deadline for s in self._slots if s.deadline and s.target not in self._fired]
        deadlines += [at + (HARD if target in self._freed else SOFT) for target, at in self._fired.items()]
        waits = [max(TICK, deadline - now) for deadline in deadlines]
        if self._consumer.holds_up or self._consumer.lets_wait:
            waits.append(LONG)
        if self._usage.watches_gil and self._running():
            waits.append(LOOK_EVERY)
        if self._on_stuck is not None and self._looks_at_slots_unasked():
            waits.append(max(TICK, self._slot_watch.due_in(now)))
        return min(waits) if waits else None

    def _looks_at_slots_unasked(self) -> bool:
        """Also behind a job's limit, where the supervisor takes a slot for one that runs."""
        return self._asks_itself or self._slot_watch.is_curious or bool(self._page.running())


def _limit_error(slot: Slot) -> type[BaseException]:
    return time_limit_error(slot.limit, SUBJECTS[slot.what])
