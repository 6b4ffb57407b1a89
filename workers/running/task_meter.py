"""What jobs cost: measured around every run of a slot, added up in memory, written by the CYCLE that settles anyway.

    slot ── Meter: begin … end ──► Usage (one per child) ── take ──► CYCLE ──► rq:jobq:usage:TASK
    child watchdog ─ look ►┘

Nearly free: the wall time is the slot's own, the CPU clock is read where runs are long and at few of those that
are short, memory more rarely still. What each figure is:

CPU time   of the slot's thread. Where the process has one slot, of the whole process, so that threads and (finished)
           subprocesses of the job count as well; among several slots nobody can tell whose they are.
memory     only with one slot, and only on Linux: RSS before and after; the peak is VmHWM, which the kernel forgets at
           the begin of each measured run (/proc/self/clear_refs "5", Linux 4.0), not the lifetime maximum, which every
           later run would inherit. macOS has neither (ru_maxrss is a lifetime maximum).
core       what the thread waited for one, as the kernel counts it (schedstat): a busy machine is no property of a task.
GIL        with several slots and a GIL the child watchdog looks at long runs twenty times a second, see Usage.look.
           With one slot it wakes late when a job keeps the GIL in C code, computing or not, see Usage.late.

Not counted: runs that we ended (stop, shutdown), jobs that could not be decoded, threads that were written off. Lost:
what a child that is killed had not sent yet, and what was on its way when the connection broke: sent once, a figure is
never counted twice.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from jobqueue.insight.usage import bucket, bucket_field
from jobqueue.protocol.cycle import Spent
from jobqueue.workers.running.procfs import (
    Clocks,
    MemoryMeter,
    MemoryReading,
    process_clocks,
    queued_for_a_core,
    thread_clocks,
    waits_outside,
)

SHORT = 0.0005  # seconds; in a row of runs shorter than this, the 1st, 4th, 11th... and then one in SHORTS is measured
SHORTS = 127  # no power of two: jobs often come in turns
BEHIND = 13  # runs behind a long one that are measured whatever comes
BRIEF = 0.005  # seconds; in a row of runs shorter than this, one in BRIEFS of those measured is weighed as well
BRIEFS = 16
# Seconds that measuring a run takes, without and with /proc; behind long runs no more than a hundredth of the time may
# go into it, or short runs that a busy machine interrupts would all be measured.
PLAIN, CLOSE = 0.000005, 0.00006
BUDGET, MOST = 0.01, 0.002
GREW_KB = 64  # less is the noise of the kernel's counters
# Who waits for the GIL sleeps one switch interval at a time (CPython's take_gil), and a little longer, as sleepers do;
# so a run cannot have waited longer than its voluntary context switches allow. One long sleep is one of them.
TURN = 1.25 * sys.getswitchinterval()
MANY, HOLD_BACK = 8, 7  # see Usage.take
NAMES = 1000  # so many tasks have a list of their own in a child


class Measured(NamedTuple):
    """What is known of a run that was measured. Seconds."""

    first: bool  # of this task in this slot: it imports, connects and fills caches
    cpu: float
    others: float  # CPU time of others in the process, meanwhile
    turns: float  # how long it can have waited for the GIL, at most
    queued: float | None  # able to run, while other processes had the cores
    memory: MemoryReading | None
    looks: int  # of the child watchdog
    waiting: int  # how often it saw the run wait, but not for the GIL
    company: int  # how many others ran beside it, added up over the looks
    held: float  # how long the child watchdog could not run, as far as it tried


class Tally:
    """What the runs of one task add up to."""

    def __init__(self) -> None:
        self.errors = self.cpu_runs = self.looks = self.waiting = self.company = 0
        self.held = 0.0
        self.cpu = self.cpu_wall = self.others = self.turns = self.queued = self.queued_wall = 0.0
        self.first_cpu = self.first_wall = 0.0
        self.measured = self.grew = self.growth = 0
        self.peak: int | None = None
        self.walls: list[float] = []

    def measured_run(self, wall: float, found: Measured) -> None:
        if found.first:
            self.first_cpu += found.cpu
            self.first_wall += wall
            return
        self.cpu_runs += 1
        self.cpu += found.cpu
        self.others += found.others
        self.turns += found.turns
        self.cpu_wall += wall
        self.looks += found.looks
        self.waiting += found.waiting
        self.company += found.company
        self.held += found.held
        if found.queued is not None:
            self.queued += found.queued
            self.queued_wall += wall
        if found.memory is not None:
            self._weigh(found.memory)

    def _weigh(self, memory: MemoryReading) -> None:
        self.measured += 1
        self.growth += memory.growth
        self.grew += memory.growth >= GREW_KB
        if memory.peak is not None:
            self.peak = max(self.peak or 0, memory.peak)

    def sums(self, crowded: bool) -> tuple[str | int, ...]:
        """The fields of the record, each with what is to be added."""
        sums: list[str | int] = ["runs", len(self.walls), "wall_us", _us(sum(self.walls))]
        for at, count in Counter(map(bucket, self.walls)).items():
            sums += (bucket_field(at), count)
        if self.errors:
            sums += ("errors", self.errors)
        if self.cpu_runs:
            sums += ("cpu_runs", self.cpu_runs, "cpu_us", _us(self.cpu), "cpu_wall_us", _us(self.cpu_wall))
            if crowded:
                sums += ("others_us", _us(self.others), "turns_us", _us(self.turns))
                sums += ("looks", self.looks, "waiting", self.waiting, "company", self.company)
            elif self.held:
                sums += ("held_us", _us(self.held))
        if self.first_wall:
            sums += ("first_cpu_us", _us(self.first_cpu), "first_cpu_wall_us", _us(self.first_wall))
        if self.queued_wall:
            sums += ("queued_us", _us(self.queued), "queued_wall_us", _us(self.queued_wall))
        if self.measured:
            sums += ("measured", self.measured, "grew", self.grew, "growth_kb", self.growth)
        return tuple(sums)


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


class Usage:
    """What all slots of this child spent since the last CYCLE. Every method may be called from any thread."""

    def __init__(self, slots: int, on: bool = True) -> None:
        self._slots = slots
        self._on = on
        # Appending to either needs no lock, nor does taking from the front. Most runs are only a wall time.
        self.walls: dict[str, list[float]] = {}
        self.runs: deque[tuple[str, float, bool, Measured | None]] = deque()
        self._held_back = 0
        self._crowded = on and slots > 1

    def meter(self) -> Meter | None:
        """What one slot measures with; None: nobody wants to know."""
        return Meter(self, in_process=self._slots == 1) if self._on else None

    @property
    def watches_gil(self) -> bool:
        """Whether there is one to wait for: on a free-threaded Python a module that a job imports may turn it on."""
        return self._crowded and _has_gil()

    @property
    def watches_lateness(self) -> bool:
        """Whether the child watchdog's lateness says something: of one slot, with a GIL."""
        return self._on and self._slots == 1 and _has_gil()

    @property
    def pending(self) -> bool:
        return bool(self.runs) or any(list(self.walls.values()))  # a copy: slots add tasks meanwhile

    def look(self, meters: Iterable[Meter]) -> None:
        """(child watchdog) See what these slots do, which have been running a job for a while.

        We hold the GIL as we look, so a thread that is in the kernel for anything but a futex waits for the world; who
        waits on a futex waits for the GIL (or some lock), and gave it to us if it computes.
        """
        running = list(meters)
        for meter in running:
            waiting = waits_outside(meter.thread)
            if waiting is not None:
                meter.looks += 1
                meter.waiting += waiting
                meter.company += len(running) - 1

    def late(self, meters: Iterable[Meter], seconds: float) -> None:
        """(child watchdog, with one slot) It woke so much later than it wanted to, and not for want of a core: the job
        kept the GIL, by computing in C or by waiting there."""
        for meter in meters:
            meter.held += seconds

    def take(self, outcomes: int = 0) -> list[Spent]:
        """What there is to be recorded, added up. In a stream of short jobs, with many outcomes per CYCLE, only one in
        eight of them brings it along."""
        if outcomes >= MANY and self._held_back < HOLD_BACK:
            self._held_back += 1
            return []
        self._held_back = 0
        tallies: dict[str, Tally] = {}
        for task, walls in list(self.walls.items()):
            if count := len(walls):
                tallies[task] = Tally()
                tallies[task].walls = walls[:count]
                del walls[:count]  # more may have come meanwhile
        try:
            while True:
                task, wall, failed, found = self.runs.popleft()
                tally = tallies.get(task)
                if tally is None:
                    tally = tallies[task] = Tally()
                tally.walls.append(wall)
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
    """A name that can be sent: modules that answer to any name (PEP 562) let users make up the oddest ones."""
    return task[:200].encode("utf-8", "backslashreplace").decode()


class Meter:
    """Measures the runs of one slot, whose thread calls it. Of short runs most are only timed: that is the hot path."""

    def __init__(self, usage: Usage, in_process: bool) -> None:
        self._note = usage.runs.append
        self._walls = usage.walls
        self._clocks = process_clocks if in_process else thread_clocks
        self._scale = MemoryMeter() if in_process and sys.platform == "linux" else None
        self.thread = 0  # as the kernel names it
        self.looks = self.waiting = self.company = 0  # of the child watchdog at this run
        self.held = 0.0
        self._seen: set[str] = set()
        self._skip = 0  # runs that will only be timed
        self._long = self._heavy = 0  # so many more runs are measured, or weighed, behind a long one
        self._measured = 0
        self._stride = 1
        self._budget, self._earned_at = MOST, time.monotonic()
        self._before: Clocks | None = None
        self._closely = False  # what takes reading /proc is measured too
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

    def end(self, task: str, wall: float, failed: bool) -> None:
        """The run of ``task`` that began last is over. A run without an end is not counted."""
        if wall >= SHORT:
            self._long, self._skip = BEHIND, 0
            if wall >= BRIEF:
                self._heavy = BEHIND
        elif wall < 0:  # the wall clock was set
            wall = 0.0
        if self._before is not None:
            self._note((task, wall, failed, self._found(task, wall, self._before)))
        elif not failed and (walls := self._walls.get(task)) is not None:
            walls.append(wall)
        else:
            self._note_plain(task, wall, failed)

    def _note_plain(self, task: str, wall: float, failed: bool) -> None:
        if failed or len(self._walls) >= NAMES:
            self._note((task, wall, failed, None))
        else:
            self._walls.setdefault(task, []).append(wall)

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
        now = time.monotonic()
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
