"""Run all trials, in both modes and in the bare pools, on workers of their own; ``trial_runs`` defines them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from jobqueue.compare import trial_runs, trial_sentences
from jobqueue.compare.candidate_starter import CandidateStarter
from jobqueue.compare.figures import MODES, POOLS

KEYS = ("isolation", "blast_radius", "time_limits")


def try_out(starter: CandidateStarter) -> dict[str, Any]:
    """Run the trials; return the report's part about them. Raises CandidateFailed."""
    directory = str(starter.around.directory)
    with ExitStack() as stack:
        trials: dict[str, trial_runs.Trial] = {}
        for mode in MODES:
            workers = (starter.worker(mode, trial_runs.WORKERS, f"trial-{n}") for n in (1, 2))
            first, second = (stack.enter_context(worker) for worker in workers)
            trials[mode] = trial_runs.in_turn(first, directory)
            trials[f"{mode}/blocking"] = trial_runs.blocking(second, directory)
        found = trial_runs.side_by_side(trials)
    pools = {m: trial_runs.bare_blast(m, starter.around, f"{directory}/{m}-crash") for m in POOLS}
    return {**trial_sentences.with_meaning(trial_runs.collect(found, pools)), "not_tried": None}


def nothing_tried(why: str | None) -> dict[str, Any]:
    """Return the report's part about trials when none was run."""
    return {**dict.fromkeys(KEYS), "not_tried": why}
