"""The outbox of a child: where each outcome is until it is recorded."""

from __future__ import annotations

import pytest
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import ResponseError

from jobqueue.protocol.outcomes import RETURNED, Ack, JobOutcome
from jobqueue.workers.child.outbox import Outbox
from jobqueue.workers.shared.journal import DONE, HALF, UNSETTLED, SharedPage, make_file

LARGE = HALF + 1  # bytes; more than the journal takes


@pytest.fixture
def page() -> SharedPage:
    return SharedPage(make_file(1, 1), 0, 1)


@pytest.fixture
def outbox(page: SharedPage) -> Outbox:
    return Outbox(page)


def outcome(claim: int, size: int = 0) -> JobOutcome:
    return JobOutcome(f"j{claim}", claim, "q", RETURNED, 500, b"x" * size, "", "", 0.0, 0.0)


def written(page: SharedPage) -> list[int]:
    return [found.claim for found in page.journal.read()]


def send(outbox: Outbox) -> list[int]:
    portion = outbox.portion()
    outbox.depart(portion)
    return [sent.claim for sent in portion]


def test_outcomes_go_from_finished_to_recorded(outbox: Outbox, page: SharedPage) -> None:
    assert outbox.add(outcome(1))
    assert outbox.add(outcome(2))
    assert (page.get(UNSETTLED), written(page), outbox.claims) == (1, [1, 2], [1, 2])
    assert send(outbox) == [1, 2]
    outbox.add(outcome(3))
    assert not outbox.is_settled
    outbox.acknowledged([Ack.RECORDED, Ack.RECORDED])
    assert (page.get(DONE), page.get(UNSETTLED), written(page)) == (2, 1, [3])
    assert send(outbox) == [3]
    outbox.acknowledged([Ack.RECORDED])
    assert (page.get(DONE), page.get(UNSETTLED), written(page), outbox.is_settled) == (3, 0, [], True)


def test_a_fenced_child_gives_up_outcomes_in_flight(
    outbox: Outbox, page: SharedPage, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.add(outcome(1))
    send(outbox)
    outbox.add(outcome(2))
    outbox.fenced()
    assert (written(page), outbox.claims, outbox.in_flight) == ([2], [2], [])
    assert "no longer ours" in caplog.text


def test_a_lost_request_is_sent_again_in_order(outbox: Outbox, page: SharedPage) -> None:
    outbox.add(outcome(1))
    send(outbox)
    outbox.add(outcome(2))
    outbox.came_back(Lost("cut"))
    assert sorted(written(page)) == [1, 2]
    assert send(outbox) == [1, 2]


def test_a_missing_token_is_warned_of_only_if_the_outcome_was_sent_once(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.add(outcome(1))
    send(outbox)
    outbox.came_back(Lost("cut"))
    send(outbox)
    outbox.acknowledged([Ack.LOST])
    assert "no longer ours" not in caplog.text
    outbox.add(outcome(2))
    send(outbox)
    outbox.acknowledged([Ack.LOST])
    assert "job j2 is no longer ours" in caplog.text


def test_an_outcome_with_dependents_goes_to_a_slot_and_stays_in_the_journal(outbox: Outbox, page: SharedPage) -> None:
    outbox.add(outcome(1))
    send(outbox)
    outbox.acknowledged([Ack.HAS_DEPENDENTS])
    assert outbox.for_rq == [outcome(1)]
    assert written(page) == [1]
    assert outbox.hand_over() == outcome(1)
    assert outbox.is_settled
    assert page.get(UNSETTLED) == 1
    outbox.let_go(1)
    assert (page.get(DONE), page.get(UNSETTLED)) == (1, 0)


@pytest.mark.parametrize(("ack", "left"), [(Ack.RECORDED, False), (Ack.HAS_DEPENDENTS, True)])
def test_an_outcome_too_large_for_the_journal_is_waited_for_by_its_slot(outbox: Outbox, ack: int, left: bool) -> None:
    large = outcome(1, LARGE)
    assert not outbox.add(large)
    outbox.hold(large)
    assert outbox.are_all_unwritten({1})
    send(outbox)
    assert outbox.is_on_its_way(large)
    outbox.acknowledged([ack])
    assert not outbox.is_on_its_way(large)
    assert outbox.release(large) is left
    assert outbox.for_rq == []


def test_a_refused_outcome_goes_to_rqs_finish_with_the_reason(outbox: Outbox, page: SharedPage) -> None:
    outbox.add(outcome(1))
    send(outbox)
    outbox.came_back(ResponseError("ERR too large"))
    assert outbox.for_rq == [outcome(1)]
    assert "too large" in outbox.why_refused(1)
    assert outbox.why_refused(1) == ""
    assert written(page) == [1]


def test_after_a_refusal_the_rest_stays_in_the_journal_once(outbox: Outbox, page: SharedPage) -> None:
    """An outcome that finishes during a request gets no second record: each takes room in the journal."""
    outbox.add(outcome(1))
    outbox.add(outcome(2))
    send(outbox)
    outbox.came_back(ResponseError("ERR no"))
    assert send(outbox) == [1]
    assert outbox.keeps_some
    outbox.add(outcome(3))
    outbox.acknowledged([Ack.RECORDED])
    assert sorted(written(page)) == [2, 3]
    assert outbox.claims == [2, 3]


def test_outcomes_that_finish_during_a_request_stand_in_the_journal_once(outbox: Outbox, page: SharedPage) -> None:
    outbox.add(outcome(1))
    send(outbox)
    outbox.add(outcome(2))
    outbox.acknowledged([Ack.RECORDED])
    assert written(page) == [2]
