"""Build the report's part about one task: what was measured, what is advised, the verdict in one sentence."""

from __future__ import annotations

from typing import Any

from jobqueue.compare.choice import Choice, choose
from jobqueue.compare.figures import LOOP, MIXED, MODES, POOLS, rounded, shape
from jobqueue.compare.noise import in_words
from jobqueue.compare.plan import Cell
from jobqueue.compare.reason import doubts, noisy, reason
from jobqueue.compare.subject import SHOWN, Subject
from jobqueue.compare.wording import consumers, listed
from jobqueue.insight.profile import Machine
from jobqueue.words import plural


def as_json(subject: Subject, machine: Machine) -> dict[str, Any]:
    """Return the report's part about one task, as docs/compare.md describes it."""
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
    """Return one sentence about the rows that were not measured for want of time, and one about those with fewer
    repetitions."""
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
    noise = f" Not certain: {in_words(subject.others, machine.cores)}." if noisy(subject, machine) else ""
    what = consumers(choice.row) if choice.row.mode == MIXED else f"{plural(choice.mode)}, {choice.row.workers} of them"
    return f"{task}: {what}: {said}.{noise}"
