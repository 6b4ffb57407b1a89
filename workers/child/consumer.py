"""Claim jobs for a child's slots and settle how they ended: the buffer, the outbox and the wire, under one lock.

    slot ── finish ──► outbox ─┐                        ┌─► buffer ── next ──► slot
                               └── CYCLE (one request) ─┘

No thread is there for the requests. The slot that finds few jobs in the buffer sends CYCLE and goes on with its job;
the slot that finds none reads the reply. Outcomes of jobs that end while a request is under way go along with the next
one.

No thread holds the lock while it waits for Redis (shared_wire.py). A slot that has nothing to run mends a broken
connection (mender.py): it reconnects, sends RECONCILE, and sends what was not settled again, under the same tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from jobqueue.protocol.claims import Claimed
from jobqueue.protocol.cycle import Cycle, CycleRequest, CycleState
from jobqueue.protocol.outcomes import JobOutcome
from jobqueue.protocol.wire import Wire
from jobqueue.workers.child.buffer import Buffer
from jobqueue.workers.child.mender import Mender
from jobqueue.workers.child.outbox import Outbox
from jobqueue.workers.child.prefetch import MOST_FINISHED
from jobqueue.workers.child.roll_call import RollCall
from jobqueue.workers.child.shared_wire import SharedWire, WireState
from jobqueue.workers.running.task_meter import Usage
from jobqueue.workers.shared.journal import SharedPage
from jobqueue.workers.shared.own_thread import OwnCondition
from jobqueue.workers.shared.settings import Settings

AT_REST = (WireState.FREE, WireState.BROKEN)
USABLE = (WireState.FREE, WireState.AWAITING)


class Consumer:
    """Claim and settle for all slots of a child. Any thread may call any method."""

    def __init__(
        self,
        settings: Settings,
        owner: str,
        page: SharedPage,
        wire: Wire,
        usage: Usage,
        on_out_of_work: Callable[[], object],
        on_retire: Callable[[], object],
        on_fenced: Callable[[], object],
        on_cut_off: Callable[[], object] = lambda: None,
        on_away: Callable[[], object] = lambda: None,
    ) -> None:
        """on_fenced: called when a rescue has struck off the owner's name; on_cut_off, on_away: see mender.py."""
        self._owner, self._worker = owner, settings.worker
        self._page = page
        self._usage = usage
        self._on_fenced = on_fenced
        self._mutex = threading.Lock()  # for each job's own calls: entering a condition is Python code
        self._lock = OwnCondition(self._mutex)
        self._buffer = Buffer(settings, page, on_out_of_work, on_retire)
        self._outbox = Outbox(page)
        self._wire = SharedWire(wire, self._lock, page)
        self._mender = Mender(settings, owner, self._wire, self._buffer, self._outbox, on_retire, on_cut_off, on_away)
        self._roll_call = RollCall()
        self._idle = 0  # slots that wait for work
        self.said: CycleState | None = None  # the state in the last reply

    # -- what slots call ---------------------------------------------------------------------------------------------

    def next(self, linger: bool = True) -> Claimed | JobOutcome | None:
        """Wait for work and return it: a job to run, or an outcome that RQ's own finish must record. Return None when
        the child is to leave, or, without ``linger``, when the queues are empty and all outcomes are settled."""
        with self._mutex:
            work: Claimed | JobOutcome | None = None if self._outbox.for_rq else self._buffer.take()
            if work is None:
                work = self._wait_for_work(linger)
            if work is not None:
                self._look_ahead()
            return work

    def finish(self, outcome: JobOutcome, slot: int) -> bool:
        """Take over the outcome of a job, which is in the journal then: it is settled also if this process is killed.
        Return False.

        Return True where that cannot be done: the job has dependents, which need RQ's own finish, and the journal has
        no room. The slot has to let RQ's finish record it now; until then the page says that the job runs.
        """
        with self._mutex:
            self._buffer.prefetch.ended(outcome.ended - outcome.started)
            if not self._outbox.add(outcome) and self._settle_now(outcome):
                return True
            if self._buffer.ended(outcome.claim):
                self._lock.notify_all()
            self._page.end(slot)
            return False

    def note(self, outcome: JobOutcome) -> None:
        """Write a failure that RQ's own finish is about to record into the journal, if there is room: then the reason
        is known also if a callback ends this process."""
        with self._lock:
            self._outbox.note(outcome)

    def let_go(self, claim: int, slot: int | None) -> None:
        """Forget a job that CYCLE does not settle: RQ's own finish has recorded it, or it was given back. ``slot``: the
        slot to mark as free on the page; None: none."""
        with self._lock:
            if self._buffer.ended(claim):
                self._lock.notify_all()
            self._outbox.let_go(claim)
            if slot is not None:
                self._page.end(slot)

    def note_duration(self, seconds: float) -> None:
        """Note how many seconds a job took, with its end by RQ's own code. Fewer jobs are claimed ahead of long
        ones."""
        with self._mutex:
            self._buffer.prefetch.ended(seconds)

    def why_refused(self, claim: int) -> str:
        """Return why the store has refused the outcome of this job; "" if it has not."""
        with self._lock:
            return self._outbox.why_refused(claim)

    def is_doubtful(self, claim: int) -> bool:
        """Return whether the supervisor may have given this job back, because a slot took it while this process was
        stopped."""
        return claim in self._buffer.doubtful

    # -- what the engine in RQ's worker classes calls ------------------------------------------------------------------

    def serve_in_order(self, queues: tuple[str, ...]) -> None:
        """Ask the queues in this order from now on."""
        self._buffer.order.queues = queues

    def claim_one_by_one(self) -> None:
        """Claim a job only when there is nothing else to run."""
        self._buffer.prefetch.most_ahead = 0

    def hand_out_at_most(self, jobs: int | None) -> None:
        """Hand out so many jobs from now on, and no more; None: no limit."""
        self._buffer.most_more = jobs

    @property
    def has_had_its_share(self) -> bool:
        """Whether all jobs are handed out that ``hand_out_at_most`` allowed."""
        return self._buffer.most_more == 0

    @property
    def at_rest(self) -> bool:
        """Whether the queues were found empty (or closed, or this process has had its share), and all is settled."""
        nothing = self._buffer.out_of_work or self.has_had_its_share
        return nothing and not self._buffer.jobs and self._outbox.is_settled and self._wire.state in AT_REST

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is claimed and handed out any more."""
        return self._buffer.quiet

    def quiet_now(self) -> bool:
        """Claim nothing any more. Return False if an exception has left the connection in the middle of a request."""
        self._buffer.quiet = True
        return self._wire.state in USABLE

    # -- what the child watchdog and its request thread call -----------------------------------------------------------

    @property
    def mending(self) -> bool:
        """Whether the store does not answer, and a slot tries to reconnect."""
        return self._wire.state is WireState.MENDING

    def wake(self) -> None:
        """Let the slots ask the queues again, because there may be work."""
        with self._lock:
            self._buffer.set_out_of_work(False)
            self._lock.notify_all()

    def look_up(self) -> int:
        """Wake all threads that wait here, so that each answers the roll call; return the call's number."""
        with self._lock:
            self._lock.notify_all()
            return self._roll_call.begin()

    def has_answered(self, thread: int | None, number: int) -> bool:
        """Return whether this thread has answered the roll call of this number, or a later one."""
        return self._roll_call.has_answered(thread, number)

    def drop_buffer(self, quiet: bool = False, at_rest: bool = False) -> list[Claimed]:
        """Take all jobs out of the buffer and return them, to be given back.

        quiet: claim nothing ever again. at_rest: first wait for the reply to a request that was sent before, and treat
        the jobs that slots run as doubtful: ask Redis before they start.
        """
        with self._lock:
            self._buffer.quiet = self._buffer.quiet or quiet
            while True:
                if self._wire.state is WireState.AWAITING:
                    self._read()
                elif (quiet or at_rest) and self._wire.state in (WireState.SENDING, WireState.READING):
                    self._lock.wait(0.05)
                else:
                    break
            self._outbox.may_be_settled_by_others(at_rest)
            dropped = self._buffer.drop(doubt=at_rest)
            self._lock.notify_all()
            return dropped

    @property
    def holds_up(self) -> bool:
        """Whether claimed jobs wait while all slots run others: in the buffer, or in a reply that no slot has read."""
        unread = self._wire.state is WireState.AWAITING and self._buffer.is_asking
        return self._idle == 0 and (bool(self._buffer.jobs) or unread)

    @property
    def lets_wait(self) -> bool:
        """Whether outcomes wait for the next request while all slots run jobs, so that it may be sent late."""
        return self._idle == 0 and not self._outbox.is_settled and self._wire.state in USABLE

    def settle(self) -> None:
        """Send all outcomes that wait, and read the reply; before that, read the reply to an earlier request."""
        with self._lock:
            if self._wire.state is WireState.AWAITING:
                self._read()
            if self._outbox.finished and self._wire.state is WireState.FREE:
                self._send(want=0)
            if self._wire.state is WireState.AWAITING:
                self._read()

    def reconcile(self) -> None:
        """Give back the jobs that this child holds in Redis and does not know. It is done every 30 s and after each
        reconnect."""
        with self._lock:
            if self._wire.state is WireState.FREE:
                self._mend(reconnect=False)

    # -- one turn (the lock is held) -----------------------------------------------------------------------------------

    def _wait_for_work(self, linger: bool) -> Claimed | JobOutcome | None:
        self._idle += 1
        try:
            while (work := self._take()) is None:
                if self._leaving() or (not linger and self.at_rest):
                    return None
                self._turn()
        finally:
            self._idle -= 1
        return work

    def _take(self) -> Claimed | JobOutcome | None:
        if not self._outbox.for_rq:
            return self._buffer.take()
        outcome = self._outbox.hand_over()
        self._buffer.in_hand.add(outcome.claim)
        return outcome

    def _leaving(self) -> bool:
        settled = self._outbox.is_settled and not (self._wire.state is WireState.FREE and self._unrecorded())
        return self._buffer.quiet and settled and self._wire.state in AT_REST

    def _unrecorded(self) -> bool:
        """Return whether usage of jobs that RQ's own finish has recorded is still to be sent, and no job runs whose
        outcome would take it along."""
        return not self._buffer.in_hand and self._usage.pending

    def _turn(self) -> None:
        """Do the next step of a request (mend, read or send), or wait for the slot that does it."""
        self._roll_call.answer()
        state = self._wire.state
        if state is WireState.BROKEN:
            self._mend()
        elif state is WireState.AWAITING:
            self._read()
        elif state is WireState.FREE and (self._outbox.finished or self._buffer.may_claim or self._unrecorded()):
            self._send(self._buffer.want(self._idle))
            if self._wire.state is WireState.FREE:  # all that there is waits for another attempt
                self._lock.wait(0.05)
        else:
            self._lock.wait()

    def _look_ahead(self) -> None:
        """(before a job is run) Request more jobs if few are left in the buffer; send the outcomes at once if jobs are
        long."""
        if self._wire.state is not WireState.FREE:
            return
        buffer, finished = self._buffer, self._outbox.finished
        ahead = 0 if buffer.quiet or buffer.out_of_work else buffer.prefetch.ahead
        if ahead and len(buffer.jobs) <= ahead // 2:
            self._send(buffer.want(self._idle))
        elif finished and (not buffer.jobs or buffer.prefetch.settles_at_once or len(finished) >= MOST_FINISHED):
            self._send(want=0)
        if self._idle:  # who reads the reply while we run
            self._lock.notify()

    def _settle_now(self, outcome: JobOutcome) -> bool:
        """Wait with an outcome that does not fit into the journal until Redis has recorded it (return False), or has
        left it to RQ's own finish (return True)."""
        self._outbox.hold(outcome)
        while self._outbox.is_on_its_way(outcome):
            self._turn()
        return self._outbox.release(outcome)

    # -- requests (the lock is held on entry and on exit, and free while Redis is waited for) --------------------------

    def _send(self, want: int) -> None:
        """Send CYCLE: settle what is finished, and ask for so many jobs."""
        portion = self._outbox.portion()
        if self._outbox.keeps_some:
            if portion:
                want = 0
            elif not self._buffer.may_claim:
                return
        self._outbox.depart(portion)
        self._buffer.asking(want)
        usage = self._usage.take(len(portion))  # sent once: what a broken wire loses is lost, never counted twice
        queues = self._buffer.order.queues
        failed = self._usage.failed.take()
        request = CycleRequest(self._owner, self._worker, queues, portion, want, self._idle, usage, failed)
        if error := self._wire.send(request):
            self._outbox.came_back(error)
            self._lock.notify_all()  # a slot that waited for this request has to mend the wire: not every sender does

    def _read(self) -> None:
        reply = self._wire.read()
        if isinstance(reply, Exception):
            self._outbox.came_back(reply)
        else:
            self._arrived(reply)
        self._lock.notify_all()

    def _arrived(self, cycle: Cycle) -> None:
        self.said = cycle.state
        if cycle.state is CycleState.FENCED:
            self._on_fenced()
            self._outbox.fenced()
        else:
            self._outbox.acknowledged(cycle.acks)
        self._buffer.arrived(cycle.jobs)

    def _mend(self, reconnect: bool = True) -> None:
        if not self._mender.mend(reconnect):
            self._on_fenced()
