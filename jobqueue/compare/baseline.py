"""Measure a task by itself, in a plain loop: what one job costs says how many jobs the side-by-side runs can have."""

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

FIRST_FAILURES = 20  # jobs that have to fail before the task is said to fail every time
LEAST_MB = 0.5  # growth over all jobs of a run that counts as a leak, if two more runs grow as well
AGAIN = 2
LOOKED_AT = 16  # values that are tried to see how long a job takes: the first one may be the smallest


@dataclass(frozen=True)
class TimeBudget:
    """How long things may take, in seconds: one run, one task, the whole comparison; and the jobs and repetitions asked
    for."""

    run: float
    task: float
    budget: float
    jobs: int | None
    repeat: int


def profile(subject: Subject, candidate: BareCandidate, time_budget: TimeBudget, others: Others) -> None:
    """Measure the subject in the plain loop and store the row, or the error that says why there is none."""
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
    """Run one job to see what it costs (and to import what it needs), then as many as fit into the time."""
    until = time.monotonic() + time_budget.task
    row = subject.rows[Cell(LOOP, 1)] = Row(LOOP, 1, candidate.startup)
    first = candidate.run(subject.work, 1, until)
    before = candidate.memory().uss
    if first.wall > time_budget.task / 4:
        row.samples = [first]  # a slow task: there is time for one job only
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
    """Return the MB that each job left behind; None when there were too few jobs to tell.

    An allocator that keeps freed memory, or a cache that fills up, grows once; a leak grows again when the jobs run
    again.
    """
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
    """Return whether the growth is too large for noise of the allocator: in all, or per job."""
    return grew > GREW_MB or (grew > LEAST_MB and grew / jobs >= GROWS_MB)


def _jobs(subject: Subject, candidate: BareCandidate, time_budget: TimeBudget, first: Sample, until: float) -> int:
    """Return how many jobs a run takes: as many as fit into it, and for a fast task enough to be significant."""
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
