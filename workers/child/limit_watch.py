"""Interrupt jobs and callbacks that are past their limit or are to be stopped, and write off the threads of those that
do not react.

    at the deadline, or as the supervisor asks      raise in the job
    1 s later (SOFT)                                end the processes that it has started: it may wait for one of them
    2 s later (HARD), among several slots           write off its thread: a fresh slot takes its place, and records how
                                                    the job ended. With one slot the supervisor kills the process
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from jobqueue.clock import monotonic
from jobqueue.errors import LimitIgnored, StoppedOnRequest
from jobqueue.protocol.claims import Claimed
from jobqueue.protocol.outcomes import RAISED
from jobqueue.workers.child.slot import Slot
from jobqueue.workers.running.limits import (
    CallbackStopped,
    Interrupted,
    Stopped,
    time_limit_error,
)
from jobqueue.workers.running.runner import Ending
from jobqueue.workers.shared.endings import (
    FAILURE,
    HANDLER,
    HARD,
    SUBJECTS,
    SUCCESS,
    THREAD_WRITTEN_OFF,
    encode_text,
)

log = logging.getLogger(__name__)

SOFT = 1.0  # seconds in which an interrupted job may itself end the processes that it started


class LimitWatch:
    """Enforces the deadlines of the slots. Only the child watchdog uses it, apart from ``replacing``."""

    def __init__(
        self,
        slots: list[Slot],
        make_slot: Callable[[int], Slot],
        start_slot: Callable[[Slot], object],
        on_written_off: Callable[[], object],
    ) -> None:
        """slots: a slot that is written off is replaced in this list."""
        self._slots = slots
        self._make_slot = make_slot
        self._start_slot = start_slot
        self._on_written_off = on_written_off
        self.replacing = threading.Lock()  # held while a slot is written off and its replacement is not in the list yet
        self._fired: dict[int, float] = {}  # target → when it was interrupted, by its limit or by a stop
        self._freed: set[int] = set()  # targets of which the processes that they started were ended
        self._stopping: set[int] = set()  # claims that are to be stopped

    # -- as the supervisor asks ----------------------------------------------------------------------------------------

    def stop(self, claim: int) -> None:
        """Stop the job of this claim, or the callback that runs after its end."""
        self._stopping.add(claim)
        for slot in self._slots:
            if slot.interrupt(claim, Stopped):
                self._fired[claim] = monotonic()
            else:
                self._stop_callback(slot, claim)

    def interrupt_all(self) -> None:
        """Interrupt each running job: the grace of a shutdown is over."""
        for slot in self._slots:
            if job := slot.job:
                slot.interrupt(job.claim, Interrupted)

    def _stop_callback(self, slot: Slot, claim: int) -> None:
        """Interrupt only the callback that runs after the job's end; the job's own end stays as it is. A stopped
        callback is not interrupted, and no callback twice, as a stop may be requested again."""
        target, finishing = slot.target, slot.finishing  # in this order: then the target was this job's
        if finishing is None or finishing.claim != claim or finishing.stopped or target >= 0 or target in self._fired:
            return
        if slot.what in (SUCCESS, FAILURE, HANDLER) and slot.interrupt(target, CallbackStopped):
            self._fired[target] = monotonic()

    # -- as time passes ------------------------------------------------------------------------------------------------

    def step(self, now: float) -> None:
        """Do the steps that are due."""
        self._fired = {target: at for target, at in self._fired.items() if any(s.target == target for s in self._slots)}
        for number, slot in enumerate(self._slots):
            target, deadline = slot.target, slot.deadline
            if not target:
                continue
            if target in self._fired:
                if now >= self._fired[target] + SOFT and target not in self._freed:
                    self._free(slot, target)
                if now < self._fired[target] + HARD:
                    continue
                if len(self._slots) > 1:
                    self._write_off(number, slot, target)
                elif slot.is_deaf and slot.interrupt(target, _limit_error(slot)):
                    self._fired[target] = now
            elif deadline and now >= deadline and slot.interrupt(target, _limit_error(slot)):
                self._fired[target] = now

    def due_at(self) -> list[float]:
        """Return the times at which there is something to do (monotonic seconds)."""
        deadlines = [s.deadline for s in self._slots if s.deadline and s.target not in self._fired]
        return deadlines + [at + (HARD if target in self._freed else SOFT) for target, at in self._fired.items()]

    def _free(self, slot: Slot, target: int) -> None:
        """End the programs that a job has started: it may wait for one of them, and only then gets the interrupt."""
        self._freed = {target, *self._freed & self._fired.keys()}
        slot.end_processes(slot.deadline - slot.limit if slot.deadline else slot.since)

    def _write_off(self, number: int, slot: Slot, target: int) -> None:
        """Replace a slot whose thread is stuck in C by a new one, and let that record how the job ended."""
        with self.replacing:
            job, finishing = slot.job, slot.finishing
            if not slot.write_off(target):
                return
            fresh = self._make_slot(number)
            if target < 0 and finishing is not None:
                was_stopped = finishing.claim in self._stopping and not finishing.stopped
                fresh.inherited = finishing.taken_over(CallbackStopped if was_stopped else _limit_error(slot))
            elif job is not None:
                fresh.inherit(slot, job, self._ending(job, slot.limit), job.claim in self._stopping)
            self._slots[number] = fresh
            self._start_slot(fresh)
        name = finishing.job_id if finishing else job.id if job else "?"
        fields = {"job": name, "outcome": "stopped" if target in self._stopping else "failed"}
        log.warning("job %s did not react: its thread is written off, and this process is replaced", name, extra=fields)
        self._on_written_off()

    def _ending(self, job: Claimed, limit: float) -> Ending:
        stopped = job.claim in self._stopping
        cause = StoppedOnRequest() if stopped else LimitIgnored(limit, THREAD_WRITTEN_OFF)
        return Ending(RAISED, encode_text(cause.recorded))


def _limit_error(slot: Slot) -> type[BaseException]:
    return time_limit_error(slot.limit, SUBJECTS[slot.what])
