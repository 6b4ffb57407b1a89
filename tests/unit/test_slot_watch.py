"""Which slots of a child count as stuck, and when."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from jobqueue.workers.child.slot_watch import LOOK_AGAIN, LOOK_EVERY, STUCK, SlotWatch

NOW = 1000.0
LATE = NOW + LOOK_EVERY + STUCK


class Consumer:
    mending = False

    def __init__(self) -> None:
        self.round = 0
        self.seen: dict[int, int] = {}

    def look_up(self) -> int:
        self.round += 1
        return self.round

    def has_answered(self, thread: int, number: int) -> bool:
        return self.seen.get(thread, 0) >= number


@dataclass(eq=False)
class Slot:
    thread: int = 1
    target: int = 0
    finishing: object = None
    waits: bool = False
    since: float = 0.0


def watch(consumer: Any, *slots: Any) -> SlotWatch:
    """Make a watch that has asked its slots at NOW."""
    made = SlotWatch(consumer, slots)
    assert made.step(NOW) == set()
    return made


def test_a_slot_that_does_not_answer_twice_is_stuck() -> None:
    """A slot that did not answer at two looks is stuck; one that answers is not."""
    consumer, stuck, well = Consumer(), Slot(1), Slot(2)
    made = watch(consumer, stuck, well)
    consumer.seen[2] = 1
    assert made.step(LATE) == set()
    assert made.is_curious
    assert made.step(LATE + LOOK_AGAIN) == {stuck}


def test_a_slot_of_a_process_that_held_still_is_not_stuck() -> None:
    consumer, slot = Consumer(), Slot()
    made = watch(consumer, slot)
    assert made.step(LATE) == set()
    consumer.seen[1] = 2
    assert made.step(LATE + LOOK_AGAIN) == set()
    assert made.step(LATE + LOOK_AGAIN + LOOK_EVERY) == set()
    assert not made.is_curious  # of the next round


@pytest.mark.parametrize("state", [{"target": 7}, {"finishing": "x"}, {"waits": True}, {"since": NOW + 1}])
def test_a_slot_that_runs_a_job_is_not_stuck(state: dict[str, Any]) -> None:
    made = watch(Consumer(), replace(Slot(), **state))
    assert [made.step(LATE), made.step(LATE + LOOK_AGAIN)] == [set(), set()]
    assert made._suspects == set()
