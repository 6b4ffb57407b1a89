"""Measure, for the usage of tasks, what keeps a child's threads from running: the GIL, or the lack of a core."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from jobqueue.protocol.claims import Claimed
from jobqueue.workers.child.slot import Slot
from jobqueue.workers.running.procfs import queued_for_a_core
from jobqueue.workers.running.task_meter import Usage

LOOK_EVERY = 0.05  # seconds between two looks, with several slots, whether long jobs wait for the GIL
LONG_ENOUGH = 0.005  # seconds that a job has to have run before the first look at it
LATE = 0.02  # seconds; Python code releases the GIL after 5 ms, so a thread that wakes waits no longer


class CoreWatch:
    """Looks at long jobs. The child watchdog uses it, in its thread. running: the slots that run a job, with that
    job."""

    def __init__(self, usage: Usage) -> None:
        self._usage = usage
        self._next_look_at = 0.0  # monotonic seconds
        self._queued = 0.0  # seconds that this thread had waited for a core at the last look

    def step(self, now: float, running: Iterable[tuple[Slot, Claimed]]) -> None:
        """Look at the long jobs if a look is due."""
        if now >= self._next_look_at and self._usage.watches_gil:
            self._next_look_at = now + LOOK_EVERY
            self._usage.look(slot.meter for slot, _ in running if slot.meter and now - slot.since >= LONG_ENOUGH)

    @property
    def wants_to_look(self) -> bool:
        """Whether it looks at running jobs."""
        return self._usage.watches_gil

    @property
    def watches_lateness(self) -> bool:
        """Whether a late wake of the watchdog tells something about the job."""
        return self._usage.watches_lateness

    def note_lateness(self, late: float, running: Iterable[tuple[Slot, Claimed]]) -> None:
        """Note that the watchdog woke this many seconds late: a job holds the GIL, or this machine has no core for the
        thread. Only the first is a property of the job."""
        if late < LATE or not self._usage.watches_lateness:
            return
        queued = queued_for_a_core(threading.get_native_id()) or 0.0
        late, self._queued = late - (queued - self._queued), queued
        if late >= LATE:
            self._usage.late((slot.meter for slot, _ in running if slot.meter), late)
