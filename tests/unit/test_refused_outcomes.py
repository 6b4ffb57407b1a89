"""Find which outcome causes a refusal of the store, and which refusals no outcome causes."""

from __future__ import annotations

import pytest
from fake_children import Clock
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from jobqueue.protocol.outcomes import RETURNED, JobOutcome
from jobqueue.workers.shared.refusals import ENOUGH, FULL, LARGE, UNSAID, Refusals, never_taken, of_the_store


def outcome(claim: int, size: int = 10) -> JobOutcome:
    return JobOutcome(f"job{claim}", claim, "default", RETURNED, 500, b"x" * size, "", "", 0.0, 0.0)


def test_a_small_outcome_is_never_the_cause_of_a_lost_connection() -> None:
    refusals = Refusals()
    assert not any(refusals.refused([outcome(1)], Lost("gone")) for _ in range(100))
    assert not refusals


def test_a_large_outcome_is_the_cause_after_some_attempts_alone() -> None:
    refusals, large = Refusals(), outcome(1, LARGE)
    assert [refusals.refused([large], Lost("gone")) for _ in range(UNSAID)] == [False] * (UNSAID - 1) + [True]


def test_a_server_that_names_its_limit_is_believed() -> None:
    refusals, large = Refusals(), outcome(1, LARGE)
    refusals.largest = LARGE
    assert not any(refusals.refused([large], Lost("gone")) for _ in range(ENOUGH - 1))
    refusals.largest = LARGE - 1
    assert refusals.refused([large], Lost("gone"))


def test_outcomes_refused_together_are_sent_one_by_one() -> None:
    """Outcomes that were sent with a suspect are sent alone too, and later ones do not wait for it."""
    refusals = Refusals()
    together = [outcome(1), outcome(2, LARGE)]
    assert not refusals.refused(together, ResponseError("no"))
    later = outcome(3)
    assert refusals.portion([*together, later]) == [together[0]]
    refusals.passed([together[0]])
    assert refusals.portion([together[1], later]) == [together[1]]
    assert refusals.refused([together[1]], ResponseError("no"))
    assert not refusals


def test_a_suspect_waits_between_two_attempts() -> None:
    clock = Clock()
    refusals, large, later = Refusals(clock), outcome(1, LARGE), outcome(2)
    refusals.refused([large], Lost("gone"))
    assert refusals.portion([large, later]) == [later]
    assert refusals.portion([large]) == []
    clock.now += 0.06
    assert refusals.portion([large, later]) == [large]


def test_a_full_store_refuses_large_outcomes_only() -> None:
    """Small outcomes wait for room; a large one fails when that takes too long."""
    refusals = Refusals()
    assert not any(refusals.refused([outcome(1)], OutOfMemoryError("full")) for _ in range(100))
    asked = [refusals.refused([outcome(2, LARGE)], OutOfMemoryError("full")) for _ in range(FULL)]
    assert asked == [False] * (FULL - 1) + [True]


@pytest.mark.parametrize(
    ("error", "everybodys"),
    [
        (ReadOnlyError("You can't write against a read only replica."), True),
        (ResponseError("MISCONF Redis is configured to save RDB snapshots"), True),
        (ResponseError("NOREPLICAS Not enough good replicas to write."), True),
        (ResponseError("Protocol error: invalid bulk length"), False),
        (ResponseError("invalid expire time in 'expire' command"), False),
    ],
)
def test_errors_of_the_store_are_told_from_errors_of_an_outcome(error: ResponseError, everybodys: bool) -> None:
    assert of_the_store(error) is everybodys
    assert Refusals().refused([outcome(1)], error) is not everybodys
    assert never_taken(10, error, losses=0) is not everybodys
