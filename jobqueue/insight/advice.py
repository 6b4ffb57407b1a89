"""Judge how a task should be run: threads or processes, how many, why, and what would change that.

`jobq advise`, which reads what workers recorded, and `jobq compare`, which measures, use the same judgement. It needs
no store and no terminal. The reason for each threshold stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from jobqueue.insight.profile import LONG_S, NEEDED, NEEDED_LONG, Machine, Profile, enough
from jobqueue.words import count, duration

Kind = Literal["waits", "takes turns", "computes", "mixed", "grows memory", "tiny", "unknown"]
Mode = Literal["thread", "process"]

# Seconds of CPU time that the queue itself costs per job, in producer, store and worker: see docs/decisions.md.
QUEUE_S = 0.0002
# Python threads get at most 1/share jobs done in the time of one. Below 0.25 that is more than four, in the memory of
# one process. Above, processes with threads do more, by as much as there are cores. Above 0.7 threads hardly help: 1.5.
WAITS, COMPUTES = 0.25, 0.7
# Share of time waited inside the task's own process from which more threads are not recommended; factor by which runs
# side by side take longer if they only take turns; share of time in which the task was seen to keep the GIL.
INSIDE, SLOWER, HELD = 0.3, 2.0, 0.2
# MB (2^20 bytes) of growth per run that count as a leak: about 100,000 bytes. In a task without a leak, allocators and
# page tables grow by less; at this rate a process that may take 1 GB is full after 10,000 jobs, often within a day.
GROWS_MB = 0.09
LOST = 0.1  # share of its time that a task waited for the GIL or a core, from which it is mentioned
# Threads; more are not recommended without a measurement: they wait for the GIL, for sockets or for the other side.
MOST = 64
BASE_MB = 40.0  # memory of a worker's process before it runs anything
NOTABLE_MB = 100.0  # memory of all workers together at their peaks, from which it is mentioned
SPARE = 0.5  # share of the machine's memory that a worker may use


@dataclass(frozen=True, slots=True)
class Advice:
    """How to run a task. workers: the number of threads or processes; threads: those in each process."""

    task: str
    kind: Kind
    mode: Mode | None
    workers: int
    reason: str
    would_change: str
    threads: int = 1
    max_memory_mb: int = 0  # for --max-memory; 0: not needed


def judge(profile: Profile, machine: Machine) -> Advice:
    """Return the kind of the task and how to run it on this machine. Never raises; with too few runs the kind is
    "unknown"."""
    if unknown := _unknown(profile):
        return unknown
    if profile.gil_wait and profile.gil_wait >= LOST:
        # Where it ran, a module had turned the GIL on again, whatever this Python has.
        machine = replace(machine, gil=True)
    if profile.wall_s_p50 < QUEUE_S:
        return _tiny(profile)
    if profile.memory_growth_mb is not None and profile.memory_growth_mb >= GROWS_MB:
        return _grows(profile, machine, profile.memory_growth_mb)
    if profile.cpu_share < WAITS:
        return _waits(profile, machine)
    if profile.cpu_share > COMPUTES:
        return _computes(profile, machine)
    return _mixed(profile, machine)


# -- the kinds -----------------------------------------------------------------------------------------------------


def _unknown(p: Profile) -> Advice | None:
    change = f"{NEEDED} runs that succeed, or {NEEDED_LONG} that take {duration(LONG_S)} together, would tell."
    if p.runs and p.errors >= p.runs:
        reason = f"Every one of its {count(p.runs, 'run')} failed: what a failure costs says nothing about the work."
        return Advice(p.task, "unknown", None, 0, reason, change)
    if not enough(p.runs, p.wall_s_mean):
        return Advice(p.task, "unknown", None, 0, f"Only {count(p.runs, 'run')} so far: too few to tell.", change)
    return None


def _tiny(p: Profile) -> Advice:
    times = QUEUE_S / max(p.wall_s_p50, 1e-7)
    reason = (
        f"The queue costs more than the job: half of its runs take less than {duration(p.wall_s_p50)}, the queue "
        f"takes about {duration(QUEUE_S)} per job, {times:.0f} times as much; call it directly, or give a job a batch."
    )
    change = (
        f"A batch that takes {duration(20 * QUEUE_S)} or more would be judged by what it does, waiting or computing."
    )
    return Advice(p.task, "tiny", "process", 1, reason, change)


def _grows(p: Profile, machine: Machine, growth: float) -> Advice:
    busy = min(max(p.cpu_share, 1 / 8), 1.0)  # a task that waits gets more processes than cores, at most 8 per core
    workers = _that_fit(p, machine, max(1, round(machine.cores / busy)))
    limit = max(100, int(SPARE * machine.memory_mb / workers))
    reason = (
        f"A run leaves {_memory(growth)} behind (mean of {count(p.runs, 'run')}): a process can be replaced when it "
        f"grew to {limit} MB, after about {max(1.0, (limit - BASE_MB) / growth):,.0f} jobs, threads cannot."
    )
    change = "Without the leak it would be judged by its CPU share, " + _share(p) + "."
    return Advice(p.task, "grows memory", "process", workers, reason, change, max_memory_mb=limit)


def _waits(p: Profile, machine: Machine) -> Advice:
    """Judge a task that waits: for the outside, where more threads help, or for its own process, where they do not."""
    if machine.gil and (p.held or 0.0) >= HELD:
        return _takes_turns(p, machine, f"{p.held:.0%} of it in C code that keeps the GIL, so threads would take turns")
    if (p.lock_wait or 0.0) >= INSIDE:
        if p.slower is None:
            return _waits_inside(p)
        if p.slower >= SLOWER:
            why = (
                f"beside {p.company or 0:.0f} others a run takes {p.slower:.1f} times as long, {p.lock_wait:.0%} of it "
            )
            return _takes_turns(p, machine, f"{why}for a lock, a pool or the GIL in its own process")
    workers = _threads(p, machine)
    reason = f"It waits: {_share(p)}{_lost(p)}; {workers} threads wait at once in the memory of one process"
    reason += f"{_at_once(p, workers, machine)}."
    change = f"Above {WAITS:.0%} of CPU time threads would begin to wait for {'the GIL' if machine.gil else 'a core'}."
    return Advice(p.task, "waits", "thread", workers, reason, f"{change}{_not_seen(p)}")


def _takes_turns(p: Profile, machine: Machine, why: str) -> Advice:
    busy = max(p.cpu_share, 1 / 8)  # more processes than cores, at most 8 per core
    workers = _that_fit(p, machine, max(2, round(machine.cores / busy)))
    reason = f"It waits, but not side by side in one process: {_share(p)}, {why}; processes do not share it."
    change = "If what it waits for is shared by processes too (a lock file, one connection), nothing makes it faster."
    return Advice(p.task, "takes turns", "process", workers, reason, change)


def _waits_inside(p: Profile) -> Advice:
    reason = (
        f"It waits, {p.lock_wait:.0%} of its time for something inside its process: a lock or a pool, where processes "
        "would be right, or threads of its own, where threads would. The record cannot tell which."
    )
    return Advice(p.task, "unknown", None, 0, reason, f"{_compare(p)} measures both.")


def _not_seen(p: Profile) -> str:
    """Return what the record cannot show of a task that waits, and the command that can."""
    unseen = []
    if (p.company or 0.0) < 1 or p.lock_wait is None:
        unseen.append("whether several can wait in one process (no lock, no C code that keeps the GIL)")
    if p.memory_growth_mb is None:
        unseen.append("what memory a run keeps")
    return f" Its record does not show {' nor '.join(unseen)}: {_compare(p)} does." if unseen else ""


def _compare(p: Profile) -> str:
    module, _, function = p.task.rpartition(".")
    name = function if module == "jobqueue.tasks" else f"{module}:{function}"
    return f"`jobq compare {name} VALUE...`"


def _at_once(p: Profile, workers: int, machine: Machine) -> str:
    """Return what so many workers take when all are at their peaks; "" when that is little."""
    together = workers * (p.memory_peak_mb or 0.0)
    if together < NOTABLE_MB:
        return ""
    said = f", {_memory(together)} when all are at their peaks ({_memory(p.memory_peak_mb or 0.0)} each)"
    if workers < _threads(replace(p, memory_peak_mb=None), machine):
        said += f"; more would not fit into {SPARE:.0%} of {_memory(machine.memory_mb)}"
    return said


def _computes(p: Profile, machine: Machine) -> Advice:
    mode: Mode = "process" if machine.gil else "thread"
    # a job with threads of its own needs more than one core
    workers = max(1, round(machine.cores / max(1.0, p.cpu_share)))
    if mode == "process":
        workers = _that_fit(p, machine, workers)
    what = "processes do not share a GIL" if machine.gil else "this Python has no GIL, so threads use all cores"
    reason = f"It computes: {_share(p)}{_lost(p)}; {what}, and more than one per core only take turns."
    change = (
        f"Below {COMPUTES:.0%} of CPU time, or on a Python without the GIL, threads would do."
        if machine.gil
        else "With the GIL, processes would be right."
    )
    return Advice(p.task, "computes", mode, workers, reason, change)


def _mixed(p: Profile, machine: Machine) -> Advice:
    change = f"Below {WAITS:.0%} of CPU time threads alone would do, above {COMPUTES:.0%} one job per process."
    each = max(2, round(1 / p.cpu_share))
    reason = f"It waits and computes: {_share(p)}{_lost(p)}; "
    if not machine.gil:
        workers = min(each * machine.cores, threads_that_fit(p.memory_peak_mb, machine))
        reason += f"{each} threads keep a core busy{_at_once(p, workers, machine)}."
        return Advice(p.task, "mixed", "thread", workers, reason, change)
    each = min(each, threads_that_fit(p.memory_peak_mb, machine))
    workers = _that_fit(p, machine, machine.cores, each)
    reason += f"{each} threads keep one core busy, and a process per core uses them all"
    reason += f"{_at_once(p, workers * each, machine)}."
    return Advice(p.task, "mixed", "process", workers, reason, change, threads=each)


def _threads(p: Profile, machine: Machine) -> int:
    """Return how many threads keep all cores busy. (With the GIL one process uses one core; the rest is reserve for the
    kernel's part of the waiting, and for peaks.)"""
    wanted = max(2, min(MOST, round(machine.cores / max(p.cpu_share, 1e-6))))
    return min(wanted, threads_that_fit(p.memory_peak_mb, machine))


def threads_that_fit(peak_mb: float | None, machine: Machine) -> int:
    """Return how many threads in one process fit into memory when all are at their peaks."""
    room = SPARE * machine.memory_mb - BASE_MB
    return max(1, min(MOST, int(room / max(peak_mb or 0.0, 1e-6))))


def _that_fit(p: Profile, machine: Machine, workers: int, threads: int = 1) -> int:
    """Return the number of processes, with so many threads in each, reduced to what fits into memory."""
    each = BASE_MB + threads * (p.memory_peak_mb or 0.0)
    return max(1, min(workers, MOST, int(SPARE * machine.memory_mb / each)))


# -- figures in words ----------------------------------------------------------------------------------------------


def _share(p: Profile) -> str:
    times = f"{duration(p.cpu_s_mean)} of CPU in {duration(p.alone_s)}"
    failed = f", {p.errors:,} of them failed" if 10 * p.errors >= p.runs else ""
    return f"{p.cpu_share:.0%} CPU ({times}, mean of {count(p.runs, 'run')}{failed})"


def _lost(p: Profile) -> str:
    named = ((p.gil_wait, "the GIL"), (p.core_wait, "a core"))
    waits = [f"{share:.0%} waited for {what}" for share, what in named if share and share >= LOST]
    return f", beside others {duration(p.wall_s_mean)}, of which {' and '.join(waits)}" if waits else ""


def _memory(mb: float) -> str:
    return f"{mb:.1f} MB" if mb < 10 else f"{mb:,.0f} MB"
