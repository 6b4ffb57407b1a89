"""Report what a run of chaos found: a table or plain lines and a sentence, or one JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rich import box
from rich.table import Table

from jobqueue.chaos.count import ChaosCounts, Spread
from jobqueue.chaos.plan import ChaosOptions
from jobqueue.chaos.run import StormResult
from jobqueue.harness.colours import STYLES
from jobqueue.words import count

NAMES = {"child": "children", "supervisor": "supervisors", "fork_server": "fork servers", "store": "the store"}


def is_kept(outcomes: Sequence[StormResult]) -> bool:
    return all((forgiven(o) if is_forgiven(o) else o.tally).is_kept for o in outcomes)


def is_forgiven(outcome: StormResult) -> bool:
    """Return whether a broken count is explained by a kill of the store.

    A killed store may lose a job's own note of its run (its AOF waits while a sync is slow, 2 s at most), while the
    worker, which still knew the outcome, recorded that afterwards.
    """
    return bool(outcome.kills.get("store"))


def forgiven(outcome: StormResult) -> ChaosCounts:
    return replace(outcome.tally, finished_without_running=0)


# -- for programs --------------------------------------------------------------------------------------------------


def as_json(outcomes: Sequence[StormResult], options: ChaosOptions) -> dict[str, Any]:
    return {
        "runs": [_run(outcome, options) for outcome in outcomes],
        "kept": is_kept(outcomes),
        "verdict": conclusion(outcomes),
        "seed": options.seed,
    }


def _run(o: StormResult, options: ChaosOptions) -> dict[str, Any]:
    return {
        "mode": o.mode,
        "queues": options.queues,
        "on_crash": options.on_crash,
        "seconds": o.seconds,
        **asdict(o.tally),
        "kills": sum(o.kills.values()),
        "kills_wanted": o.wanted,
        "kills_by_kind": dict(o.kills),
        "worker_exits": o.worker_exits,
        "recovery_ms": asdict(o.recovery_ms),
        "supervisor_recovery_s": asdict(o.supervisor_recovery_s),
    }


# -- for people ----------------------------------------------------------------------------------------------------


def rows(o: StormResult) -> list[tuple[str, str, bool]]:
    """Return (what, figure, whether it breaks the promise) for each line of the report."""
    t = o.tally
    facts: list[tuple[str, int, bool]] = [
        ("jobs submitted", t.submitted, False),
        ("finished", t.finished, False),
        ("failed", t.failed, False),
        ("lost", t.lost, True),
        ("stuck", t.stuck, True),
        ("outcome recorded twice", t.outcomes_recorded_twice, True),
        ("finished without running", t.finished_without_running, not is_forgiven(o)),
        ("ended, yet still queued", t.ended_and_still_queued, True),
        ("run more than once", t.ran_more_than_once, False),
        ("  of these to the end", t.completed_more_than_once, False),
        ("workers that left by themselves", o.worker_exits, False),
    ]
    made = [(name, f"{n:,}", bad and n > 0) for name, n, bad in facts]
    made.append(("kills", f"{sum(o.kills.values()):,} of {o.wanted:,}", False))
    made += [(f"  {NAMES[kind]}", f"{n:,}", False) for kind, n in o.kills.items()]
    made.append(("recovery from a child's death", _spread(o.recovery_ms, "ms"), False))
    made.append(("  from a supervisor's death", _spread(o.supervisor_recovery_s, "s"), False))
    made.append(("seconds", f"{o.seconds:g}", False))
    return made


def _spread(spread: Spread, unit: str) -> str:
    if spread.median is None or spread.max is None:
        return "not measured"
    return f"median {spread.median:g} {unit}, max {spread.max:g} {unit} ({spread.count}x)"


def table(outcomes: Sequence[StormResult]) -> Table:
    """Return the table for a terminal: a column per mode."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    made.add_column("what became of the jobs")
    for o in outcomes:
        made.add_column(f"{o.mode} mode", style=STYLES[o.mode], header_style=STYLES[o.mode])
    for line in zip(*map(rows, outcomes), strict=True):
        cells = [f"[bold red]{figure}[/]" if broken else figure for _, figure, broken in line]
        made.add_row(line[0][0], *cells)
    return made


def lines(o: StormResult) -> list[str]:
    """Return the same rows as plain text."""
    return [f"{o.mode} mode", *(f"  {name:<34}{figure}" for name, figure, _ in rows(o))]


def causes(outcomes: Sequence[StormResult]) -> list[str]:
    """Return a line per mode and cause of failures."""
    return [f"{o.mode} mode, failed {n:,}x: {cause}" for o in outcomes for cause, n in o.tally.causes.items()]


def conclusion(outcomes: Sequence[StormResult]) -> str:
    """Return the conclusion in one sentence."""
    jobs, kills = sum(o.tally.submitted for o in outcomes), sum(sum(o.kills.values()) for o in outcomes)
    again = sum(o.tally.ran_more_than_once for o in outcomes)
    if is_kept(outcomes):
        return (
            f"Nothing was lost: {count(kills, 'kill')}, {count(jobs, 'job')}, each with one outcome; "
            f"{count(again, 'job')} ran more than once."
        )
    found = [
        (sum(o.tally.lost for o in outcomes), "lost"),
        (sum(o.tally.stuck for o in outcomes), "stuck"),
        (sum(o.tally.outcomes_recorded_twice for o in outcomes), "recorded twice"),
        (sum(o.tally.finished_without_running for o in outcomes), "finished without running"),
        (sum(o.tally.ended_and_still_queued for o in outcomes), "ended, yet still queued"),
    ]
    wrong = ", ".join(f"{n:,} {what}" for n, what in found if n)
    return f"The promise was broken: of {count(jobs, 'job')} under {count(kills, 'kill')}, {wrong}."
