"""The buffer of claimed jobs, by itself."""

from __future__ import annotations

from typing import Any

from jobqueue.protocol.claims import Claimed, Features
from jobqueue.store.connection import Address
from jobqueue.workers.child.buffer import Buffer
from jobqueue.workers.child.prefetch import MOST_PER_CYCLE
from jobqueue.workers.shared.journal import BUFFERED, OUT_OF_WORK, SharedPage, make_file
from jobqueue.workers.shared.settings import Settings


class Bench:
    """A buffer, its page, and the calls that it has made."""

    def __init__(self, slots: int = 2, **fields: Any) -> None:
        settings = Settings(
            Address(url="redis://127.0.0.1:1/0"), "w", fields.pop("queues", ("a",)), children=1, slots=slots, **fields
        )
        self.page = SharedPage(make_file(1, slots), 0, slots)
        self.said: list[str] = []
        self.buffer = Buffer(
            settings, self.page, lambda: self.said.append("out of work"), lambda: self.said.append("retire")
        )

    def arrive(self, *jobs: Claimed, asked: int = 9) -> Buffer:
        self.buffer.asking(asked)
        self.buffer.arrived(jobs)
        return self.buffer


def job(claim: int, alone: bool = False, queue: str = "a") -> Claimed:
    return Claimed(f"j{claim}", claim, queue, b"", None, None, None, 0, Features(alone=alone))


def taken(buffer: Buffer) -> int | None:
    found = buffer.take()
    return found and found.claim


def test_jobs_are_handed_out_in_order_and_counted_on_the_page() -> None:
    bench = Bench()
    buffer = bench.arrive(job(1), job(2))
    assert bench.page.get(BUFFERED) == 2
    assert [taken(buffer) for _ in range(3)] == [1, 2, None]
    assert bench.page.get(BUFFERED) == 0
    assert buffer.in_hand == {1, 2}
    buffer.ended(1)
    assert buffer.in_hand == {2}


def test_a_job_that_runs_alone_waits_for_running_jobs_and_later_jobs_for_it() -> None:
    buffer = Bench().arrive(job(1), job(2, alone=True), job(3))
    assert [taken(buffer), taken(buffer)] == [1, None]
    assert buffer.ended(1)  # a waiting slot is woken
    assert [taken(buffer), taken(buffer)] == [2, None]
    assert buffer.ended(2)
    assert taken(buffer) == 3
    assert not buffer.ended(3)


def test_with_one_slot_a_job_that_runs_alone_does_not_wait() -> None:
    buffer = Bench(slots=1).arrive(job(1, alone=True), job(2, alone=True))
    assert [taken(buffer), taken(buffer)] == [1, 2]


def test_dropped_jobs_are_not_handed_out() -> None:
    bench = Bench()
    buffer = bench.arrive(job(1), job(2), job(3))
    buffer.take()
    assert [dropped.claim for dropped in buffer.drop(doubt=False)] == [2, 3]
    assert taken(buffer) is None
    assert bench.page.get(BUFFERED) == 0
    assert buffer.doubtful == set()


def test_after_a_drop_with_doubt_a_job_that_a_slot_holds_is_doubtful_until_it_ends() -> None:
    buffer = Bench().arrive(job(1))
    buffer.take()
    buffer.drop(doubt=True)
    assert buffer.doubtful == {1}
    buffer.ended(1)
    assert buffer.doubtful == set()


def test_a_quiet_buffer_hands_out_no_job_and_asks_for_none() -> None:
    buffer = Bench().arrive(job(1))
    buffer.quiet = True
    assert (taken(buffer), buffer.want(idle=2), buffer.may_claim) == (None, 0, False)


def test_empty_queues_are_reported_once() -> None:
    bench = Bench()
    bench.arrive()
    bench.arrive()
    assert bench.said == ["out of work"]
    assert bench.page.get(OUT_OF_WORK) == 1
    bench.arrive(job(1))
    assert bench.page.get(OUT_OF_WORK) == 0
    bench.arrive(asked=0)  # no job was asked for, so an empty reply does not mean an empty queue
    assert bench.page.get(OUT_OF_WORK) == 0


def test_the_buffer_asks_once_to_retire() -> None:
    bench = Bench(max_jobs=2)
    buffer = bench.arrive(*map(job, range(1, 5)))
    buffer.take()
    assert bench.said == []
    for _ in range(3):
        buffer.take()
    assert bench.said == ["retire"]


def test_without_a_limit_the_buffer_never_asks_to_retire() -> None:
    bench = Bench()
    buffer = bench.arrive(*map(job, range(1, 5)))
    while buffer.take():
        pass
    assert bench.said == []


def test_the_number_of_jobs_that_a_request_asks_for() -> None:
    """The buffer asks for one job per waiting slot and for those that may wait in it, within the limits of a
    request."""
    bench = Bench()
    assert bench.buffer.want(idle=0) == bench.buffer.prefetch.ahead == 2
    assert bench.buffer.want(idle=2) == 4
    assert Bench(slots=100).buffer.want(idle=100) == MOST_PER_CYCLE
    bench.arrive(job(1))
    bench.buffer.most_more = 2
    assert bench.buffer.want(idle=2) == 1
    assert not bench.buffer.may_claim  # a job waits here


def test_a_strategy_that_changes_the_order_with_each_job_claims_one_at_a_time() -> None:
    buffer = Bench(queues=("a", "b", "c"), dequeue_strategy="round_robin").buffer
    assert buffer.want(idle=2) == 1
    buffer.arrived([job(1, queue="a")])
    assert buffer.order.queues == ("b", "c", "a")
    buffer.drop(doubt=False)
    assert buffer.order.queues == ("a", "b", "c")
