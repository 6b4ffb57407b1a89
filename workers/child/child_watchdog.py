"""Watch over a child in its second thread: act on the supervisor's messages, and look after jobs that take long.

    50 ms after an unmarked job began          start marks, for all that run almost as long in one request
    30 ms after the last slot began a job      the buffer behind long jobs goes back (give_back.py)
    at a job's deadline                        the time limit's exception (limit_watch.py)
    behind a deadline that a thread ignored    its job is recorded, its slot written off, a fresh one takes over
    as told by the supervisor                  wake, quiet, interrupt, stop a job, give a sign of life
    twice a second while a job runs            the process title says which (title_watch.py)
    at the end of the supervisor's socket      leave: a child never outlives its supervisor

It never waits for Redis: what needs Redis is done by the request thread, a third thread that is started by the first
job that runs longer than 50 ms. Between long jobs it sleeps in ``select`` without a timeout; a slot that begins a job
while it sleeps that way stirs it (wake_pipe.py). While jobs run it looks at least every 50 ms, so whatever is due of a
job that began meanwhile is at most 50 ms late; in a process with one slot every 5 ms while the job is young, to see
whether it holds the GIL.
"""

from __future__ import annotations

import logging

from jobqueue.clock import monotonic
from jobqueue.protocol.claims import Claimed
from jobqueue.store.error_texts import is_own_fault
from jobqueue.workers.child.consumer import Consumer
from jobqueue.workers.child.core_watch import LOOK_EVERY, CoreWatch
from jobqueue.workers.child.give_back import GiveBack
from jobqueue.workers.child.hooks import Hooks
from jobqueue.workers.child.limit_watch import LimitWatch
from jobqueue.workers.child.prefetch import LONG
from jobqueue.workers.child.request_thread import RequestThread
from jobqueue.workers.child.slot import Slot
from jobqueue.workers.child.slot_watch import STUCK, SlotWatch
from jobqueue.workers.child.supervisor_link import SupervisorLink
from jobqueue.workers.child.title_watch import TitleWatch
from jobqueue.workers.child.wake_pipe import WakePipe
from jobqueue.workers.shared.journal import PULSE, SharedPage
from jobqueue.workers.shared.messages import Interrupt, Ping, Quiet, StopJob, Wake
from jobqueue.workers.shared.own_thread import OwnThread

log = logging.getLogger(__name__)

TICK = 0.005  # seconds between two looks, at least
MARK_AFTER = 0.05  # seconds; a job that runs longer is marked as started
LOOK_FOR_THE_GIL = 0.005  # seconds; who wakes late from this while a young job runs has waited for the GIL
ALMOST = 0.03  # seconds; it takes along the jobs that run as long as this


class ChildWatchdog:
    """The thread of the child watchdog, and the duties that it does when they are due."""

    def __init__(
        self,
        owner: str,
        page: SharedPage,
        link: SupervisorLink,
        wake_pipe: WakePipe,
        consumer: Consumer,
        slots: list[Slot],
        request_thread: RequestThread,
        limits: LimitWatch,
        give_back: GiveBack,
        core_watch: CoreWatch,
        title_watch: TitleWatch,
        hooks: Hooks,
    ) -> None:
        self._owner = owner
        self._page = page
        self._link = link
        self._wake_pipe = wake_pipe
        self._consumer = consumer
        self._slots = slots  # the limit watch's list: a slot that is written off is replaced in it
        self._request_thread = request_thread
        self._limits = limits
        self._give_back = give_back
        self._core_watch = core_watch
        self._title_watch = title_watch
        self._hooks = hooks
        self._slot_watch = SlotWatch(consumer, slots)
        self._pulse = 0
        self.failed = False  # an error has ended the thread
        self._thread = OwnThread(self.run, "jobq-child-watchdog")

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Free the thread's resources after it has seen the end of its socket, in a process that outlives its slots."""
        self._thread.join()
        if self.failed:  # a job may have closed these descriptors, and opened others of the same numbers
            self._link.forget()
        else:
            self._link.close()
            self._wake_pipe.close()

    def run(self) -> None:
        """Watch until the supervisor is gone. Without this thread the child would receive no message and limit no job:
        whatever ends the thread, also descriptors that a job has closed, the child takes no new job, and leaves when
        its running jobs have ended."""
        try:
            self._watch()
        except Exception as e:
            self.failed = True
            log.error(
                "the child's watchdog failed (%s): this process takes no more jobs, and another takes its place",
                e,
                exc_info=None if is_own_fault(e) else e,  # a job's changes are no mistake of ours
            )
            self._link.ask_to_retire()
            self._hooks.on_failed()
            self._give_back.withdraw()

    def _watch(self) -> None:
        hears = True
        while hears:
            self._pulse += 1
            self._page.set(PULSE, self._pulse)
            self._step(monotonic())
            woken = self._wake_pipe.sleep(self._due_in, self._link.fileno())
            if woken.late:
                self._core_watch.note_lateness(woken.late, self._running())
            if woken.by_socket:
                hears = self._hear()

    def _hear(self) -> bool:
        """Act on the supervisor's messages; return False if it is gone."""
        messages = self._link.hear()
        if messages is None:
            self._hooks.on_orphaned()  # this call does not return where the process has nothing but its slots
            return False
        for message in messages:
            match message:
                case Wake():
                    self._consumer.wake()
                case Quiet():
                    self._request_thread.do(lambda: self._give_back.quiet(self._link))
                case Interrupt():
                    self._limits.interrupt_all()
                case StopJob(claim):
                    self._limits.stop(claim)
                case Ping():  # the pulse shows that this thread reacts; ask the slots too
                    self._look_at_slots(monotonic())
        return True

    # -- what it looks after -------------------------------------------------------------------------------------------

    def _step(self, now: float) -> None:
        """Do the duties that are due."""
        running = self._running()
        self._mark(now, [(slot, job) for slot, job in running if slot.marked != job.claim])
        self._limits.step(now)
        self._give_back.step(now)
        self._look_at_slots(now)  # only while this thread is awake; while it sleeps, the supervisor asks
        self._core_watch.step(now, running)
        self._title_watch.step(now, running)

    def _running(self) -> list[tuple[Slot, Claimed]]:
        return [(slot, job) for slot in self._slots if (job := slot.job) is not None]

    def _mark(self, now: float, unmarked: list[tuple[Slot, Claimed]]) -> None:
        if not any(now - slot.since >= MARK_AFTER for slot, _ in unmarked):
            return
        due = [(slot, job) for slot, job in unmarked if now - slot.since >= ALMOST]
        marks = [slot.start_mark(job) for slot, job in due]
        for slot, job in due:
            slot.marked = job.claim
        self._request_thread.start_mark(self._owner, marks)

    def _look_at_slots(self, now: float) -> None:
        """Have the process replaced, as code of the user's holds a slot where no limit applies."""
        on_stuck = self._hooks.on_stuck
        if on_stuck is None or not (stuck := self._slot_watch.step(now)):
            return
        log.error(
            "a thread of this process has not come back for %.0f s although it runs no job: code that the garbage "
            "collector ran there (a __del__, a callback of a weak reference) keeps it; the process is replaced",
            STUCK,
        )
        self._link.ask_to_retire()
        if all(slot in stuck for slot, _ in self._running()):
            on_stuck()  # this call does not return; buffered jobs go back when the parent reaps this process
        self._request_thread.do(self._give_back.return_buffer)

    def _due_in(self) -> float | None:
        """Return the seconds until there is something to do; None: until something happens."""
        now = monotonic()
        running = self._running()
        moments = self._limits.due_at()
        moments += [slot.since + MARK_AFTER for slot, job in running if slot.marked != job.claim]
        busy = [slot.busy_since for slot in self._slots]
        if all(busy) and now < max(busy) + LONG:  # then the last of them is long too
            moments.append(max(busy) + LONG)
        if self._core_watch.watches_lateness and any(it and now - it < 2 * LONG for it in busy):
            return LOOK_FOR_THE_GIL
        waits = [max(TICK, moment - now) for moment in moments]
        if self._give_back.keeps_others_waiting:
            waits.append(LONG)
        if running and self._core_watch.wants_to_look:
            waits.append(LOOK_EVERY)
        if self._title_watch.wants_to_look(bool(running)):
            waits.append(max(TICK, self._title_watch.due_in(now)))
        if self._hooks.on_stuck is not None and self._looks_at_slots_unasked():
            waits.append(max(TICK, self._slot_watch.due_in(now)))
        return min(waits) if waits else None

    def _looks_at_slots_unasked(self) -> bool:
        """Return whether a job runs, also after its limit, where the supervisor counts a slot as running."""
        return self._hooks.asks_itself or self._slot_watch.is_curious or bool(self._page.running())
