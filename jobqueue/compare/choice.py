"""Choose the mode and the number of workers for a task from what was measured.

The kinds and the thresholds are those of `jobq advise`; where the measurement contradicts its rule, the measurement
wins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jobqueue.compare.figures import MIXED, MODES, Row, shape
from jobqueue.compare.subject import Subject
from jobqueue.insight.advice import BASE_MB, QUEUE_S, SPARE, Advice, Mode, judge
from jobqueue.insight.profile import Machine

MODES_SET = frozenset(MODES)
EVEN = 1.15  # two rates that differ by less than this factor count as the same
WORTH = 1.5  # for a task that waits, processes are worth their memory if they are faster by this factor
KNEE = 0.9  # choose the smallest number that reaches this share of the mode's best rate
FILLED = 0.75  # the same share, for a task that computes and has a process for each core
GROWS_ON = 0.75  # a mode whose rate still grew by this share of the growth in workers may go on growing
PARALLEL = 1.25  # threads that keep more cores than this busy run code that releases the GIL


@dataclass(frozen=True)
class Choice:
    """The row to use, the best row of the other mode, and what the rule of `jobq advise` says. A row of processes with
    threads in each has the mode "process"."""

    kind: str
    mode: Mode
    row: Row
    other: Row | None
    rule: Advice
    crowded: bool = False  # the task computes and no row used more than one core: the number is the rule's


def choose(subject: Subject, machine: Machine) -> Choice | None:
    """Choose a mode and a number from the measured rows; None when neither mode was measured.

    Where the machine had no core to spare, the rows say nothing about the number, and the rule decides it.
    """
    rows = {mode: _that_fit(subject, mode, machine) for mode in (*MODES, MIXED)}
    best = {mode: max(found, key=lambda row: row.rate) for mode, found in rows.items() if found}
    if not MODES_SET & best.keys():
        return None
    rule = _rule(subject, machine)
    mode = _mode(best, rule, machine) if best.keys() >= MODES_SET else next(iter(best))
    if MIXED in best and best.keys() >= MODES_SET and _both_are_better(best, mode, rule):
        mode = MIXED
    enough = next(row for row in rows[mode] if row.rate >= _knee(row, rule, machine) * best[mode].rate)
    crowded = rule.kind == "computes" and mode == rule.mode and machine.cores > 1 and best[mode].cores < PARALLEL
    if crowded:
        enough = min(rows[mode], key=lambda row: abs(row.workers - rule.workers))
    other = best.get("process" if mode == "thread" else "thread")
    return Choice(_kind(subject, rule), "thread" if mode == "thread" else "process", enough, other, rule, crowded)


def _that_fit(subject: Subject, mode: str, machine: Machine) -> list[Row]:
    """Return the rows of a mode whose jobs fit into memory when all are at their peaks; the narrowest row if none
    does."""
    rows = subject.of(mode)
    return [row for row in rows if fits_memory(mode, row.workers, subject.peak_mb, machine)] or rows[:1]


def fits_memory(mode: str, workers: int, peak_mb: float | None, machine: Machine) -> bool:
    """Return whether so many jobs at once, each at its peak, take no more than a worker may use (MB of 10^6 bytes)."""
    processes = {"thread": 1, "ThreadPoolExecutor": 1, MIXED: shape(workers)[0]}.get(mode, workers)
    needed = processes * BASE_MB + workers * (peak_mb or 0.0)
    return workers == 1 or needed <= SPARE * machine.memory_mb


def _both_are_better(best: dict[str, Row], mode: str, rule: Advice) -> bool:
    """Return whether processes with threads in each are the best choice: faster than either alone, or as fast as more
    processes in less memory."""
    if rule.kind in ("tiny", "grows memory"):
        return False
    worth = WORTH if rule.kind == "waits" and mode == "thread" else EVEN
    if best[MIXED].rate < worth * best["thread"].rate:
        return False
    saves = mode == "process" and best["process"].workers > shape(best[MIXED].workers)[0] and rule.kind != "computes"
    return best[MIXED].rate >= (KNEE if saves else EVEN) * best["process"].rate


def _knee(row: Row, rule: Advice, machine: Machine) -> float:
    """Return the share of the best rate that is enough. A task that computes gains nothing from more processes than
    cores; what such rows seem to add is noise."""
    fills = row.mode == "process" and rule.kind == "computes" and row.workers >= machine.cores
    return FILLED if fills else KNEE


def _rule(subject: Subject, machine: Machine) -> Advice:
    """Return what `jobq advise` would say. For a tiny task, the queue's cost as measured here decides, and not the
    usual one."""
    profile, price = subject.profile(), subject.queue_price()
    rule = judge(profile, machine)
    if rule.kind == "tiny" and price and price["extra_ms"] <= price["loop_ms"]:
        rule = judge(replace(profile, wall_s_p50=max(profile.wall_s_p50, QUEUE_S)), machine)
    return rule


def _mode(best: dict[str, Row], rule: Advice, machine: Machine) -> str:
    thread, process = best["thread"], best["process"]
    ratio = process.rate / thread.rate
    ruled = rule.mode or ("thread" if ratio < EVEN else "process")
    if rule.kind in ("tiny", "grows memory") or max(thread.workers, process.workers) == 1:
        return ruled
    if rule.kind == "waits":
        return "process" if ratio >= WORTH else "thread"
    if ratio >= EVEN:
        return "process"
    # Threads were as fast, and take less memory. But where the rule says processes, choose threads only if they used
    # more than one core: on a machine that is busy with something else, all rates are alike.
    shows = thread.cores >= PARALLEL or rule.kind in ("mixed", "unknown")
    return "thread" if shows else ruled


def _kind(subject: Subject, rule: Advice) -> str:
    """Return the task's kind: tiny if the queue was measured to cost more than the work, else what the rule says."""
    price = subject.queue_price()
    if price and price["extra_ms"] > price["loop_ms"] and subject.profile().cpu_share > 0.3:
        return "tiny"
    return rule.kind
