"""From what was measured to what to do: the mode and the number for a task, and one sentence that says why.

The kinds and the thresholds are those of `jobq advise`; where the measurement disagrees with its rule, the measurement
wins and the sentence says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobqueue.compare.figures import LOOP, MIXED, MODES, POOLS, Row, rounded, shape
from jobqueue.compare.noise import in_words, is_noisy
from jobqueue.compare.plan import Cell
from jobqueue.compare.subject import SHOWN, Subject
from jobqueue.insight.advice import BASE_MB, NOTABLE_MB, QUEUE_S, SPARE, Advice, Machine, Mode, judge
from jobqueue.words import count, duration, plural

MODES_SET = frozenset(MODES)
EVEN = 1.15  # below this factor two rates are called the same
WORTH = 1.5  # processes have to be this much faster to be worth their memory for a task that waits
KNEE = 0.9  # the smallest number that reaches this part of the mode's best rate is enough
FILLED = 0.75  # the same, where it has a process for each core and computes
GROWS_ON = 0.75  # of the growth in workers: with that much more jobs/s at its widest a mode has not come to its end
PARALLEL = 1.25  # cores that threads have to use before it is said that the code gives the GIL away


@dataclass(frozen=True)
class Choice:
    """What was chosen: the row to use, the best row of the other mode, and what the rule said. A row of processes with
    threads in each has the mode "process"."""

    kind: str
    mode: Mode
    row: Row
    other: Row | None
    rule: Advice
    crowded: bool = False  # it computes, and no width had more than one core: the number is the rule's


def choose(subject: Subject, machine: Machine) -> Choice | None:
    """Choose a mode and a number from the measured rows; None when neither mode was measured.

    Where the machine had no core to spare, the rows say nothing about the number, and the rule's is taken.
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
    """The rows of a mode whose jobs fit into the memory when all are at their peaks; the narrowest if none does."""
    rows = subject.of(mode)
    return [row for row in rows if fits_memory(mode, row.workers, subject.peak_mb, machine)] or rows[:1]


def fits_memory(mode: str, workers: int, peak_mb: float | None, machine: Machine) -> bool:
    """Tell whether so many jobs at once, each at its peak, take no more than a worker may fill (MB of 10^6 bytes)."""
    processes = {"thread": 1, "ThreadPoolExecutor": 1, MIXED: shape(workers)[0]}.get(mode, workers)
    needed = processes * BASE_MB + workers * (peak_mb or 0.0)
    return workers == 1 or needed <= SPARE * machine.memory_mb


def _both_are_better(best: dict[str, Row], mode: str, rule: Advice) -> bool:
    """Processes with threads in each did more than either alone; or as much as more processes, for less memory."""
    if rule.kind in ("tiny", "grows memory"):
        return False
    worth = WORTH if rule.kind == "waits" and mode == "thread" else EVEN
    if best[MIXED].rate < worth * best["thread"].rate:
        return False
    saves = mode == "process" and best["process"].workers > shape(best[MIXED].workers)[0] and rule.kind != "computes"
    return best[MIXED].rate >= (KNEE if saves else EVEN) * best["process"].rate


def _knee(row: Row, rule: Advice, machine: Machine) -> float:
    """What computes needs no more processes than there are cores: what more of them seem to add is unrest."""
    fills = row.mode == "process" and rule.kind == "computes" and row.workers >= machine.cores
    return FILLED if fills else KNEE


def _rule(subject: Subject, machine: Machine) -> Advice:
    """What `jobq advise` would say, but for what is tiny: what the queue costs was measured here, and decides."""
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
    # As fast in threads, and so for less memory. Where the rule says processes, only if threads were seen to use more
    # than one core: a machine that is busy with something else makes all rates alike.
    shows = thread.cores >= PARALLEL or rule.kind in ("mixed", "unknown")
    return "thread" if shows else ruled


def _kind(subject: Subject, rule: Advice) -> str:
    """What the queue costs was measured here: more than the work may be tiny, also where the rule says otherwise."""
    price = subject.queue_price()
    if price and price["extra_ms"] > price["loop_ms"] and subject.profile().cpu_share > 0.3:
        return "tiny"
    return rule.kind


# -- the sentences -------------------------------------------------------------------------------------------------


def reason(subject: Subject, choice: Choice, machine: Machine) -> str:
    """Say with figures why; begins in lower case, ends without a stop."""
    if choice.kind == "tiny":
        return _tiny(subject)
    said = f"{rate(choice.row.rate)} jobs/s{_against_loop(subject, choice)}"
    if choice.row.mode == MIXED:
        said += _for_both(subject, choice)
    elif choice.mode == "thread":
        said += _for_threads(subject, choice, machine)
    else:
        said += _for_processes(subject, choice, machine)
    said += _at_once(subject, choice)
    if choice.crowded and max((row.workers for row in subject.of(choice.mode)), default=1) > 1:
        said += "; there was no core to spare, so measure again when this machine is quiet"
    elif _grows_on(subject, choice):
        said += f"; more than {choice.row.workers} were not measured"
    elif _passed_over_the_cores(subject, choice, machine):
        said += f"; {machine.cores}, one for each core, were not measured and may well do"
    return said + _disagreement(choice)


def _at_once(subject: Subject, choice: Choice) -> str:
    """What all jobs together take when each is at its peak, where that is worth a word."""
    together = choice.row.workers * (subject.peak_mb or 0.0)
    if together < NOTABLE_MB:
        return ""
    return f"; {choice.row.workers} at once take {mb(together)} at their peaks ({mb(subject.peak_mb)} each)"


def _for_both(subject: Subject, choice: Choice) -> str:
    threads = max(subject.of("thread"), key=lambda row: row.rate)
    processes = max(subject.of("process"), key=lambda row: row.rate)
    return (
        f", {choice.row.rate / threads.rate:.1f} times what {consumers(threads)} did ({rate(threads.rate)}); "
        f"{consumers(processes)} did {rate(processes.rate)}: it waits and computes "
        f"({subject.profile().cpu_share:.0%} CPU), a process for each core computes and its threads wait"
    )


def _noisy(subject: Subject, machine: Machine) -> bool:
    return is_noisy(subject.others, machine.cores)


def doubts(subject: Subject, choice: Choice, machine: Machine) -> list[str]:
    """Say why the conclusion is not certain; empty when it is. All but the noise stands in the reason too."""
    if choice.kind == "tiny":
        return []
    found = []
    if _noisy(subject, machine):
        found.append(in_words(subject.others, machine.cores))
    if choice.crowded:
        found.append("there was no core to spare")
    if _grows_on(subject, choice) or _passed_over_the_cores(subject, choice, machine):
        found.append("too few widths were measured")
    elif any(not subject.of(mode) for mode in MODES):
        found.append("only one of the two modes was measured")
    return found


def _grows_on(subject: Subject, choice: Choice) -> bool:
    """Nothing says that the widest one measured is wide enough: it was the only one, or did much more than the next."""
    rows = subject.of(choice.row.mode)
    if choice.row is not rows[-1] or choice.kind == "computes":
        return False
    return len(rows) == 1 or rows[-1].rate / rows[-2].rate > GROWS_ON * rows[-1].workers / rows[-2].workers


def _passed_over_the_cores(subject: Subject, choice: Choice, machine: Machine) -> bool:
    """It computes in more processes than there are cores, and nothing between was measured."""
    widths = [row.workers for row in subject.of(choice.mode) if machine.cores <= row.workers <= choice.row.workers]
    return choice.kind == "computes" and choice.mode == "process" and len(widths) == 1 and widths[0] > machine.cores > 1


def _tiny(subject: Subject) -> str:
    price = subject.queue_price()
    if price is None:
        return "the queue costs more than the job"
    times = rate(price["extra_ms"] / max(price["loop_ms"], 1e-6))
    return (
        f"the queue costs more than the job: {duration(price['extra_ms'] / 1000)} of queue for "
        f"{duration(price['loop_ms'] / 1000)} of work, "
        f"{times} times as much; call it directly, or give one job a whole batch"
    )


def _against_loop(subject: Subject, choice: Choice) -> str:
    if not subject.loop:
        return ""
    factor = choice.row.rate / subject.loop.rate
    return f", {factor:.1f} times the plain loop" if factor >= EVEN else ", no more than a plain loop"


def _for_threads(subject: Subject, choice: Choice, machine: Machine) -> str:
    other = choice.other
    if other is None:
        return ""
    factor = choice.row.rate / other.rate
    how = "as fast as" if 1 / EVEN < factor < EVEN else f"{factor:.1f} times as fast as"
    said = f", {how} {consumers(other)} ({rate(other.rate)})"
    if factor <= 1 / EVEN:
        said = f"; {consumers(other)} did {rate(other.rate)}"
    memory = subject.memory_per_worker()
    if "thread" in memory and "process" in memory:
        said += f", for {mb(memory['thread']['uss_mb'])} per added worker instead of {mb(memory['process']['uss_mb'])}"
    if choice.kind == "computes" and not machine.gil:
        said += "; this Python has no GIL"
    elif choice.kind == "computes" and choice.row.cores >= PARALLEL:
        said += "; its code gives the GIL away while it computes"
    return said


def _for_processes(subject: Subject, choice: Choice, machine: Machine) -> str:
    said = ""
    other = choice.other
    if other is not None:
        same = subject.ratio_at(choice.row.workers)
        threads = subject.at("thread", choice.row.workers)
        if threads is None or same is None or choice.row.workers == 1:
            said = f"; threads did {rate(other.rate)} at best"
        elif same < EVEN:
            said = f"; {consumers(threads)} did {rate(threads.rate)}"
        else:
            said = f", {same:.1f} times what {consumers(threads)} did ({rate(threads.rate)})"
    if choice.kind == "grows memory" and subject.grew_mb:
        return f"{said}; each job leaves {mb(subject.grew_mb)} behind, and only a process can be replaced alone"
    share = subject.profile().cpu_share
    if share <= 0.1:
        return said
    turns = "take turns at the GIL" if machine.gil else "got in each other's way, although this Python has no GIL"
    return f"{said}: it computes ({share:.0%} CPU), and threads {turns}"


def _disagreement(choice: Choice) -> str:
    if choice.rule.mode in (None, choice.mode) or choice.kind == "tiny":
        return ""
    return f". By its share of CPU time alone it would be {plural(choice.rule.mode)}; it was measured otherwise"


# -- the words -----------------------------------------------------------------------------------------------------


def consumers(row: Row) -> str:
    """4 threads, 1 process, 2 processes with 4 threads each"""
    if row.mode == MIXED:
        processes, threads = shape(row.workers)
        return f"{processes} processes with {threads} threads each"
    return count(row.workers, row.mode)


def listed(names: Sequence[str]) -> str:
    """threads; threads and processes; threads, processes and bare threads"""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def mb(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f} MB" if value >= 10 else f"{max(value, 0.0):.1f} MB"


# -- for programs --------------------------------------------------------------------------------------------------


def as_json(subject: Subject, machine: Machine) -> dict[str, Any]:
    """The report's part about one task, see docs/compare.md."""
    choice = None if subject.error else choose(subject, machine)
    if choice is None and not subject.error:
        subject.error = "There was no time to measure it in either mode: give it more with --seconds."
    rows = [row for mode in (LOOP, *MODES, MIXED, *POOLS) for row in subject.of(mode)]
    return {
        "task": subject.work.task,
        "values": list(subject.values[:SHOWN]),
        "values_given": len(subject.values),
        "kwargs": dict(subject.work.kwargs),
        "kind": choice.kind if choice else None,
        "profile": _profile(subject) if choice else None,
        "advice": _advice(subject, choice, machine) if choice else None,
        "verdict": _verdict(subject, choice, machine),
        "notes": [*_left_out(subject), *subject.notes],
        "error": subject.error,
        "runs": [row.as_json() for row in rows if not row.all_failed],
        "process_over_thread": subject.ratios() if choice else [],
        "memory_per_worker": subject.memory_per_worker() if choice else {},
        "queue_price": subject.queue_price() if choice else None,
    }


def _left_out(subject: Subject) -> list[str]:
    """One sentence for all rows that there was no time for, one for those that have fewer repetitions."""
    if subject.error:
        return []
    fewer = {cell for cell in subject.left_out if subject.at(*cell)}
    said = (("Not measured", subject.left_out - fewer), ("Repeated less often", fewer))
    return [f"{what} for want of time: {_rows(cells)}. --seconds gives more." for what, cells in said if cells]


def _rows(cells: set[Cell]) -> str:
    by_mode = {mode: sorted(c.workers for c in cells if c.mode == mode) for mode in MODES + POOLS}
    alike: dict[str, list[str]] = {}
    for mode, widths in by_mode.items():
        alike.setdefault(", ".join(map(str, widths)), []).append(NOUNS[mode])
    return "; ".join(f"{listed(modes)} at {widths}" for widths, modes in alike.items() if widths)


NOUNS = {
    "thread": "threads",
    "process": "processes",
    "ThreadPoolExecutor": "bare threads",
    "ProcessPoolExecutor": "bare processes",
}


def _profile(subject: Subject) -> dict[str, float]:
    cost = subject.cost
    share = subject.profile().cpu_share
    return {"wall_ms": rounded(1000 * cost.wall), "cpu_ms": rounded(1000 * cost.cpu), "cpu_share": round(share, 3)}


def _advice(subject: Subject, choice: Choice, machine: Machine) -> dict[str, Any]:
    said, why_not = reason(subject, choice, machine), doubts(subject, choice, machine)
    workers, threads = shape(choice.row.workers) if choice.row.mode == MIXED else (choice.row.workers, 1)
    return {
        "mode": choice.mode,
        "workers": workers,
        "threads": threads,
        "reason": f"{said[0].upper()}{said[1:]}.",
        "certain": not why_not,
        "doubts": why_not,
    }


def _verdict(subject: Subject, choice: Choice | None, machine: Machine) -> str:
    task = subject.work.task
    if choice is None:
        return f"{task}: not measured. {subject.error}"
    said = reason(subject, choice, machine)
    if choice.kind == "tiny":
        return f"{task}: {said}."
    noise = f" Not certain: {in_words(subject.others, machine.cores)}." if _noisy(subject, machine) else ""
    what = consumers(choice.row) if choice.row.mode == MIXED else f"{plural(choice.mode)}, {choice.row.workers} of them"
    return f"{task}: {what}: {said}.{noise}"
