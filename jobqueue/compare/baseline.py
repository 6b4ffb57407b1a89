"""A task by itself, in a plain loop: what one job costs, which says how much of it can be measured side by side."""

from __future__ import annotations

import time
from dataclasses import dataclass

from jobqueue.compare import plan
from jobqueue.compare.candidates import BareCandidate, CandidateFailed, TooSlow
from jobqueue.compare.figures import LOOP, Row, Sample
from jobqueue.compare.measure import PeakMeter
from jobqueue.compare.noise import Others
from jobqueue.compare.plan import Cell
from jobqueue.compare.subject import GREW_MB, Subject
from jobqueue.insight.advice import GROWS_MB
from jobqueue.insight.profile import NEEDED, NEEDED_LONG

FIRST_FAILURES = 20  # jobs that are tried before a task is said to fail every time
LEAST_MB = 0.5  # that all jobs of a run together left behind; it has to come again in two more runs
AGAIN = 2
LOOKED_AT = 16  # values that are tried to see how long a job takes: the first may be the smallest


@dataclass(frozen=True)
class TimeBudget:
    """How long it may take, in seconds: a run, all of a task, all of all; and jobs and repetitions, as asked for."""

    run: float
    task: float
    budget: float
    jobs: int | None
    repeat: int


def profile(subject: Subject, candidate: BareCandidate, time_budget: TimeBudget, others: Others) -> None:
    """Fill in the subject's row of the loop, or why there is none."""
    try:
        _loop(subject, candidate, time_budget, others)
    except TooSlow as e:
        what = "One job" if e.jobs == 1 else f"{e.jobs:,} jobs"
        subject.error = (
            f"{what} did not end within {time_budget.task:.0f} s, its share of the time: "
            f"give it more with --seconds (now {time_budget.budget:g})."
        )
    except CandidateFailed as e:
        subject.error = f"A job ended its process in the plain loop: {e}."


def _run(candidate: BareCandidate, subject: Subject, jobs: int, until: float, others: Others) -> Sample:
    return others.during(lambda: candidate.run(subject.work, jobs, until))


def _loop(subject: Subject, candidate: BareCandidate, time_budget: TimeBudget, others: Others) -> None:
    """One job to see what it costs (and to import what it needs), then as many as fit."""
    until = time.monotonic() + time_budget.task
    row = subject.rows[Cell(LOOP, 1)] = Row(LOOP, 1, candidate.startup)
    first = candidate.run(subject.work, 1, until)
    before = candidate.memory().uss
    if first.wall > time_budget.task / 4:
        row.samples = [first]  # slow: one is what there is time for
    else:
        jobs = _jobs(subject, candidate, time_budget, first, until)
        peak = PeakMeter(candidate.process.pid)
        row.samples = [_run(candidate, subject, jobs, until, others) for _ in range(time_budget.repeat)]
        subject.peak_mb = None if (highest := peak.read()) is None else highest / 1e6
    row.memory = candidate.memory()
    subject.grew_mb = _grew(subject, candidate, until, before, row)
    if row.all_failed:
        subject.error = f"It fails every time: {row.error}"


def _grew(subject: Subject, candidate: BareCandidate, until: float, before: int, row: Row) -> float | None:
    """MB that each job left behind; None for too little to say. An allocator that keeps what it was given, or a cache
    that is full, grows once: what looks like a leak has to go on when the jobs run again."""
    assert row.memory
    jobs = sum(sample.jobs for sample in row.samples)
    wall = sum(sample.wall for sample in row.samples)
    grew, last = (row.memory.uss - before) / 1e6, row.memory.uss
    for _ in range(1 if grew > GREW_MB else AGAIN):
        if not _goes_on(grew, jobs):
            return None
        if time.monotonic() + 2 * wall < until:
            candidate.run(subject.work, jobs, until)
            now = candidate.memory().uss
            grew, last = min(grew, (now - last) / 1e6), now
    return grew / jobs if _goes_on(grew, jobs) else None


def _goes_on(grew: float, jobs: int) -> bool:
    """Much in all, or so much in each job that it is no noise of the allocator."""
    return grew > GREW_MB or (grew > LEAST_MB and grew / jobs >= GROWS_MB)


def _jobs(subject: Subject, candidate: BareCandidate, time_budget: TimeBudget, first: Sample, until: float) -> int:
    """As many as a run has, but where they are not too slow for it so many that they say something."""
    if time_budget.jobs:
        return time_budget.jobs
    if first.failed:
        values = len(subject.work.argses)
        return max(FIRST_FAILURES, values) if first.wall * values < time_budget.run else values
    some = min(len(subject.work.argses), LOOKED_AT)
    warm = candidate.run(subject.work, some, until).wall / some
    enough = NEEDED if NEEDED * warm < 4 * time_budget.run else NEEDED_LONG
    fits = max(1, int(time_budget.task / 4 / max(warm, 1e-6)))
    return max(min(enough, fits), plan.jobs_for(Cell(LOOP, 1), 1 / max(warm, 2e-6), time_budget.run))
