"""Explain each run of a job beyond the intended ones, by the table "When a job can run twice" of docs/usage.md.

What is known: when each run began and ended, and in which process; when each fault was played, and on which processes.
A run after which the job ran again is explained by a fault that met it in one of the documented windows. A run that no
fault explains is a defect of jobq.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

UNEXPLAINED = "unexplained"
REPORTED = 1.0  # seconds in which an outcome is reported, where the store answers; the documented milliseconds, at load
NOTICED = 16.0  # seconds after the last data until a dead connection is noticed and replaced
HELD = 1.0  # seconds that a claimed job may have waited in a buffer before it began
OF_STORE = ("delay", "swallow", "cut", "silence", "hang_up", "kill_store")
KILLS = ("kill_child", "kill_tree")


class Run(NamedTuple):
    """One run of a job; times are monotonic seconds of the machine."""

    job: str
    pid: int
    began: float
    ended: float | None  # None: it never came to its end


class Act(NamedTuple):
    """One fault, and the processes that it affected; none: it affected the store."""

    name: str
    began: float
    ended: float
    pids: frozenset[int]


def runs_of(lines: Iterable[str]) -> list[Run]:
    """Read the runs out of the record that the jobs have written, in the order of their begins."""
    runs: dict[str, Run] = {}
    for line in lines:
        what, job, *rest = line.split()
        if what == "begin":
            mark, pid, at = rest
            runs[mark] = Run(job, int(pid), float(at), None)
        elif what == "end":
            mark, at = rest
            runs[mark] = runs[mark]._replace(ended=float(at))
    return sorted(runs.values(), key=lambda run: run.began)


def window(run: Run, acts: Sequence[Act], lease: float) -> str:
    """Return the documented window in which a fault affected the run."""
    end = run.ended
    of_its_process = [act for act in acts if run.pid in act.pids and act.ended >= run.began]
    if end is None:
        if any(act.name in KILLS for act in of_its_process):
            return "killed while it ran"
        if any(act.name == "deploy" for act in of_its_process):
            return "interrupted at a stop"
    last = run.began if end is None else end
    if any(act.name == "fail_over" and act.began - HELD <= last <= act.ended + HELD for act in acts):
        return "fail-over"
    if any(_is_cut_off(act, run, last, lease) for act in acts):
        return "cut off for longer than the lease"
    for act in of_its_process:
        if act.name in (*KILLS, "deploy") and end is not None and _is_unreported(end, act, acts):
            return "killed before it was reported"
    return UNEXPLAINED


def _is_cut_off(act: Act, run: Run, last: float, lease: float) -> bool:
    """Return whether the process was stopped, or the store was down, for so long that others could take the job."""
    if act.name == "freeze_tree" and run.pid not in act.pids:
        return False
    if act.name not in ("freeze_tree", "kill_store") or act.ended - act.began < lease / 2:  # half: renewals vary
        return False
    return act.began - HELD <= last and run.began <= act.ended + HELD


def _is_unreported(end: float, kill: Act, acts: Sequence[Act]) -> bool:
    """Return whether the store need not have had the outcome of a run when its process was killed."""
    if kill.ended < end:
        return False
    if kill.began <= end + REPORTED:
        return True
    return any(
        act.name in OF_STORE and act.began <= kill.began <= act.ended + NOTICED and act.ended >= end for act in acts
    )


def explained(
    runs: Sequence[Run], meant: Mapping[str, int], acts: Sequence[Act], lease: float
) -> tuple[Counter[str], list[str]]:
    """Count the runs beyond the intended ones, by window, and describe those that no window explains: all runs of the
    job, and the faults around them. meant: how many runs each job should have had."""
    of_job: dict[str, list[Run]] = {}
    for run in runs:
        of_job.setdefault(run.job, []).append(run)
    found, defects = Counter[str](), []
    for job, number in meant.items():
        mine = of_job.get(job, [])
        more = max(0, len(mine) - number)
        windows = [name for name in (window(run, acts, lease) for run in mine[:-1]) if name != UNEXPLAINED]
        found.update([*windows, *[UNEXPLAINED] * more][:more])
        if len(windows) < more:
            defects += [described(run, acts) for run in mine]
    return found, defects


def described(run: Run, acts: Sequence[Act]) -> str:
    """Return a run and the faults within 20 s of it, in seconds from its begin. "other": on other processes."""
    last = run.began if run.ended is None else run.ended
    near = [act for act in acts if act.began <= last + 20 and act.ended >= run.began - 20]
    faults = [
        f"{act.name} {act.began - run.began:+.2f} to {act.ended - run.began:+.2f}"
        + ("" if not act.pids or run.pid in act.pids else " other")
        for act in near
    ]
    return f"{run.job} in {run.pid} for {last - run.began:.3f} s, ended: {run.ended is not None}; {', '.join(faults)}"
