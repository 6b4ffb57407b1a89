"""A child's buffer of claimed jobs, and the one connection on which it settles and claims.

    slot ── finish ──► finished ─┐                        ┌─► buffer ── next ──► slot
                                 └── CYCLE (one request) ─┘

Leader-follower: the slot that sees the buffer run low sends CYCLE and goes on with its job; the one that finds the
buffer empty reads the reply. There is no thread for it and no waiting for company: while one request is in flight,
finished jobs pile up and settle together by themselves.

The wire is always in one state: free → sending → awaiting → reading → free, or broken. Who changes it holds the lock;
who sends or reads does not, so nobody else ever waits for Redis. A broken wire is mended by a slot that has nothing
to run: reconnect, RECONCILE, and what was not settled goes out again, under the same tokens.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TypeVar

from redis.exceptions import RedisError

from jobqueue.network.backoff import Backoff
from jobqueue.protocol.claims import Claimed
from jobqueue.protocol.cycle import Cycle, cycle_args
from jobqueue.protocol.outcomes import GONE, HAS_DEPENDENTS, RECORDED, JobOutcome
from jobqueue.protocol.wire import Wire
from jobqueue.store.error_texts import is_own_fault, without_script
from jobqueue.workers.child.prefetch import MOST_PER_CYCLE, Prefetch
from jobqueue.workers.child.strategies import REORDER, TURN_BACK
from jobqueue.workers.running.task_meter import Usage
from jobqueue.workers.shared.journal import BUFFERED, DONE, OUT_OF_WORK, UNSETTLED, SharedPage
from jobqueue.workers.shared.refusals import Refusals, refused_text
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)
T = TypeVar("T")
OWN_FAULTS = 3  # attempts in a row that fail in this process


class WireState(Enum):
    """Of the wire."""

    FREE = "free"
    SENDING = "sending"
    AWAITING = "awaiting"
    READING = "reading"
    BROKEN = "broken"
    MENDING = "mending"


class Consumer:
    """Claims for the slots and settles for them. Every method may be called from any thread."""

    def __init__(
        self,
        settings: Settings,
        owner: str,
        page: SharedPage,
        wire: Wire,
        usage: Usage,
        on_out_of_work: Callable[[], None],
        on_retire: Callable[[], None],
        on_fenced: Callable[[], None],
        on_cut_off: Callable[[], object] = lambda: None,
    ) -> None:
        self._settings = settings
        self._owner = owner
        self._page = page
        self._wire = wire
        self._usage = usage
        self.queues = settings.queues  # in the order in which they are served
        self._reorder = REORDER.get(settings.dequeue_strategy)
        self._turn_back = TURN_BACK.get(settings.dequeue_strategy)
        self._on_out_of_work = on_out_of_work
        self._on_retire = on_retire
        self._on_fenced = on_fenced
        self._on_cut_off = on_cut_off
        self._own_faults = 0  # in a row
        self._cond = threading.Condition(threading.Lock())
        self._state = WireState.BROKEN  # not connected yet: the first slot mends it
        self._buffer: deque[Claimed] = deque()
        self._held: set[int] = set()  # claims in the hands of slots
        self._doubtful: set[int] = set()  # of these, what must not start without asking Redis
        self._exclusive = False  # one of them must not have company
        self._handed = 0
        self._finished: list[JobOutcome] = []
        self._in_flight: list[JobOutcome] = []
        self._for_rq: list[JobOutcome] = []
        self._with_rq: dict[int, JobOutcome] = {}  # by claim: a slot is at it
        self._unwritten: set[int] = set()  # claims whose outcomes are too large for the journal; their slots wait
        self._asked = 0
        self._idle = 0
        self._out_of_work = False
        self._quiet = False
        self.prefetch = Prefetch(settings.slots)
        self.most_more: int | None = None  # how many jobs may be handed out from now on; None: no limit
        self.on_away: Callable[[], object] = lambda: None  # asked while the store is away; may raise to give up
        self.said = ""  # the state in the last reply
        self._backoff = Backoff(first=0.1, free=1)  # the first time at once
        self._refusals = Refusals()
        self._refused: dict[int, str] = {}  # by claim: why the store does not take its outcome
        self._kept: list[JobOutcome] = []  # finished before the request that is on its way, and not in it
        self._round = 0  # how often everybody was asked whether they are there
        self._seen: dict[int, int] = {}  # by thread: the last round that it has seen
        self._resent: set[int] = set()  # claims whose outcome went out before, by a request without a reply

    # -- what slots call ---------------------------------------------------------------------------------------------

    def next(self, linger: bool = True) -> Claimed | JobOutcome | None:
        """Wait for work: a job to run, an outcome that RQ's own finish must record, or None: the child is to leave, or
        (unless it lingers) the queues are empty and all is settled."""
        with self._cond:
            self._idle += 1
            try:
                while (work := self._take()) is None:
                    if self._leaving() or (not linger and self.at_rest):
                        return None
                    self._turn()
            finally:
                self._idle -= 1
            self._look_ahead()
            return work

    def finish(self, outcome: JobOutcome, slot: int) -> bool:
        """Take over how a job ended. From here on it is settled, also when this process is killed now.

        True: not so. Its dependents need RQ's own finish, and the journal has no room for it: the slot has to see to
        that now, and its page says until then that the job runs.
        """
        with self._cond:
            self.prefetch.ended(outcome.ended - outcome.started)
            self._finished.append(outcome)
            self._page.set(UNSETTLED, 1)
            if not self._page.journal.append(outcome) and self._settle_now(outcome):
                return True
            self._freed(outcome.claim)
            self._page.end(slot)
            return False

    def note(self, outcome: JobOutcome) -> None:
        """Remember a failure that RQ's own finish is about to record, as far as there is room: should its callback end
        this process, why the job failed is not forgotten."""
        with self._cond:
            self._with_rq[outcome.claim] = outcome
            self._page.set(UNSETTLED, 1)
            self._page.journal.append(outcome)

    def let_go(self, claim: int, slot: int | None) -> None:
        """A job left by another way than settling: RQ's own finish recorded it, or it was given back. ``slot`` None:
        the slot has been freed before."""
        with self._cond:
            self._freed(claim)
            self._with_rq.pop(claim, None)
            self._page.set(DONE, self._page.get(DONE) + 1)
            self._page.set(UNSETTLED, self._owes())
            if slot is not None:
                self._page.end(slot)

    @property
    def at_rest(self) -> bool:
        """The queues were found empty (or closed, or this process has had its share), and all is settled."""
        nothing = self._out_of_work or self.most_more == 0
        return (
            nothing and not self._buffer and not self._unsettled() and self._state in (WireState.FREE, WireState.BROKEN)
        )

    @property
    def mending(self) -> bool:
        """It waits for the store to come back."""
        return self._state is WireState.MENDING

    def quiet_now(self) -> bool:
        """Claim nothing any more. False: the wire is in the middle of something, by an exception in its thread."""
        self._quiet = True
        return self._state in (WireState.FREE, WireState.AWAITING)

    # -- what the child watchdog and its request thread call -----------------------------------------------------------

    def wake(self) -> None:
        """There may be work again."""
        with self._cond:
            self._set_out_of_work(False)
            self._cond.notify_all()

    def look_up(self) -> int:
        """Wake who waits, so that each thread says that it is there; return the number by which it says so."""
        with self._cond:
            self._round += 1
            self._cond.notify_all()
            return self._round

    def has_answered(self, thread: int | None, number: int) -> bool:
        return thread is not None and self._seen.get(thread, 0) >= number

    def drop_buffer(self, quiet: bool = False, at_rest: bool = False) -> list[Claimed]:
        """Take the buffered jobs away from the slots, to be given back; ``quiet``: and claim nothing ever again;
        ``at_rest``: and no reply is on its way that was sent before, and what slots have in hand is doubtful."""
        with self._cond:
            self._quiet = self._quiet or quiet
            while True:
                if self._state is WireState.AWAITING:
                    self._read()
                elif (quiet or at_rest) and self._state in (WireState.SENDING, WireState.READING):
                    self._cond.wait(0.05)
                else:
                    break
            self._settled_by_others(at_rest)
            if at_rest:
                self._doubtful |= self._held
            dropped = list(self._buffer)
            self._buffer.clear()
            if self._turn_back and dropped:
                self.queues = self._turn_back(self.queues, dropped[0].queue)
            self._page.set(BUFFERED, 0)
            self.prefetch.jammed()
            self._cond.notify_all()
            return dropped

    def is_doubtful(self, claim: int) -> bool:
        """The supervisor may have given this one back while we held still; a slot took it before we knew."""
        return claim in self._doubtful

    def _settled_by_others(self, perhaps: bool) -> None:
        """While we held still, the supervisor may have settled what is finished: that its token is gone is no news."""
        if perhaps:
            self._resent.update(outcome.claim for outcome in (*self._finished, *self._in_flight))

    @property
    def holds_up(self) -> bool:
        """Jobs wait behind running ones: in the buffer, or in a reply that nobody reads."""
        return self._idle == 0 and (bool(self._buffer) or (self._state is WireState.AWAITING and self._asked > 0))

    @property
    def lets_wait(self) -> bool:
        """Outcomes wait for company that may not come soon."""
        return self._idle == 0 and self._unsettled() and self._state in (WireState.FREE, WireState.AWAITING)

    def settle(self) -> None:
        """Send what is finished now, and read the reply (and before it the one that is still on its way)."""
        with self._cond:
            if self._state is WireState.AWAITING:
                self._read()
            if self._finished and self._state is WireState.FREE:
                self._send(want=0)
            if self._state is WireState.AWAITING:
                self._read()

    def reconcile(self) -> None:
        """Give back what Redis thinks we hold and we do not know: a belt beside the braces of every reconnect."""
        with self._cond:
            if self._state is WireState.FREE:
                self._mend(reconnect=False)

    # -- one turn (the lock is held) -----------------------------------------------------------------------------------

    def _take(self) -> Claimed | JobOutcome | None:
        work: Claimed | JobOutcome
        if self._for_rq:
            work = self._for_rq.pop()
            self._with_rq[work.claim] = work
        elif self._buffer and not self._quiet and not self._exclusive:
            if "a" in self._buffer[0].features and self._settings.slots > 1:
                if self._held:
                    return None
                self._exclusive = True
            work = self._buffer.popleft()
            self._page.set(BUFFERED, len(self._buffer))
            self._count()
        else:
            return None
        self._held.add(work.claim)
        return work

    def _count(self) -> None:
        self._handed += 1
        if self.most_more is not None:
            self.most_more -= 1
        if self._handed == self._settings.max_jobs:
            self._on_retire()

    def _freed(self, claim: int) -> None:
        self._held.discard(claim)
        self._doubtful.discard(claim)
        if self._exclusive or (self._buffer and "a" in self._buffer[0].features):
            self._exclusive = False
            self._cond.notify_all()

    def _leaving(self) -> bool:
        settled = not self._unsettled() and not (self._state is WireState.FREE and self._unrecorded())
        return self._quiet and settled and self._state in (WireState.FREE, WireState.BROKEN)

    def _unsettled(self) -> bool:
        return bool(self._finished or self._in_flight or self._for_rq)

    def _owes(self) -> int:
        """What the page says: Redis may not have all outcomes."""
        return int(self._unsettled() or bool(self._with_rq))

    def _unrecorded(self) -> bool:
        """Nobody runs anything that would bring it along: the usage of jobs that RQ's own finish recorded."""
        return not self._held and self._usage.pending

    def _turn(self) -> None:
        """Bring the wire one step further, or wait for somebody who does."""
        self._seen[threading.get_ident()] = self._round
        if self._state is WireState.BROKEN:
            self._mend()
        elif self._state is WireState.AWAITING:
            self._read()
        elif self._state is WireState.FREE and (self._finished or self._may_claim() or self._unrecorded()):
            self._send(self._want())
            if self._state is WireState.FREE:  # all that there is waits for another attempt
                self._cond.wait(0.05)
        else:
            self._cond.wait()

    def _may_claim(self) -> bool:
        return not (
            self._out_of_work or self._quiet or self._buffer or self.most_more == 0
        )  # a full buffer here: its head waits to run alone

    def _look_ahead(self) -> None:
        """With a job in hand: send for more before the buffer is dry, and settle at once behind a long job."""
        if self._state is not WireState.FREE:
            return
        ahead = 0 if self._quiet or self._out_of_work else self.prefetch.ahead
        if ahead and len(self._buffer) <= ahead // 2:
            self._send(self._want())
        elif self._finished and (
            not self._buffer or self.prefetch.settles_at_once or len(self._finished) >= MOST_PER_CYCLE
        ):
            self._send(want=0)
        if self._idle:  # who reads the reply while we run
            self._cond.notify()

    def _want(self) -> int:
        if self._quiet:
            return 0
        most = 1 if self._reorder else MOST_PER_CYCLE  # the order of the queues changes with each job
        want = min(most, self._idle + max(0, self.prefetch.ahead - len(self._buffer)))
        return want if self.most_more is None else min(want, self.most_more - len(self._buffer))

    def _settle_now(self, outcome: JobOutcome) -> bool:
        """It does not fit into the journal: stay until Redis has it (False), or leaves it to RQ's own finish (True)."""
        self._unwritten.add(outcome.claim)
        while outcome in self._finished or outcome in self._in_flight:
            self._turn()
        left = outcome.claim not in self._unwritten
        self._unwritten.discard(outcome.claim)
        return left

    # -- the wire (the lock is held on entry and on exit, and free while Redis is waited for) --------------------------

    def _send(self, want: int) -> None:
        self._settled_by_others(self._page.revoked)
        going, self._kept = self._finished, []
        if self._refusals and not (going := self._apart()):
            if not self._may_claim():
                return
        elif self._refusals and self._kept:
            want = 0
        self._in_flight, self._finished = going, self._kept
        self._page.journal.switch()
        self._asked = want
        usage = self._usage.take(
            len(self._in_flight)
        )  # sent once: what a broken wire loses is lost, never counted twice
        args = cycle_args(self._owner, self._settings.worker, self.queues, self._in_flight, want, self._idle, usage)
        self._state = WireState.SENDING
        error = self._unlocked(lambda: self._wire.send(args))
        if isinstance(error, Exception):
            self._broke(error)
            self._cond.notify_all()  # a slot that waited for this request has to mend the wire: not every sender does
        else:
            self._state = WireState.AWAITING

    def _apart(self) -> list[JobOutcome]:
        """Which of the finished go now, after the store has refused one of them; the others are kept."""
        going = self._refusals.portion(self._finished)
        claims = {outcome.claim for outcome in going}
        self._kept = [outcome for outcome in self._finished if outcome.claim not in claims]
        return going

    def _read(self) -> None:
        self._state = WireState.READING
        reply = self._unlocked(self._wire.receive)
        if isinstance(reply, Exception):
            self._broke(reply)
        else:
            self._state = WireState.FREE
            self._arrived(reply)
        self._cond.notify_all()

    def _unlocked(self, talk: Callable[[], T]) -> T | Exception:
        """Talk to Redis without the lock; what went wrong is returned, so that the lock is always held again."""
        self._cond.release()
        try:
            return talk()
        except (RedisError, OSError) as e:
            return e
        finally:
            self._cond.acquire()

    def _arrived(self, cycle: Cycle) -> None:
        self._settled_by_others(self._page.revoked)
        if self._backoff.failures:
            log.info("the store answers again")
            self._backoff.reset()
        self.said = cycle.state
        if cycle.state == "fenced":
            self._on_fenced()
        outcomes, self._in_flight = self._in_flight, []
        self._refusals.passed(outcomes)
        for outcome, ack in zip(outcomes, cycle.acks, strict=True):
            self._acknowledged(outcome, ack)
        # those that RQ's own finish has not recorded yet stand in the half that goes: move them before it does
        if all(self._page.journal.append(o) for o in (*self._for_rq, *self._with_rq.values(), *self._kept)):
            self._page.journal.sent_is_settled()
        self._page.set(UNSETTLED, self._owes())
        self._buffer.extend(cycle.jobs)
        if self._reorder and cycle.jobs:
            self.queues = self._reorder(self.queues, cycle.jobs[-1].queue)
        self._page.set(BUFFERED, len(self._buffer))
        if cycle.jobs:
            self._set_out_of_work(False)
            if len(cycle.jobs) == self._asked:
                self.prefetch.gave_all()
        elif self._asked:
            self._set_out_of_work(True)

    def _acknowledged(self, outcome: JobOutcome, ack: int) -> None:
        if ack == HAS_DEPENDENTS and outcome.claim in self._unwritten:
            self._unwritten.discard(outcome.claim)  # its slot waits for this and takes it back
            return
        if ack == HAS_DEPENDENTS:
            self._for_rq.append(outcome)
            return
        self._page.set(DONE, self._page.get(DONE) + 1)
        if outcome.claim in self._resent:
            self._resent.discard(outcome.claim)  # the first request may have recorded it: gone is no news
        elif ack not in (RECORDED, GONE):
            log.warning("job %s is no longer ours: its outcome is not recorded", outcome.id)

    def _set_out_of_work(self, out_of_work: bool) -> None:
        self._page.set(OUT_OF_WORK, int(out_of_work))
        if out_of_work and not self._out_of_work:
            self._on_out_of_work()
        self._out_of_work = out_of_work

    # -- failures ----------------------------------------------------------------------------------------------------

    def _broke(self, error: Exception) -> None:
        """What was in flight may or may not have happened: it goes out again, and the token decides."""
        if not self._backoff.failures:
            log.warning("the store does not answer (%s); running jobs go on, and we wait for it", without_script(error))
        self._backoff.failed()
        self._state = WireState.BROKEN
        self._resent.update(outcome.claim for outcome in self._in_flight)
        if self._refusals.refused(self._in_flight, error):
            self._give_up(self._in_flight.pop(), error)
        self._finished[:0] = self._in_flight
        self._in_flight = []
        self._page.journal.sent_came_back()

    def _give_up(self, outcome: JobOutcome, error: Exception) -> None:
        """The store will never take it: its job fails, by RQ's own finish."""
        self._refused[outcome.claim] = refused_text(len(outcome.payload), error)
        log.warning("job %s: the store refuses its outcome (%d bytes): %s", outcome.id, len(outcome.payload), error)
        if outcome.claim in self._unwritten:
            self._unwritten.discard(outcome.claim)  # its slot waits for this and takes it back
        else:
            self._for_rq.append(outcome)

    def why_refused(self, claim: int) -> str:
        """Why the store does not take the outcome that comes back; "": it was not refused."""
        with self._cond:
            return self._refused.pop(claim, "")

    def _mend(self, reconnect: bool = True) -> None:
        """Connect, then give back what a lost reply claimed for us, before anything is sent again."""
        self._state = WireState.MENDING
        while True:
            if pause := self._backoff.pause():
                self._cond.wait(pause)
            if self._backoff.failures and self._quiet and not self._unsettled():  # nothing to wait for the store for
                self._state = WireState.BROKEN
                self._cond.notify_all()
                return
            attempt = partial(self._reconcile_once, reconnect, self._known())  # known as of now, under the lock
            result = self._unlocked(attempt)
            if not isinstance(result, Exception):
                break
            self._broke(result)
            self._state, reconnect = WireState.MENDING, True
            self._look_for_own_fault(result)
            self.on_away()
        self._state = WireState.FREE
        self._set_out_of_work(False)
        self._cond.notify_all()
        if result < 0:
            self._on_fenced()

    def _look_for_own_fault(self, error: Exception) -> None:
        """A job may have taken the means from this process by which it reaches the store (a limit on open files, say).
        Waiting does not help then: what it finished stands in shared memory, and its supervisor settles that."""
        self._own_faults = self._own_faults + 1 if is_own_fault(error) else 0
        if self._own_faults == OWN_FAULTS:
            log.error("this process cannot reach the store any more (%s), and leaves when its jobs are done", error)
            self._on_retire()
        if self._own_faults >= OWN_FAULTS and self._held <= self._unwritten:
            self._on_cut_off()

    def _reconcile_once(self, reconnect: bool, known: list[int]) -> int:
        if reconnect:
            self._wire.reconnect()
            if self._refusals:
                self._refusals.largest = self._wire.largest()
        return self._wire.reconcile(self._owner, self._settings.worker, known)

    def _known(self) -> list[int]:
        known = [*self._held, *(job.claim for job in self._buffer)]
        known += [outcome.claim for outcome in (*self._finished, *self._for_rq)]
        return known
