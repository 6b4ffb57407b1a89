"""The consumer as a state machine: slots that take and finish jobs, replies in any order, lost connections, revocations
and give-backs, with threads in any order at each place where one lets others continue.

Jobs in the buffer, held by slots, finished and not sent, sent and not answered, with RQ's own finish, and settled
always add up to what was claimed; nothing is sent twice unless its reply was lost; the page has all that a kill would
leave. At the end every job has ended once, and no thread waits while there is something to do.

    JOBQ_EXAMPLES=5000 pytest tests/properties        new histories instead of the same ones each time
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from books import DROPPED, FINISHED, FOR_RQ, GIVEN_BACK, HAND, SETTLED, WITH_RQ, Books
from fake_wire import OWNER, FakeStore, FakeWire, Request
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from turns import IDLE, WAITS, Actor, Turns

from jobqueue.protocol.claims import Claimed
from jobqueue.protocol.outcomes import RAISED, RETURNED, JobOutcome
from jobqueue.protocol.rescue import Verdict
from jobqueue.store.connection import Address
from jobqueue.workers.child import consumer as consumer_module
from jobqueue.workers.child.consumer import Consumer
from jobqueue.workers.child.prefetch import MOST_PER_CYCLE
from jobqueue.workers.running.task_meter import Usage
from jobqueue.workers.shared.journal import (
    BUFFERED,
    CAME_BACK,
    HALF,
    OUT_OF_WORK,
    REVOKED,
    UNSETTLED,
    SharedPage,
    make_file,
)
from jobqueue.workers.shared.settings import Settings

EXAMPLES = int(os.environ.get("JOBQ_EXAMPLES") or 0)
PROFILE = settings(
    max_examples=EXAMPLES or 200,
    stateful_step_count=40,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    print_blob=True,
    report_multiple_bugs=False,
    phases=[Phase.generate, Phase.shrink],  # no explaining: it traces every line
    suppress_health_check=list(HealthCheck),
)
SLOTS = 3
LARGE = HALF + 1  # bytes; more than the journal takes
KINDS = st.sampled_from(["plain", "plain", "plain", "dependents", "dependents", "alone", "refused"])
TROUBLES = [("send", "lost"), ("send", "late"), ("receive", "lost"), ("receive", "late"), ("receive", "full")]
TROUBLES += [("reconnect", "lost"), ("reconcile", "lost"), ("reconcile", "late")]
ENDS = st.sampled_from(["finishes"] * 6 + ["finishes large", "fails with a callback", "is interrupted"])
REQUESTS = ["settle", "settle", "reconcile", "reconcile", "give back", "come back", "look up", "quiet"]
SECONDS = st.sampled_from([0.0001, 0.0001, 0.001, 0.5])  # that a job took
ANY = st.integers(0, 5)
FAR = 3000  # turns; a history needs some hundred to come to its end


class Slot:
    """The state of one slot's thread."""

    def __init__(self, number: int, actor: Actor) -> None:
        self.number, self.actor = number, actor
        self.job: Claimed | None = None
        self.started = False
        self.asks = False  # for work
        self.takes = 0  # the claim with which it is about to come back
        self.for_rq: int | None = None  # claim
        self.left = False

    @property
    def is_free(self) -> bool:
        """Return whether the slot is about to ask for work."""
        return self.actor.place == IDLE and self.job is None and self.for_rq is None and not self.left


class Looked(NamedTuple):
    """What the supervisor has read from the page: the newest claim, then the running and the finished ones."""

    newest: int
    running: list[int] | None = None  # None: not yet
    finished: Sequence[JobOutcome] = ()


def _outcome(job: Claimed, seconds: float, payload: bytes = b"") -> JobOutcome:
    return JobOutcome(job.id, job.claim, job.queue, RETURNED, 500, payload, "", "", 0.0, seconds)


class Page(SharedPage):
    """Tell when a slot takes a job out of the buffer: it may send a request for more before it comes back with the
    job."""

    took: Callable[[int], None]

    def set(self, word: int, value: int) -> None:
        super().set(word, value)
        if word == BUFFERED:
            self.took(value)


class ConsumerMachine(RuleBasedStateMachine):
    """One child: its slots, its request thread, its supervisor, and the store."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns()
        self.store = FakeStore()
        self.wire = FakeWire(self.turns, self.store)
        self.books = Books()
        self.page = Page(make_file(1, SLOTS), 0, SLOTS)
        self.page.took = self._took
        self.consumer = self._consumer()
        self.wire.before_send = self._sending
        self.wire.before_reconnect = self._about_to_reconnect
        self.wire.before_reconcile = self._reconciling
        self.wire.arrived = self.books.arrived
        self.wire.lost = self.books.sent.clear
        self.slots = [Slot(n, Actor(self.turns, f"slot {n}")) for n in range(SLOTS)]
        self.request_thread = Actor(self.turns, "request thread")
        self.known: tuple[set[int], set[int]] | None = None  # what a reconcile must name, and may
        self.quiet = False
        self.looked: Looked | None = None
        self.log = Lines()

    def _consumer(self) -> Consumer:
        fields: dict[str, Any] = {"worker": "w", "queues": ("default",), "children": 1, "slots": SLOTS}
        settings_ = Settings(Address(url="redis://127.0.0.1:1/0"), **fields)
        usage = Usage(SLOTS, on=False)
        module: Any = consumer_module
        real, module.OwnCondition = module.OwnCondition, lambda _: self.turns.lock
        try:
            nothing = [lambda: None] * 3
            consumer = Consumer(settings_, OWNER, self.page, self.wire, usage, *nothing)  # type: ignore[arg-type]
            consumer._mutex = self.turns.lock  # type: ignore[assignment]  # the condition's own lock
            return consumer
        finally:
            module.OwnCondition = real

    @property
    def actors(self) -> list[Actor]:
        return [*(slot.actor for slot in self.slots), self.request_thread]

    @property
    def able(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.can_go_on]

    # -- what the wire tells -----------------------------------------------------------------------------------------

    def _sending(self, request: Request) -> None:
        assert 0 <= request.want <= MOST_PER_CYCLE
        assert not (request.want and self.quiet), "it claims although it was told to be quiet"
        self.books.sending(request.outcomes)

    def _about_to_reconnect(self) -> None:
        self.known = self._what_to_know()

    def _what_to_know(self) -> tuple[set[int], set[int]]:
        """A slot that waits with an outcome too large for the journal may not have heard yet that it is settled: its
        claim may be known too, and nothing is given back for that."""
        ours = self.books.ours()
        return ours, ours | self.books.on_page

    def _reconciling(self, known: list[int]) -> None:
        (least, most), self.known = self.known or self._what_to_know(), None
        assert least <= set(known) <= most, f"it knows {sorted(set(known))}, and holds {sorted(least)}"

    # -- clients, the network, the supervisor ------------------------------------------------------------------------

    @initialize(kinds=st.lists(KINDS, min_size=3, max_size=16))
    def begin(self, kinds: list[str]) -> None:
        """Start with slots that have asked for work, two of which have been answered."""
        self.put(kinds)
        for _ in range(6):
            for slot in self.slots:
                self._next_step(slot, "finishes", 0.0001)

    @rule(troubles=st.lists(st.sampled_from(TROUBLES), min_size=1, max_size=4))
    def the_network_is_bad(self, troubles: list[tuple[str, str]]) -> None:
        """Let the next one of these steps fail, whichever thread takes it."""
        self.wire.troubles = troubles

    @rule(kinds=st.lists(KINDS, min_size=1, max_size=6))
    def put(self, kinds: list[str]) -> None:
        for kind in kinds:
            self.store.put(kind)
        self.consumer.wake()

    @precondition(lambda self: self.able)
    @rule(which=ANY)
    def one_goes_on(self, which: int) -> None:
        able = self.able
        able[which % len(able)].go_on()

    @precondition(lambda self: self.wire.late or self.wire.is_busy)
    @rule()
    def the_store_answers(self) -> None:
        """Let a pending request arrive, perhaps late: before the reply is read, or when it will never be read."""
        self.wire.answer()
        if self.wire.late:
            self.wire.arrive_late()

    @precondition(lambda self: self.looked is not None or (self.books.buffer and not self.page.revoked))
    @rule(steps=st.integers(1, 3))
    def the_supervisor_goes_on(self, steps: int) -> None:
        """Let the supervisor count the child as one that holds still, rightly or not, as the watchdog does."""
        for _ in range(steps):
            if self.looked is None:
                self.looked = Looked(self.store.newest)
                self.page.revoke()
            elif self.looked.running is None:
                running = [job.claim for job in self.page.running()]
                finished = [outcome for outcome in self.page.journal.read() if not outcome.by_rq]
                self.looked = Looked(self.looked.newest, running, finished) if self.page.revoked else None
            else:
                self._stand_in(self.looked.newest, self.looked.running, self.looked.finished)
                self.looked = None

    def _stand_in(self, newest: int, running: list[int], finished: Sequence[JobOutcome]) -> None:
        """Stand in for the child with what the supervisor saw, which may not be true any more."""
        self.store.stand_in(newest, running, [outcome.claim for outcome in finished])
        self.store.cycle(Request(0, [outcome for outcome in finished if self.store.kinds[outcome.id] != "refused"]))

    # -- slots -------------------------------------------------------------------------------------------------------

    @rule(order=st.lists(st.integers(0, SLOTS), min_size=8, max_size=30), end=ENDS, seconds=SECONDS)
    def work_goes_on(self, order: list[int], end: str, seconds: float) -> None:
        """Let each thread do its next step, in this order; the last number is the request thread."""
        for number in order:
            if number < SLOTS:
                self._next_step(self.slots[number], end, seconds)
            elif self.request_thread.can_go_on:
                self.request_thread.go_on()
            self.check()

    def _next_step(self, slot: Slot, end: str, seconds: float) -> None:
        if slot.actor.place != IDLE:
            if slot.actor.can_go_on:
                slot.actor.go_on()
        elif slot.for_rq is not None:
            self._rq_has_recorded_it(slot, slot.for_rq)
        elif slot.job is None:
            if not slot.left:
                slot.actor.do(lambda: self._take(slot))
        elif not slot.started:
            self._start(slot, slot.job)
        elif end == "fails with a callback":
            self._fail_with_a_callback(slot, slot.job)
        elif end == "is interrupted":
            self.store.give_back([slot.job.claim])
            self._let_go(slot, slot.job.claim, HAND)
        else:
            outcome = _outcome(slot.job, seconds, b"x" * LARGE if end == "finishes large" else b"")
            slot.actor.do(lambda: self._finish(slot, outcome))

    def _take(self, slot: Slot) -> None:
        slot.asks = True
        work = self.consumer.next()
        slot.asks = False
        if work is None:
            slot.left = True
        elif isinstance(work, Claimed):
            assert slot.takes == work.claim, f"{slot.actor} comes back with {work.claim} and took {slot.takes}"
            slot.job, slot.started = work, False
        else:
            self.books.refused(work.claim)
            self.books.move(work.claim, FOR_RQ, WITH_RQ)
            slot.for_rq = work.claim
            self._note_if_refused(work)

    def _took(self, left: int) -> None:
        for slot in self.slots:
            if slot.actor is self.turns.current and left == len(self.books.buffer) - 1:
                slot.takes = self.books.took()

    def _note_if_refused(self, outcome: JobOutcome) -> None:
        """Note that the store refused the outcome: the job fails, by RQ's own finish."""
        if why := self.consumer.why_refused(outcome.claim):
            self.consumer.note(outcome._replace(kind=RAISED, payload=why.encode(), by_rq=Verdict.FAIL.value))

    def _start(self, slot: Slot, job: Claimed) -> None:
        """Start a job as Slot._begin and _may_start do: note it on the page, then ask the store where that is
        needed."""
        self.page.begin(slot.number, job.claim, 1.0, 0.0)
        self.books.on_page.add(job.claim)
        must_ask = self.page.revoked or self.consumer.is_doubtful(job.claim)
        slot.started = not must_ask or self.store.start_mark(job.claim)
        if not slot.started:
            self._let_go(slot, job.claim, HAND)

    def _let_go(self, slot: Slot, claim: int, before: str) -> None:
        self.consumer.let_go(claim, slot.number)
        self.books.move(claim, before, SETTLED)
        self.books.on_page.discard(claim)
        slot.job = slot.for_rq = None

    def _finish(self, slot: Slot, outcome: JobOutcome) -> None:
        self.books.finishing(outcome)
        slot.job = None
        if not outcome.payload:  # it fits into the journal, and its claim leaves the page at once
            self.books.on_page.discard(outcome.claim)
        if not self.consumer.finish(outcome, slot.number):
            self.books.on_page.discard(outcome.claim)
            return
        assert outcome.payload, "an outcome that fits into the journal came back"
        self.books.move(outcome.claim, FINISHED, WITH_RQ)
        slot.for_rq = outcome.claim
        self._note_if_refused(outcome)

    def _fail_with_a_callback(self, slot: Slot, job: Claimed) -> None:
        self.consumer.note(_outcome(job, 0.0)._replace(kind=RAISED, by_rq=Verdict.FAIL.value))
        self.books.move(job.claim, HAND, WITH_RQ)
        slot.job, slot.for_rq = None, job.claim

    def _rq_has_recorded_it(self, slot: Slot, claim: int) -> None:
        if claim in self.store.held:
            self.store.end(claim)
        self._let_go(slot, claim, WITH_RQ)

    # -- the request thread, and the thread that looks after the slots -------------------------------------------------

    @precondition(lambda self: self.request_thread.place == IDLE)
    @rule(what=st.sampled_from(REQUESTS), at_once=st.booleans())
    def the_request_thread_goes_on(self, what: str, at_once: bool) -> None:
        self._begin_request(what)
        for _ in range(10):
            if at_once and self.request_thread.can_go_on:
                self.request_thread.go_on()

    def _begin_request(self, what: str) -> None:
        match what:
            case "settle":
                self.request_thread.do(self.consumer.settle)
            case "reconcile":
                self.request_thread.do(self.consumer.reconcile)
            case "give back":  # jobs wait behind long ones
                self.request_thread.do(lambda: (self.consumer.settle(), self._drop()))  # type: ignore[func-returns-value]
            case "come back" if self.page.revoked:
                self.request_thread.do(self._come_back)
            case "look up":
                self.consumer.look_up()
            case "quiet" if len(self.store.ended) > 2 and not self.quiet:
                self.request_thread.do(lambda: self._drop(quiet=True))

    def _come_back(self) -> None:
        """Come back as ChildWatchdog._come_back does."""
        revoked = self.page.get(REVOKED)
        self._drop(at_rest=True)
        self.page.set(CAME_BACK, revoked)

    def _drop(self, **how: bool) -> None:
        self.quiet = self.quiet or how.get("quiet", False)
        self.books.dropped(self.consumer.drop_buffer(**how))

    @precondition(lambda self: self.books.are(DROPPED))
    @rule()
    def gives_back(self) -> None:
        """Give back what was dropped, some time later."""
        claims = self.books.are(DROPPED)
        self.store.give_back(claims)
        for claim in claims:
            self.books.place[claim] = GIVEN_BACK

    # -- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def check(self) -> None:
        self.all_adds_up()
        self.what_runs_is_ours()
        self.nothing_is_called_lost()
        self.nothing_waits_without_end()

    def all_adds_up(self) -> None:
        self.books.agree_with(self.page)
        if self.consumer.at_rest:
            in_hands = self.books.on_page  # also while a slot waits to hear that RQ has to record its outcome
            left = self.books.buffer or set(self.books.are(FINISHED, FOR_RQ)) - in_hands
            assert not left, f"it says that it is at rest, and has {left}"

    def what_runs_is_ours(self) -> None:
        for slot in self.slots:
            if slot.job is not None and slot.started:
                claim = slot.job.claim
                assert claim in self.store.held, f"claim {claim} runs, and {slot.job.id} is in the queue again"

    def nothing_is_called_lost(self) -> None:
        """Assert that no line calls a job lost: none was taken while it ran, and one that the supervisor or a lost
        request recorded gives no warning."""
        assert not self.log.lines, self.log.lines

    def nothing_waits_without_end(self) -> None:
        """Assert that a thread that waits without an end has no job, outcome, reply or broken wire left to deal
        with."""
        asking = [slot.actor for slot in self.slots if slot.asks]
        waiting = [actor for actor in asking if actor.place == WAITS and not actor.can_go_on]
        if not waiting or self.quiet:
            return
        assert not self._may_take(), f"{waiting} wait, and {self.books.buffer} are in the buffer"
        if self.able or any(slot.is_free for slot in self.slots):
            return  # other threads will do the rest
        assert not self.books.are(FOR_RQ), f"{waiting} wait, and an outcome waits for one of them"
        assert not self.wire.is_busy, f"{waiting} wait, and nobody reads the reply"
        left = [claim for claim in self.books.are(FINISHED) if claim not in self.books.on_page]
        assert not left, f"{waiting} wait, and nobody sends how {left} ended"
        assert self.page.get(OUT_OF_WORK) or self.books.buffer, f"{waiting} wait, and nobody asks for jobs"

    def _may_take(self) -> bool:
        in_hands = [*self.books.are(HAND, WITH_RQ, FOR_RQ), *self.books.on_page]  # or about to enter them
        if not self.books.buffer or "alone" in map(self._kind, in_hands):
            return False
        return self._kind(self.books.buffer[0]) != "alone" or not in_hands

    def _kind(self, claim: int) -> str:
        return self.store.kinds[self.books.ids[claim]]

    # -- the end -----------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self._come_to_an_end()
        finally:
            self.log.close()
            for actor in self.actors:
                actor.abandon()

    def _come_to_an_end(self) -> None:
        """Go on without failures until every job has ended, once, and every slot has left."""
        while self.wire.late:
            self.wire.arrive_late()
        self.looked, self.wire.troubles = None, []
        self._work_until(lambda: not self._work_left())
        if self.request_thread.place == IDLE:
            self.request_thread.do(self.consumer.reconcile)  # what a lost reply has claimed since the last one
        self._work_until(lambda: not self._work_left() and self.request_thread.place == IDLE)
        if not self.quiet:
            assert not self.store.queue, f"nobody takes {list(self.store.queue)}"
            self.request_thread.do(lambda: self._drop(quiet=True))
        self._work_until(lambda: all(slot.left for slot in self.slots) and self.request_thread.place == IDLE)
        self._check_the_end()

    def _check_the_end(self) -> None:
        unknown = set(self.store.held) - self.books.place.keys()  # the child ended before it could reconcile
        assert set(self.store.held) == unknown, f"left behind: {self.store.held}"
        places = [*self.store.ended, *self.store.queue, *self.store.held.values()]
        assert sorted(places) == sorted(self.store.kinds)
        stale = [outcome.claim for outcome in self.page.journal.read()]  # the token takes care of that
        assert {self.books.place[claim] for claim in stale} <= {SETTLED}
        assert self.page.get(UNSETTLED) == 0

    def _work_left(self) -> bool:
        """Return whether any thread has something to do, or could have."""
        busy = any(slot.job or slot.for_rq or slot.is_free or slot.actor.can_go_on for slot in self.slots)
        waiting = bool(self.store.queue) and not self.quiet
        return (
            busy or waiting or self.request_thread.place != IDLE or bool(self.books.are(DROPPED)) or self.page.revoked
        )

    def _work_until(self, over: Callable[[], bool]) -> None:
        for _ in range(FAR):
            if over():
                return
            self._one_round()
        waits = [actor for actor in self.actors if actor.place == WAITS]
        raise AssertionError(f"it goes on for ever; {waits} wait, {self.books.place}, {self.store.queue}")

    def _one_round(self) -> None:
        """Let every thread do what it can; announce waiting jobs when no thread can do anything by itself."""
        before = self._state()
        for slot in self.slots:
            self._next_step(slot, "finishes", 0.0001)
        if self.request_thread.can_go_on:
            self.request_thread.go_on()
        elif self.page.revoked:
            self._begin_request("come back")
        self.check()
        if self.books.are(DROPPED):
            self.gives_back()
        if self._state() == before and not self.able:
            self.consumer.wake()

    def _state(self) -> tuple[object, ...]:
        return [actor.place for actor in self.actors], dict(self.books.place), len(self.store.ended)


class Lines(logging.Handler):
    """Collect the child's log lines on jobs that were taken from it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        logging.getLogger("jobqueue.workers").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if "no longer ours" in record.getMessage():
            self.lines.append(record.getMessage())

    def close(self) -> None:
        logging.getLogger("jobqueue.workers").removeHandler(self)
        super().close()


@pytest.mark.timeout(0 if EXAMPLES else 400)  # a failing example is first reduced, which takes a while
def test_every_claimed_job_is_always_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> ConsumerMachine:
        machine = ConsumerMachine()
        monkeypatch.setattr(machine.consumer._outbox.refusals, "_clock", machine.turns.monotonic)
        return machine

    monkeypatch.setattr("random.uniform", lambda least, _most: least)
    run_state_machine_as_test(make, settings=PROFILE)  # type: ignore[arg-type]


@pytest.fixture
def by_hand() -> Iterator[ConsumerMachine]:
    """Return the machine, for one history that a test writes down."""
    machine = ConsumerMachine()
    yield machine
    machine.teardown()


def test_a_failed_request_wakes_the_slots_that_waited_for_it(by_hand: ConsumerMachine) -> None:
    """The request thread settles while a slot runs out of work: the slot waits for that request, and has to mend the
    wire when it fails, as the request thread does not."""
    by_hand.put(["plain"])
    runs = None
    while runs is None or by_hand.able:  # one runs the job, and the others wait
        for slot in by_hand.slots:
            if slot.started:
                runs = slot
            else:
                by_hand._next_step(slot, "finishes", 0.5)
    by_hand._next_step(runs, "finishes", 0.5)
    by_hand._begin_request("settle")
    by_hand._next_step(runs, "finishes", 0.5)
    assert (by_hand.request_thread.place, runs.actor.place) == ("send", WAITS)
    by_hand.wire.troubles = [("send", "lost")]
    by_hand.request_thread.go_on()
    assert runs.actor.can_go_on
    by_hand.check()
