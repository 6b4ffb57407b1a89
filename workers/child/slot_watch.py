"""Looks whether the slots of a child that run nothing are still at work for it: a thread of ours may be held by code of
the user's that the garbage collector runs there (``__del__``, a callback of a weak reference), outside of every limit.

A slot that waits is woken and says that it has been here; one that does not within ``STUCK`` seconds, and ran no job
meanwhile, is stuck. A slot that waits for a store that is away is not.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobqueue.workers.child.courier import Courier
from jobqueue.workers.child.slot import Slot
from jobqueue.workers.shared.journal import Region

STUCK = 12.0  # seconds; longer than any of our connections waits for an answer
LOOK_EVERY = 3.0  # seconds


class SlotWatch:
    """Used by the child's watchdog only."""

    def __init__(self, courier: Courier, slots: Sequence[Slot], region: Region) -> None:
        self._courier = courier
        self._slots = slots  # as the watchdog has them: replaced in place
        self._region = region
        self._round = 0
        self._asked_at = 0.0  # monotonic seconds
        self._next_at = 0.0

    def step(self, now: float) -> Slot | None:
        """Ask the slots, or look who has not answered for long; return one that is stuck."""
        if now < self._next_at:
            return None
        self._next_at = now + LOOK_EVERY
        if self._asked_at and now - self._asked_at >= STUCK:
            stuck = next((slot for slot in self._slots if self._is_stuck(slot)), None)
            if stuck is not None:
                return stuck
            self._asked_at = 0.0
        if not self._asked_at:
            self._round, self._asked_at = self._courier.look_up(), now
        return None

    def _is_stuck(self, slot: Slot) -> bool:
        runs = slot.job is not None or slot.finishing is not None or slot.since > self._asked_at
        if runs or self._courier.mending or self._courier.has_answered(slot.thread, self._round):
            return False
        return not any(running.slot == slot.number for running in self._region.running())
