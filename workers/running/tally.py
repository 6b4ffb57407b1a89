"""Add up what the measured runs of one task cost."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from jobqueue.insight.usage import bucket, bucket_field, wait_bucket, wait_field
from jobqueue.workers.running.procfs import MemoryReading

GREW_KB = 64  # a smaller growth is within the error of the kernel's counters


class Measured(NamedTuple):
    """The figures of one measured run. Times are in seconds."""

    first: bool  # it is this task's first run in this slot, in which it imports, connects and fills caches
    cpu: float
    others: float  # CPU time of the process's other threads meanwhile
    turns: float  # for how long it can have waited for the GIL, at most
    queued: float | None  # for how long it could run and had no core; None: unknown
    memory: MemoryReading | None
    looks: int  # how often the child watchdog looked at it
    waiting: int  # how many of these looks found it waiting, but not for the GIL
    company: int  # the number of other jobs that ran at each look, added up
    held: float  # for how long the child watchdog could not run because the job held the GIL


class Tally:
    """The sums over the runs of one task."""

    def __init__(self) -> None:
        self.errors = self.cpu_runs = self.looks = self.waiting = self.company = 0
        self.held = 0.0
        self.cpu = self.cpu_wall = self.others = self.turns = self.queued = self.queued_wall = 0.0
        self.first_cpu = self.first_wall = 0.0
        self.measured = self.grew = self.growth = 0
        self.peak: int | None = None
        self.times: list[float | None] = []  # of each run two, as task_meter.py keeps them

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
        """Return the fields of the task's record in the store, each followed by what is to be added to it."""
        walls = [wall for wall in self.times[::2] if wall is not None]
        sums: list[str | int] = ["runs", len(walls), "wall_us", _us(sum(walls))]
        for at, count in Counter(map(bucket, walls)).items():
            sums += (bucket_field(at), count)
        if waits := [max(0.0, wait) for wait in self.times[1::2] if wait is not None]:
            sums += ("wait_us", _us(sum(waits)))
            for at, count in Counter(map(wait_bucket, waits)).items():
                sums += (wait_field(at), count)
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
