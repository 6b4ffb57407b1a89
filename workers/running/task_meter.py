"""Measure what jobs cost: around each run of a slot, added up in memory, sent with the CYCLE that settles the jobs.

    slot ── Meter: begin … end ──► Usage (one per child) ── take ──► CYCLE ──► rq:jobq:usage:TASK
    child watchdog ─ look ►┘

This costs little: the slot has the wall time anyway, the CPU clock is read for long runs and for a few of the short
ones, memory for fewer still. The figures are:

CPU time   of the slot's thread. Where the process has one slot, of the whole process, so that threads and (ended)
           subprocesses of the job are included; with several slots it cannot be known which job they belong to.
memory     only with one slot, and only on Linux: RSS before and after the run, and VmHWM as the peak, which is reset
           when a measured run begins (/proc/self/clear_refs "5", Linux 4.0). Without the reset it would be the maximum
           since the process began, for every later run. macOS has only that (ru_maxrss).
wait       from when the job came to its queue (enqueued_at in its hash, which a retry or the end of a delay sets
           anew), by the clock of who put it there, to its start, by this machine's.
core       how long the thread could run and had no core, as the kernel counts it (schedstat): on a busy machine a task
           takes longer, which says nothing about the task.
GIL        with several slots and a GIL, the child watchdog looks at long runs twenty times a second, see Usage.look.
           With one slot, it wakes late while a job's C code holds the GIL, computing or waiting, see Usage.late.

Not counted: runs that we ended (stop, shutdown), jobs that could not be decoded, threads that were written off. Lost:
the figures that a killed child had not sent yet, and those that were being sent when the connection broke. They are
sent only once, so that none is counted twice.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable

from jobqueue.clock import monotonic
from jobqueue.protocol.cycle import Spent
from jobqueue.workers.running.failed_runs import FailedRuns
from jobqueue.workers.running.procfs import (
    Clocks,
    MemoryMeter,
    process_clocks,
    queued_for_a_core,
    thread_clocks,
    waits_outside,
)
from jobqueue.workers.running.tally import Measured, Tally

SHORT = 0.0005  # seconds; in a row of runs shorter than this, the 1st, 4th, 11th... and then one in SHORTS is measured
SHORTS = 127  # no power of two, as different jobs often alternate
BEHIND = 13  # how many runs after a long one are measured, whatever they take
BRIEF = 0.005  # seconds; in a row of runs shorter than this, one in BRIEFS of those measured is measured with /proc too
BRIEFS = 16
# Seconds that measuring a run takes, without and with /proc. After long runs, at most a hundredth of the time (BUDGET)
# is used for this: else all short runs would be measured on a busy machine, where some are interrupted and take long.
PLAIN, CLOSE = 0.000005, 0.00006
BUDGET, MOST = 0.01, 0.002
# A thread that waits for the GIL sleeps one switch interval at a time (CPython's take_gil), or slightly longer. So
# a run has waited for it at most this long for each of its voluntary context switches; any other sleep is one too.
TURN = 1.25 * sys.getswitchinterval()
MANY, HOLD_BACK = 8, 7  # see Usage.take
NAMES = 1000  # how many tasks have a list of their own in a child


class Usage:
    """What the jobs of all slots of this child cost since the last CYCLE. Any thread may call any method."""

    def __init__(self, slots: int, on: bool = True) -> None:
        self._slots = slots
        self._on = on
        # Appending to these or removing from their front needs no lock. Of most runs only two times are
        # kept, one behind the other: how long it took, how long the job had waited (None: unknown).
        self.times: dict[str, list[float | None]] = {}
        self.runs: deque[tuple[str, float, bool, float | None, Measured | None]] = deque()
        self.failed = FailedRuns(on)
        self._held_back = 0
        self._crowded = on and slots > 1

    def meter(self) -> Meter | None:
        """Make the meter of one slot; None: measuring is switched off."""
        return Meter(self, in_process=self._slots == 1) if self._on else None

    @property
    def watches_gil(self) -> bool:
        """Whether threads may wait for a GIL here. On a free-threaded Python, importing a module may switch it on."""
        return self._crowded and _has_gil()

    @property
    def watches_lateness(self) -> bool:
        """Whether a late child watchdog means that the job holds the GIL: with one slot, and a GIL."""
        return self._on and self._slots == 1 and _has_gil()

    @property
    def pending(self) -> bool:
        return (
            bool(self.runs) or self.failed.pending or any(list(self.times.values()))
        )  # of a copy, as slots may add tasks meanwhile

    def look(self, meters: Iterable[Meter]) -> None:
        """Note what the threads of slots do whose jobs run for a while already. The child watchdog calls this.

        It holds the GIL meanwhile. So a slot's thread that waits in the kernel for anything but a futex waits for
        something outside of Python (network, disk, sleep). One that waits for a futex waits for the GIL or a lock.
        """
        running = list(meters)
        for meter in running:
            waiting = waits_outside(meter.thread)
            if waiting is not None:
                meter.looks += 1
                meter.waiting += waiting
                meter.company += len(running) - 1

    def late(self, meters: Iterable[Meter], seconds: float) -> None:
        """Note that the child watchdog woke so many seconds late, not counting time without a core: the job's C code
        held the GIL. The child watchdog of a child with one slot calls this."""
        for meter in meters:
            meter.held += seconds

    def take(self, outcomes: int = 0) -> list[Spent]:
        """Remove and return what is to be recorded, added up by task. Where each CYCLE has many ``outcomes`` (short
        jobs), return it with every eighth of them only."""
        if outcomes >= MANY and self._held_back < HOLD_BACK:
            self._held_back += 1
            return []
        self._held_back = 0
        tallies: dict[str, Tally] = {}
        for task, times in list(self.times.items()):
            if count := len(times):
                tallies[task] = Tally()
                tallies[task].times = times[:count]
                del times[:count]  # slots may have added more meanwhile
        try:
            while True:
                task, wall, failed, waited, found = self.runs.popleft()
                tally = tallies.get(task)
                if tally is None:
                    tally = tallies[task] = Tally()
                tally.times += (wall, waited)
                if failed:
                    tally.errors += 1
                if found is not None:
                    tally.measured_run(wall, found)
        except IndexError:
            crowded = self.watches_gil
            return [Spent(safe(task), self._slots, t.peak, t.sums(crowded)) for task, t in tallies.items()]


def _has_gil() -> bool:
    enabled: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)  # Python 3.13 has it
    return enabled()


def safe(task: str) -> str:
    """Return a task's name cut short and encoded so that it can be sent: a module with ``__getattr__`` (PEP 562) lets
    users enqueue functions of any name."""
    return task[:200].encode("utf-8", "backslashreplace").decode()


class Meter:
    """Measure the runs of one slot, in its thread. Of most short runs only wall time and wait are noted: this is
    part of the hot path."""

    def __init__(self, usage: Usage, in_process: bool) -> None:
        self._note = usage.runs.append
        self._times = usage.times
        self._clocks = process_clocks if in_process else thread_clocks
        self._scale = MemoryMeter() if in_process and sys.platform == "linux" else None
        self.thread = 0  # as the kernel names it
        self.looks = self.waiting = self.company = 0  # noted by the child watchdog during this run, see Measured
        self.held = 0.0
        self._seen: set[str] = set()
        self._skip = 0  # how many of the next runs are not measured
        self._long = self._heavy = 0  # how many more runs are measured, and measured with /proc, after a long one
        self._measured = 0
        self._stride = 1
        self._budget, self._earned_at = MOST, monotonic()
        self._before: Clocks | None = None
        self._closely = False  # this run is measured with /proc too
        self._queued: float | None = None

    def bind(self) -> None:
        """Called once by the thread that will run the jobs."""
        self.thread = threading.get_native_id()

    def begin(self) -> None:
        if self._skip:
            self._skip -= 1
            self._before = None
        else:
            self._measure()

    def end(self, task: str, wall: float, failed: bool, waited: float | None = None) -> None:
        """Note the run of ``task`` that has ended. ``waited``: seconds before it; None: unknown. A run for which this
        is not called is not counted."""
        if wall >= SHORT:
            self._long, self._skip = BEHIND, 0
            if wall >= BRIEF:
                self._heavy = BEHIND
        elif wall < 0:  # the wall clock was set
            wall = 0.0
        if self._before is not None:
            self._note((task, wall, failed, waited, self._found(task, wall, self._before)))
        elif not failed and (times := self._times.get(task)) is not None:
            times += (wall, waited)
        else:
            self._note_plain(task, wall, failed, waited)

    def _note_plain(self, task: str, wall: float, failed: bool, waited: float | None) -> None:
        if failed or len(self._times) >= NAMES:
            self._note((task, wall, failed, waited, None))
        else:
            self._times.setdefault(task, []).extend((wall, waited))

    def _measure(self) -> None:
        if not self._long:
            self._stride = min(SHORTS, 2 * self._stride + 1)
            self._skip = self._stride - 1
        else:
            self._long -= 1
            if not self._afford(PLAIN):
                self._before = None
                return
        self._closely = self._measured % BRIEFS == 0 or (self._heavy > 0 and self._afford(CLOSE))
        self._heavy = max(0, self._heavy - 1)
        self._measured += 1
        if self._closely:
            self._queued = queued_for_a_core(self.thread)
            if self._scale:
                self._scale.begin()
        self.looks = self.waiting = self.company = 0
        self.held = 0.0
        self._before = self._clocks()

    def _afford(self, price: float) -> bool:
        now = monotonic()
        self._budget = min(MOST, self._budget + BUDGET * (now - self._earned_at))
        self._earned_at = now
        if self._budget < price:
            return False
        self._budget -= price
        return True

    def _found(self, task: str, wall: float, before: Clocks) -> Measured:
        first = task not in self._seen
        self._seen.add(task)
        now = self._clocks()
        own = now.own - before.own
        others = max(0.0, now.process - before.process - own)
        turns = wall if now.switches is None else (now.switches - (before.switches or 0)) * TURN
        memory = queued = None
        if self._closely:
            memory = self._scale.end() if self._scale else None
            late = queued_for_a_core(self.thread)
            queued = None if late is None or self._queued is None else late - self._queued
        return Measured(first, own, others, turns, queued, memory, self.looks, self.waiting, self.company, self.held)
