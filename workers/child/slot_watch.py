"""Find slots that run no job and do not come back for one, because code of the user's that no limit covers holds their
threads. The garbage collector calls such code (``__del__``, a callback of a weak reference), and so does the log.

A slot that waits is woken and says that it has been here; one that does not within ``STUCK`` seconds, and ran no job
meanwhile, is stuck, also before its job's limit begins and after it has ended. It is looked at twice, as all of this
process may have stood still. A slot that waits for a store that is away is not stuck.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobqueue.workers.child.consumer import Consumer
from jobqueue.workers.child.slot import Slot

STUCK = 12.0  # seconds; longer than any of our connections waits for an answer
LOOK_EVERY = 3.0  # seconds
LOOK_AGAIN = 1.0  # seconds


class SlotWatch:
    """Asks the slots whether they react. The child watchdog uses it, in its thread."""

    def __init__(self, consumer: Consumer, slots: Sequence[Slot]) -> None:
        self._consumer = consumer
        self._slots = slots  # the watchdog's list, in which a slot may be replaced
        self._round = 0
        self._asked_at = 0.0  # monotonic seconds
        self._next_at = 0.0
        self._suspects: set[Slot] = set()
        self.is_curious = False  # a slot has not answered yet: look again, also while no ping arrives

    def step(self, now: float) -> set[Slot]:
        """Ask the slots, or see which have not answered for long; return those that are stuck."""
        if now < self._next_at:
            return set()
        self._next_at = now + LOOK_EVERY
        if self._asked_at:
            away = {slot for slot in self._slots if self._is_away(slot)}
            if now - self._asked_at < STUCK:
                self.is_curious = bool(away)
                return set()
            if away:
                self._next_at = now + LOOK_AGAIN
                before, self._suspects = self._suspects, away
                return before & away
        self._suspects = set()
        self._round, self._asked_at = self._consumer.look_up(), now
        self.is_curious = True
        return set()

    def due_in(self, now: float) -> float:
        """Return the seconds until the next step."""
        return self._next_at - now

    def _is_away(self, slot: Slot) -> bool:
        """Return whether no limit covers the slot's code, now or since the question: code under a limit is the limit
        watch's to end."""
        if slot.target or slot.finishing is not None or slot.waits or slot.since > self._asked_at:
            return False
        return not (self._consumer.mending or self._consumer.has_answered(slot.thread, self._round))
