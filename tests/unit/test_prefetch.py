"""How many jobs a child claims ahead."""

from __future__ import annotations

from jobqueue.workers.child.prefetch import AHEAD, LONG, MOST_PER_CYCLE, MOST_PER_SLOT, Prefetch


def made(slots: int = 1, *, gave: int = 0, seconds: float = 0.0) -> Prefetch:
    prefetch = Prefetch(slots)
    for _ in range(gave):
        prefetch.gave_all()
    if seconds:
        prefetch.ended(seconds)
    return prefetch


def test_the_number_doubles_while_the_queues_have_jobs() -> None:
    assert [made(gave=times).ahead for times in range(6)] == [1, 2, 4, 8, 16, 32]
    assert [made(gave=times).ahead for times in (8, 9, 50)] == [MOST_PER_SLOT] * 3
    assert made(3, gave=2).ahead == 12
    assert made(100, gave=9).ahead == 2 * MOST_PER_CYCLE


def test_the_number_is_limited_by_the_time_that_the_jobs_take() -> None:
    assert made(gave=9, seconds=AHEAD / 5).ahead == 5
    assert made(4, gave=9, seconds=AHEAD / 5).ahead == 20
    assert made(gave=9, seconds=1.5 * AHEAD).ahead == 0


def test_behind_a_long_job_nothing_is_claimed_and_the_number_starts_again() -> None:
    prefetch = made(gave=9, seconds=2 * LONG)
    assert prefetch.ahead == 0
    for _ in range(100):
        prefetch.ended(0.0001)
    assert prefetch.ahead == 1
    prefetch.gave_all()
    assert prefetch.ahead == 2


def test_after_jobs_were_given_back_nothing_is_claimed_ahead() -> None:
    prefetch = made(gave=9, seconds=0.0001)
    prefetch.jammed()
    assert prefetch.ahead == 0


def test_long_jobs_have_their_outcomes_sent_at_once() -> None:
    assert not made(seconds=0.001).settles_at_once
    assert made(seconds=0.01).settles_at_once
    assert not made(16, seconds=0.02).settles_at_once  # another slot soon sends it along
    assert made(16, seconds=2 * LONG).settles_at_once


def test_a_maximum_of_zero_claims_nothing_ahead() -> None:
    prefetch = made(gave=9)
    prefetch.most_ahead = 0
    assert prefetch.ahead == 0
