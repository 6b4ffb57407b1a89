"""What happens to jobs that are past their limit or are to be stopped, without threads and without waiting."""

from __future__ import annotations

from typing import Any

import pytest

from jobqueue.protocol.claims import Claimed
from jobqueue.workers.child.limit_watch import SOFT, LimitWatch
from jobqueue.workers.running.limits import CallbackStopped, Interrupted, Stopped
from jobqueue.workers.shared.endings import HARD, JOB, SUCCESS, decode_text

NOW = 1000.0


class FakeSlot:
    """A slot that runs no code, and records what is done to it."""

    is_deaf = False

    def __init__(self, claim: int = 0, deadline: float = 0.0) -> None:
        self.target, self.deadline, self.limit, self.since, self.what = claim, deadline, 5.0, NOW - 5.0, JOB
        self.job = Claimed(f"j{claim}", claim, "q", b"", None, None, None, 0) if claim else None
        self.finishing: Any = None
        self.raised: list[type[BaseException]] = []
        self.freed: list[float] = []
        self.inherited: Any = None
        self.comes_back = False

    def interrupt(self, target: int, error: type[BaseException]) -> bool:
        if target != self.target or not target:
            return False
        self.raised.append(error)
        return True

    def end_processes(self, since: float) -> None:
        self.freed.append(since)

    def write_off(self, target: int) -> bool:
        return not self.comes_back

    def inherit(self, stuck: object, job: Claimed, ending: Any, stopped: bool) -> None:
        self.inherited = (stuck, job.id, decode_text(ending.payload), stopped)


class Bench:
    def __init__(self, *slots: FakeSlot) -> None:
        self.slots = list(slots)
        self.started: list[FakeSlot] = []
        self.said: list[str] = []
        self.watch = LimitWatch(
            self.slots,  # type: ignore[arg-type]
            lambda _number: FakeSlot(),  # type: ignore[arg-type, return-value]
            self.started.append,  # type: ignore[arg-type]
            lambda: self.said.append("written off"),
        )


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobqueue.workers.child.limit_watch.monotonic", lambda: NOW)


def test_a_job_is_interrupted_once_at_its_deadline() -> None:
    slot = FakeSlot(1, deadline=NOW)
    bench = Bench(slot)
    bench.watch.step(NOW - 0.1)
    assert slot.raised == []
    assert bench.watch.due_at() == [NOW]
    bench.watch.step(NOW)
    bench.watch.step(NOW + 0.1)
    assert [error.__name__ for error in slot.raised] == ["TimeLimitExceeded"]
    assert bench.watch.due_at() == [NOW + SOFT]


def test_a_job_that_does_not_react_loses_its_processes_and_then_its_thread() -> None:
    stuck, other = FakeSlot(1, deadline=NOW), FakeSlot()
    bench = Bench(stuck, other)
    for at in (0.0, SOFT, SOFT + 0.1):
        bench.watch.step(NOW + at)
    assert stuck.freed == [NOW - 5.0]  # what the job started since its start
    assert bench.watch.due_at() == [NOW + HARD]
    bench.watch.step(NOW + HARD)
    fresh = bench.slots[0]
    assert bench.started == [fresh]
    assert fresh is not stuck
    assert bench.slots[1] is other
    assert bench.said == ["written off"]
    assert fresh.inherited[:2] == (stuck, "j1")
    assert fresh.inherited[2].startswith("TimeLimitExceeded")


def test_a_job_that_ends_at_the_last_moment_keeps_its_slot() -> None:
    slot = FakeSlot(1, deadline=NOW)
    slot.comes_back = True
    bench = Bench(slot, FakeSlot())
    for at in (0.0, HARD):
        bench.watch.step(NOW + at)
    assert bench.slots[0] is slot
    assert bench.said == []


def test_the_only_slot_is_left_to_the_supervisor() -> None:
    """The interrupt is raised again only where code that prints exceptions may have swallowed it."""
    slot = FakeSlot(1, deadline=NOW)
    bench = Bench(slot)
    for at in (0.0, HARD):
        bench.watch.step(NOW + at)
    assert (len(slot.raised), bench.started) == (1, [])
    slot.is_deaf = True
    bench.watch.step(NOW + HARD)
    assert len(slot.raised) == 2


@pytest.mark.usefixtures("monotonic")
def test_a_stop_interrupts_only_its_job_and_is_recorded_as_a_stop() -> None:
    slot, other = FakeSlot(1), FakeSlot(2)
    bench = Bench(slot, other)
    bench.watch.stop(1)
    assert (slot.raised, other.raised) == ([Stopped], [])
    bench.watch.step(NOW + HARD)
    assert bench.slots[0].inherited[3]


@pytest.mark.usefixtures("monotonic")
def test_a_stop_interrupts_a_callback_once_and_never_a_stopped_callback() -> None:
    slot = FakeSlot(-4)
    slot.job, slot.what = None, SUCCESS
    slot.finishing = type("Finishing", (), {"claim": 1, "stopped": True})
    bench = Bench(slot)
    bench.watch.stop(1)
    assert slot.raised == []
    slot.finishing.stopped = False
    for _ in range(2):
        bench.watch.stop(1)
    assert slot.raised == [CallbackStopped]


def test_at_the_end_of_the_grace_all_jobs_are_interrupted() -> None:
    slots = FakeSlot(1), FakeSlot(), FakeSlot(3)
    Bench(*slots).watch.interrupt_all()
    assert [slot.raised for slot in slots] == [[Interrupted], [], [Interrupted]]
