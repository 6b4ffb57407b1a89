"""The consumer, with a wire that breaks where a test says so: no job is lost, and none is claimed twice."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pytest
import redis
from helpers import eventually

from jobqueue.own_random import own_random
from jobqueue.protocol.claims import Claimed, Features
from jobqueue.protocol.cycle import Cycle, CycleRequest, CycleState, Spent
from jobqueue.protocol.outcomes import RETURNED, Ack, JobOutcome
from jobqueue.store.connection import Address
from jobqueue.workers.child.consumer import Consumer
from jobqueue.workers.child.prefetch import MOST_PER_CYCLE
from jobqueue.workers.running.task_meter import Usage
from jobqueue.workers.shared.journal import (
    BUFFERED,
    CAME_BACK,
    DONE,
    OUT_OF_WORK,
    REVOKED,
    UNSETTLED,
    SharedPage,
    make_file,
)
from jobqueue.workers.shared.settings import Settings

OWNER = "w:0.1"


class Request(NamedTuple):
    """One CYCLE as it was sent."""

    want: int
    idle: int
    settled: list[int]


class FakeWire:
    """A store with one queue behind one connection. Each of ``fails`` is used once, by the step that it names."""

    def __init__(self) -> None:
        self.queue: deque[str] = deque()
        self.held: dict[int, str] = {}  # claim → id
        self.recorded: list[str] = []
        self.has_dependents: set[str] = set()
        self.alone: set[str] = set()  # ids of suspects
        self.requests: list[Request] = []
        self.usage: list[list[Spent]] = []  # per request
        self.known: list[list[int]] = []  # per RECONCILE
        self.fails: deque[str] = deque()
        self.fenced = False
        self.hold = threading.Event()
        self.hold.set()
        self._claims = 0
        self._replies: deque[Cycle] = deque()

    def _may_fail(self, step: str) -> None:
        if self.fails and self.fails[0] == step:
            self.fails.popleft()
            raise redis.ConnectionError(f"cut in {step}")

    def reconnect(self) -> None:
        self._replies.clear()
        self._may_fail("reconnect")

    def reconcile(self, _owner: str, _worker: str, known: Iterable[int]) -> int:
        self._may_fail("reconcile")
        self.known.append(sorted(known))
        lost = sorted(set(self.held) - set(self.known[-1]), reverse=True)
        for claim in lost:
            self.queue.appendleft(self.held.pop(claim))
        return -1 if self.fenced else len(lost)

    def send(self, request: CycleRequest) -> None:
        self._may_fail("send")
        outcomes, want = list(request.outcomes), request.want
        self.requests.append(Request(want, request.idle, [o.claim for o in outcomes]))
        self.usage.append(list(request.usage))
        if self.fenced:  # nothing is done
            self._replies.append(Cycle(CycleState.FENCED, [], []))
            return
        acks = [self._settle(outcome) for outcome in outcomes]
        jobs = [self._claim() for _ in range(min(want, len(self.queue)))]
        state = CycleState.CLAIMED if jobs else CycleState.EMPTY
        self._replies.append(Cycle(state, acks, jobs))

    def _settle(self, outcome: JobOutcome) -> Ack:
        if outcome.claim not in self.held:
            return Ack.LOST
        if outcome.id in self.has_dependents:
            return Ack.HAS_DEPENDENTS
        self.recorded.append(self.held.pop(outcome.claim))
        return Ack.RECORDED

    def _claim(self) -> Claimed:
        self._claims += 1
        job_id = self.queue.popleft()
        self.held[self._claims] = job_id
        return Claimed(job_id, self._claims, "default", b"", None, None, None, 0, Features(alone=job_id in self.alone))

    def receive(self) -> Cycle:
        self.hold.wait(30)
        self._may_fail("receive")
        return self._replies.popleft()


class Bench:
    """A consumer with its fake wire."""

    def __init__(self, slots: int = 1, max_jobs: int = 0) -> None:
        fields: dict[str, Any] = {"worker": "w", "queues": ("default",), "children": 1, "slots": slots}
        fields["max_jobs"] = max_jobs
        self.wire = FakeWire()
        self.page = SharedPage(make_file(1, slots), 0, slots)
        self.calls: list[str] = []
        self.usage = Usage(slots)
        self.consumer = Consumer(
            Settings(Address(url="redis://127.0.0.1:1/0"), **fields),
            OWNER,
            self.page,
            self.wire,  # type: ignore[arg-type]
            self.usage,
            on_out_of_work=lambda: self.calls.append("out of work"),
            on_retire=lambda: self.calls.append("retire"),
            on_fenced=self._fenced,
        )

    def _fenced(self) -> None:
        self.calls.append("fenced")
        raise SystemExit  # the child leaves at once

    def put(self, *ids: str) -> None:
        self.wire.queue.extend(ids)

    def take(self) -> Claimed:
        work = self.consumer.next()
        assert isinstance(work, Claimed)
        return work

    def run(self, number: int, seconds: float = 0.001) -> list[str]:
        """Take and finish this number of jobs."""
        ran = []
        for _ in range(number):
            job = self.take()
            ran.append(job.id)
            self.finish(job, seconds)
        return ran

    def finish(self, job: Claimed, seconds: float = 0.001, payload: bytes = b"") -> bool:
        self.page.begin(0, job.claim, 0.0, 0.0)
        ended = JobOutcome(job.id, job.claim, "default", RETURNED, 500, payload, "", "", 0.0, seconds)
        return self.consumer.finish(ended, 0)

    def leave(self) -> None:
        """End the consumer as the supervisor's quiet does: claim nothing more, settle, end."""
        self.consumer.drop_buffer(quiet=True)
        while (work := self.consumer.next()) is not None:
            assert isinstance(work, JobOutcome)
            self.consumer.let_go(work.claim, 0)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def background() -> Iterator[Callable[[Callable[[], Any]], list[Any]]]:
    """Run a call that waits in a thread; its result appears in the list."""
    threads = []

    def start(work: Callable[[], Any]) -> list[Any]:
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
        thread.start()
        threads.append(thread)
        return results

    yield start
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def ids(number: int) -> list[str]:
    return [f"j{n}" for n in range(number)]


# -- the buffer ----------------------------------------------------------------------------------------------------


def test_everything_runs_in_order_and_is_recorded_once(bench: Bench) -> None:
    bench.put(*ids(300))
    assert bench.run(300) == ids(300)
    bench.leave()
    assert sorted(bench.wire.recorded) == sorted(ids(300))
    assert bench.wire.held == {}
    assert bench.page.get(DONE) == 300
    assert (bench.page.get(UNSETTLED), bench.page.get(BUFFERED)) == (0, 0)
    assert list(bench.page.journal.read()) == []


def test_short_jobs_are_claimed_ahead(bench: Bench) -> None:
    """The first request asks for one job, later ones for more and more, up to 20 ms of work."""
    bench.put(*ids(400))
    bench.run(400)
    wants = [request.want for request in bench.wire.requests if request.want]
    assert wants[0] <= 2
    assert max(wants) > 8
    assert len(bench.wire.requests) < 60


def test_jobs_that_rqs_own_code_ends_count_as_long_as_that_takes(bench: Bench) -> None:
    bench.put(*ids(400))
    for _ in range(100):
        job = bench.take()
        bench.consumer.let_go(job.claim, 0)
        bench.consumer.note_duration(0.010)
    assert max(request.want for request in bench.wire.requests) <= 3


def test_nothing_is_claimed_ahead_behind_long_jobs(bench: Bench) -> None:
    bench.put(*ids(40))
    bench.run(20, seconds=0.5)
    assert {request.want for request in bench.wire.requests[-15:]} <= {0, 1}
    assert bench.page.get(BUFFERED) == 0
    assert len(bench.wire.held) <= 1


def test_the_outcome_of_a_long_job_does_not_wait(bench: Bench) -> None:
    """The outcome of a long job is sent before the next job starts."""
    bench.put(*ids(4))
    bench.run(2, 0.5)
    bench.take()
    assert bench.wire.recorded == ["j0", "j1"]


def test_no_request_is_larger_than_a_chunk() -> None:
    bench = Bench(slots=50)
    bench.put(*ids(3000))
    bench.run(3000, seconds=0.0001)
    assert max(request.want for request in bench.wire.requests) <= MOST_PER_CYCLE


def buffer_some(bench: Bench) -> Claimed:
    """Have a slot take a job, with others in the buffer behind it."""
    bench.put(*ids(200))
    for _ in range(100):
        job = bench.take()
        if bench.page.get(BUFFERED) > 3:
            return job
        bench.finish(job)
    pytest.fail("nothing was fetched ahead")


def test_a_job_that_a_slot_holds_when_its_child_comes_back_is_doubtful(bench: Bench) -> None:
    """The job was taken before the revocation was seen, and is started after the revocation was answered."""
    job = buffer_some(bench)
    assert not bench.consumer.is_doubtful(job.claim)
    bench.consumer.drop_buffer(at_rest=True)
    assert bench.consumer.is_doubtful(job.claim)
    bench.finish(job)
    after = bench.take()
    assert not bench.consumer.is_doubtful(job.claim)
    assert not bench.consumer.is_doubtful(after.claim)


def test_the_buffer_is_given_back(bench: Bench) -> None:
    job = buffer_some(bench)
    dropped = bench.consumer.drop_buffer()
    assert len(dropped) > 3
    assert [d.claim for d in dropped] == list(range(job.claim + 1, job.claim + 1 + len(dropped)))
    assert set(bench.wire.held) >= {job.claim, *(d.claim for d in dropped)}
    assert bench.page.get(BUFFERED) == 0
    bench.finish(job)
    assert bench.take().claim > dropped[-1].claim  # the dropped jobs do not run here


def test_after_quiet_nothing_is_claimed_and_all_is_settled(bench: Bench) -> None:
    job = buffer_some(bench)
    dropped = bench.consumer.drop_buffer(quiet=True)
    asked = len(bench.wire.requests)
    bench.finish(job)
    assert bench.consumer.next() is None
    assert job.id in bench.wire.recorded
    assert [request.want for request in bench.wire.requests[asked:]] == [0]
    assert set(bench.wire.held) == {d.claim for d in dropped}
    assert bench.consumer.next() is None  # repeated


# -- alone, and asked to retire ----------------------------------------------------------------------------------------


def test_a_suspect_runs_alone(background: Any) -> None:
    """A suspect waits until no other job runs, and no other job starts beside it."""
    bench = Bench(slots=3)
    bench.wire.alone.add("j2")
    bench.put(*ids(5))
    first, second = bench.take(), bench.take()
    suspect = background(bench.take)
    bench.finish(first)
    eventually(lambda: bench.wire.requests and not suspect)
    bench.finish(second)
    assert eventually(lambda: suspect)[0].id == "j2"
    behind = background(bench.take)
    bench.consumer.wake()
    bench.consumer.settle()
    assert not behind
    bench.finish(suspect[0])
    assert eventually(lambda: behind)[0].id == "j3"
    assert bench.take().id == "j4"


def test_suspects_one_after_the_other(background: Any) -> None:
    bench = Bench(slots=2)
    bench.wire.alone.update({"j0", "j1"})
    bench.put(*ids(3))
    first = bench.take()
    second = background(bench.take)
    assert not second
    bench.finish(first)
    assert eventually(lambda: second)[0].id == "j1"
    third = background(bench.take)
    assert not third
    bench.consumer.let_go(second[0].claim, 0)  # given back, or recorded by RQ's own finish
    assert eventually(lambda: third)[0].id == "j2"


def test_with_one_slot_a_suspect_does_not_wait(bench: Bench) -> None:
    bench.wire.alone.update(ids(3))
    bench.put(*ids(3))
    assert bench.run(3) == ids(3)


def test_the_consumer_asks_once_to_retire() -> None:
    """The consumer asks after its maximum of jobs, and continues until it is told to end."""
    bench = Bench(max_jobs=5)
    bench.put(*ids(20))
    bench.run(4)
    assert "retire" not in bench.calls
    bench.run(1)
    assert bench.calls.count("retire") == 1
    bench.run(15)
    assert bench.calls.count("retire") == 1


# -- hunger --------------------------------------------------------------------------------------------------------


def test_a_consumer_that_is_out_of_work_says_so_once_and_waits_to_be_woken(bench: Bench, background: Any) -> None:
    """A consumer that is out of work says so once, sends nothing more, and asks again when it is woken."""
    took = background(bench.take)
    eventually(lambda: bench.calls == ["out of work"])
    assert bench.page.get(OUT_OF_WORK) == 1
    asked = len(bench.wire.requests)
    assert not took
    bench.put("late")
    assert len(bench.wire.requests) == asked
    bench.consumer.wake()
    assert eventually(lambda: took)[0].id == "late"
    assert bench.page.get(OUT_OF_WORK) == 0


def test_a_consumer_without_work_leaves(bench: Bench, background: Any) -> None:
    left = background(bench.consumer.next)
    eventually(lambda: bench.calls == ["out of work"])
    assert bench.consumer.drop_buffer(quiet=True) == []
    assert eventually(lambda: left) == [None]


def test_outcomes_are_settled_before_the_consumer_waits_for_work(bench: Bench, background: Any) -> None:
    bench.put("only")
    bench.finish(bench.take())
    left = background(bench.consumer.next)
    eventually(lambda: bench.wire.recorded == ["only"])
    eventually(lambda: bench.page.at_rest)
    bench.consumer.drop_buffer(quiet=True)
    assert eventually(lambda: left) == [None]


# -- what a kill would leave ---------------------------------------------------------------------------------------


def test_the_journal_holds_what_is_not_settled(bench: Bench) -> None:
    bench.put(*ids(2))
    job = bench.take()
    bench.finish(job)
    assert [o.claim for o in bench.page.journal.read()] == [job.claim]
    assert bench.page.get(UNSETTLED) == 1
    assert bench.page.running() == []
    bench.consumer.settle()
    assert list(bench.page.journal.read()) == []
    assert bench.wire.recorded == [job.id]


def test_a_result_larger_than_the_page_is_settled_at_once(bench: Bench) -> None:
    bench.put("big", "next")
    bench.finish(bench.take(), payload=b"x" * 200_000)
    assert bench.wire.recorded == ["big"]
    assert bench.page.running() == []
    assert bench.run(1) == ["next"]


def test_a_big_result_with_dependents_stays_with_its_slot(bench: Bench) -> None:
    """Only its slot knows that the job ran: a supervisor that stood in for this child would otherwise have it run
    again."""
    bench.wire.has_dependents.add("big")
    bench.put("big", "next")
    job = bench.take()
    assert bench.finish(job, payload=b"x" * 200_000)
    assert [running.claim for running in bench.page.running()] == [job.claim]
    bench.consumer.let_go(job.claim, 0)
    assert bench.page.running() == []
    assert bench.run(1) == ["next"]


def test_a_big_result_waits_for_the_store(bench: Bench) -> None:
    bench.put("big")
    job = bench.take()
    bench.wire.fails.extend(["send", "reconnect", "reconcile", "receive"])
    bench.finish(job, payload=b"x" * 200_000)
    assert bench.wire.recorded == ["big"]
    assert not bench.wire.fails


# -- failures ------------------------------------------------------------------------------------------------------


def test_a_new_connection_begins_with_reconcile(bench: Bench) -> None:
    bench.put("a")
    bench.take()
    assert bench.wire.known == [[]]


@pytest.mark.parametrize("step", ["send", "receive"])
@pytest.mark.parametrize("others", [[], ["reconnect"], ["reconcile", "reconnect"]])
def test_a_broken_wire_loses_nothing(bench: Bench, step: str, others: list[str]) -> None:
    """Outcomes in flight are sent again under their tokens; a lost claim comes back by RECONCILE and runs once."""
    bench.put(*ids(200))
    ran = bench.run(60)
    bench.wire.fails.extend([step, *others])
    ran += bench.run(140)
    assert not bench.wire.fails
    bench.leave()
    assert sorted(ran) == sorted(ids(200))
    assert sorted(bench.wire.recorded) == sorted(ids(200))
    assert bench.wire.held == {}
    assert list(bench.page.journal.read()) == []


def test_an_outage_of_hours_loses_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After thousands of failed attempts, here without their pauses, the consumer continues."""
    monkeypatch.setattr(own_random, "uniform", lambda _least, _most: 0.0)
    bench.put(*ids(300))
    ran = bench.run(60)
    bench.wire.fails.extend(["send", *["reconnect"] * 10_000])
    ran += bench.run(240)
    assert not bench.wire.fails
    bench.leave()
    assert sorted(bench.wire.recorded) == sorted(ran) == sorted(ids(300))


def test_repeated_failures_lose_nothing(bench: Bench) -> None:
    bench.put(*ids(300))
    ran = []
    for _ in range(15):
        ran += bench.run(20)
        bench.wire.fails.append("receive" if len(ran) % 40 else "send")
    bench.wire.fails.clear()
    bench.leave()
    assert sorted(ran) == sorted(ids(300))
    assert sorted(bench.wire.recorded) == sorted(ids(300))


def test_reconcile_sends_jobs_of_slots_of_the_buffer_and_finished_ones() -> None:
    """A job that a slot runs while another mends the wire is sent too: none of these jobs may be given back."""
    bench = Bench(slots=2)
    bench.put(*ids(100))
    running = bench.take()  # the job of the other slot
    bench.run(20)
    finished = bench.take()
    bench.consumer.settle()
    bench.finish(finished)
    bench.wire.fails.append("send")
    bench.consumer.settle()
    assert not bench.wire.fails
    held = sorted(bench.wire.held)
    assert held[0] == running.claim
    assert finished.claim in held
    assert len(held) > 2  # jobs in the buffer
    while len(bench.wire.known) == 1:
        bench.take()
    assert bench.wire.known[-1] == held
    bench.finish(running)
    bench.leave()
    assert {running.id, finished.id} <= set(bench.wire.recorded)


def test_a_slot_finishes_while_another_waits_for_the_reply(background: Any) -> None:
    """One of two slots waits for the reply, the other finishes its job: neither waits for Redis."""
    bench = Bench(slots=2)
    bench.put("a")
    job = bench.take()
    bench.wire.hold.clear()
    other = background(bench.consumer.next)
    eventually(lambda: len(bench.wire.requests) >= 2)
    bench.finish(job)  # this returns although the wire is busy
    assert bench.page.running() == []
    bench.put("b")
    bench.wire.hold.set()
    bench.consumer.wake()
    eventually(lambda: "a" in bench.wire.recorded)
    bench.consumer.wake()
    assert eventually(lambda: other)[0].id == "b"


@pytest.mark.parametrize("when", ["cycle", "reconcile"])
def test_a_fenced_child_ends_at_once(bench: Bench, when: str) -> None:
    """A child whose owner name was struck off ends at once."""
    bench.put(*ids(500))
    if when == "cycle":
        bench.take()
    bench.wire.fenced = True
    with pytest.raises(SystemExit):
        bench.run(500)
    assert bench.calls[-1] == "fenced"


def test_a_lost_outcome_is_only_a_warning(bench: Bench) -> None:
    bench.put("a", "b")
    job = bench.take()
    bench.wire.held.pop(job.claim)  # a rescue came first
    bench.finish(job)
    bench.run(1)
    bench.leave()
    assert bench.wire.recorded == ["b"]


@pytest.mark.parametrize("revoked", [True, False])
def test_an_outcome_that_the_supervisor_settled_is_no_warning(
    bench: Bench, caplog: pytest.LogCaptureFixture, revoked: bool
) -> None:
    """Outcomes that were recorded from the journal while a job kept the GIL give no warning; any other missing token
    does."""
    bench.put(*ids(2))
    first = bench.take()
    bench.finish(first)
    bench.consumer.settle()
    second = bench.take()
    bench.finish(second)
    bench.wire.held.pop(second.claim)
    if revoked:
        bench.page.revoke()
        bench.consumer.drop_buffer(at_rest=True)
        bench.page.set(CAME_BACK, bench.page.get(REVOKED))
    bench.consumer.settle()
    assert ("no longer ours" in caplog.text) is not revoked
    assert bench.page.get(DONE) == 2


def test_dependents_are_finished_by_a_slot(bench: Bench) -> None:
    """CYCLE does not record such an outcome: it comes back as work for a slot, and counts as unsettled until that is
    done."""
    bench.wire.has_dependents.add("a")
    bench.put("a", "b")
    bench.finish(bench.take())
    bench.consumer.settle()
    work = bench.consumer.next()
    while isinstance(work, Claimed):
        bench.finish(work)
        work = bench.consumer.next()
    assert isinstance(work, JobOutcome)
    assert work.id == "a"
    assert [o.id for o in bench.page.journal.read() if o.id == "a"]
    bench.wire.held.pop(work.claim)  # as RQ's finish does
    bench.consumer.let_go(work.claim, 0)
    bench.leave()
    assert bench.page.get(UNSETTLED) == 0


def test_a_job_for_rqs_own_finish_stays_in_the_journal_until_that_is_done(bench: Bench) -> None:
    """Whatever else is settled meanwhile; and every reconcile knows it: else it would be given back."""

    def do_another() -> bool:
        bench.run(1)
        bench.consumer.settle()
        return "a" in {outcome.id for outcome in bench.page.journal.read()}

    bench.wire.has_dependents.add("a")
    bench.put("a", *ids(4))
    bench.finish(bench.take())
    running = bench.take()
    bench.consumer.settle()
    bench.finish(running)  # it waits for a slot
    bench.consumer.settle()
    assert "a" in {outcome.id for outcome in bench.page.journal.read()}
    work = bench.consumer.next()
    assert isinstance(work, JobOutcome)  # a slot is at it, others go on
    assert do_another()
    assert do_another()
    assert bench.page.get(UNSETTLED) == 1
    bench.consumer.reconcile()
    assert work.claim in bench.wire.known[-1]
    bench.wire.held.pop(work.claim)  # as RQ's finish does
    bench.consumer.let_go(work.claim, 0)
    assert bench.page.get(UNSETTLED) == 0
    assert not do_another()


def test_reconcile_while_a_job_runs(bench: Bench) -> None:
    job = buffer_some(bench)
    bench.consumer.settle()
    bench.wire.held[999] = "forgotten"
    held = set(bench.wire.held)
    bench.consumer.reconcile()
    assert bench.wire.known[-1] == sorted(held - {999})
    assert bench.wire.queue[0] == "forgotten"
    assert job.claim in bench.wire.known[-1]


# -- the usage that goes along ---------------------------------------------------------------------------------------


def spend(bench: Bench, task: str = "t") -> None:
    meter = bench.usage.meter()
    assert meter is not None
    meter.begin()
    meter.end(task, 0.001, False)


def tasks_sent(bench: Bench) -> list[str]:
    return [usage[0].task for usage in bench.wire.usage if usage]


def test_usage_goes_with_the_outcome(bench: Bench) -> None:
    bench.put("a")
    job = bench.take()
    requests = len(bench.wire.requests)
    spend(bench)
    bench.finish(job)
    bench.leave()
    assert tasks_sent(bench) == ["t"]
    assert [r.settled for r in bench.wire.requests[requests:]] == [[job.claim]]


def test_usage_of_a_job_that_rq_finished_goes_before_the_child_leaves(bench: Bench) -> None:
    bench.put("a")
    job = bench.take()
    bench.consumer.settle()  # the look ahead found the queue empty
    bench.consumer.drop_buffer(quiet=True)
    spend(bench)
    bench.wire.held.pop(job.claim)
    bench.consumer.let_go(job.claim, 0)
    assert bench.consumer.next() is None
    assert tasks_sent(bench) == ["t"]
    assert bench.wire.requests[-1].want == 0


def test_usage_of_a_job_that_rq_finished_does_not_wait_for_the_next(
    bench: Bench, background: Callable[[Callable[[], Any]], list[Any]]
) -> None:
    bench.put("a")
    job = bench.take()
    bench.consumer.settle()
    spend(bench)
    bench.wire.held.pop(job.claim)
    bench.consumer.let_go(job.claim, 0)
    background(bench.consumer.next)
    eventually(lambda: tasks_sent(bench))
    bench.consumer.drop_buffer(quiet=True)


@pytest.mark.parametrize("step", ["send", "receive"])
def test_usage_is_sent_once_also_when_the_wire_breaks(bench: Bench, step: str) -> None:
    bench.put("a", "b")
    job = bench.take()
    spend(bench, "lost?")
    bench.wire.fails.append(step)
    bench.finish(job)
    bench.run(1)
    bench.leave()
    assert sorted(bench.wire.recorded) == ["a", "b"]
    assert tasks_sent(bench) == ([] if step == "send" else ["lost?"])


def test_a_lost_request_holds_back_neither_the_usage_nor_the_child(bench: Bench) -> None:
    bench.put("a")
    bench.run(1)
    bench.consumer.settle()
    spend(bench)
    bench.wire.fails.append("send")
    bench.leave()
    assert not bench.usage.pending


@pytest.mark.parametrize("slots", [1, 3])
def test_a_quiet_consumer_without_work_leaves_during_an_outage(
    slots: int, background: Callable[[Callable[[], Any]], list[Any]]
) -> None:
    bench = Bench(slots)
    bench.wire.fails.extend(["reconnect"] * 10_000)
    results = [background(bench.consumer.next) for _ in range(slots)]
    eventually(lambda: bench.consumer.mending and len(bench.wire.fails) < 9_998)
    bench.consumer.drop_buffer(quiet=True)
    eventually(lambda: results == [[None]] * slots)


def test_a_quiet_consumer_with_outcomes_waits_for_the_store(bench: Bench) -> None:
    bench.put("a")
    assert bench.run(1) == ["a"]
    bench.wire.fails.extend(["send"] + ["reconnect"] * 3)
    bench.leave()
    assert bench.wire.recorded == ["a"]
