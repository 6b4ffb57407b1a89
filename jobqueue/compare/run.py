"""Run a comparison from its first process to its report, and leave nothing behind.

    temporary directory, one signal ─► store ─► site ─► each task in a plain loop ─► for each width:
        two workers and two pools ─► for each task: thread, process, thread, process, ..., pools ─► memory ─► stop
    ─► trials of isolation, crashes and limits ─► report

The plain loop goes first: what one job costs there says how many jobs each run takes, and which widths fit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from jobqueue.compare import facts, plan
from jobqueue.compare.baseline import TimeBudget, profile
from jobqueue.compare.builtin import LATENCY, Wanted, wishes
from jobqueue.compare.candidate_starter import CandidateStarter
from jobqueue.compare.candidates import BareCandidate, Candidate, CandidateFailed, Surroundings, TooSlow, modules_for
from jobqueue.compare.choice import fits_memory
from jobqueue.compare.figures import LOOP, MIXED, MODES, POOLS, Row, what
from jobqueue.compare.noise import Others, cpu_of_a_store_nearby
from jobqueue.compare.plan import Cell, CompareOptions
from jobqueue.compare.subject import Subject
from jobqueue.compare.try_out import nothing_tried, try_out
from jobqueue.compare.verdict import as_json
from jobqueue.harness.processes import environment, run_directory
from jobqueue.harness.site import spawn_site
from jobqueue.harness.store import opened, refuse_suspended
from jobqueue.insight.capacity import cores as usable_cores
from jobqueue.insight.profile import Machine
from jobqueue.store.open import Store

LAST_CALL = 1.4  # times the budget: no trial is begun that would end after that
WARM = 1.0  # seconds; a task whose warm-up would take longer is measured cold: imports are little beside its work


class CompareScreen(Protocol):
    """Receives the progress of a comparison."""

    def ready(self, store: str) -> None: ...
    def step(self, text: str, done: float) -> None: ...


def run(
    wanted: Wanted | None, modules: Sequence[str], options: CompareOptions, screen: CompareScreen
) -> dict[str, Any]:
    """Compare what is wanted (None: the four built-in tasks) and return the report, as docs/compare.md describes it.

    modules: more modules for the workers to serve. Raises CandidateFailed, StoreErrors; Ctrl-C raises
    KeyboardInterrupt.
    """
    with run_directory("jobq-compare-") as directory, opened(options.url, environment(directory)) as (store, env):
        refuse_suspended(store)
        screen.ready(store.describe())
        with spawn_site(LATENCY) if wanted is None else nullcontext() as site:
            subjects = [Subject(*wish) for wish in wishes(wanted, site)]
            served = tuple(dict.fromkeys([*modules_for([s.work.name for s in subjects]), *modules]))
            around = Surroundings(env, directory, served)
            return Comparison(subjects, options, store, around, screen).report()


@dataclass
class TimeTaken:
    """The seconds of one comparison: what it may take, and what it has taken so far."""

    began: float  # monotonic
    budget: float  # for the whole comparison
    slice: float  # for one run
    widths_left: list[int]  # not measured yet
    per_width: float = plan.PER_WIDTH  # the most that a width took besides its runs
    in_runs: float = 0.0  # of the runs of this width


class Comparison:
    """All runs of the subjects of one comparison."""

    def __init__(
        self,
        subjects: Sequence[Subject],
        options: CompareOptions,
        store: Store,
        around: Surroundings,
        screen: CompareScreen,
    ) -> None:
        self._subjects, self._options, self._store = subjects, options, store
        self._screen = screen
        self._time = TimeTaken(
            time.monotonic(),
            plan.budget(options, len(subjects)),
            plan.slice_of(options, len(subjects)),
            [*options.widths],
        )
        self._until = self._time.began + plan.measuring(self._time.budget, options.trials)
        self._cores = usable_cores()
        self._starter = CandidateStarter(store, around)
        self._load = os.getloadavg()[0]
        self._others = Others(cpu_of_a_store_nearby(store))
        self._others_before = self._others.look()
        self._done, self._steps = 0, 1

    def report(self) -> dict[str, Any]:
        self._profile()
        self._choose()
        for width in plan.in_order(self._options.widths, self._cores):
            self._measure(width)
        trials = self._try_out()
        here, gil = Machine.here(), self._starter.gil
        machine = Machine(here.cores, here.memory_mb, gil, here.python)
        return {
            "version": 1,
            "machine": facts.machine(self._store, gil, self._starter.turned_on_by(), self._load)
            | {"others_before": round(self._others_before, 2), "others_during": round(self._during(), 2)},
            "settings": self._settings(),
            "took_s": round(time.monotonic() - self._time.began, 1),
            "tasks": [as_json(subject, machine) for subject in self._subjects],
            **trials,
        }

    def _try_out(self) -> dict[str, Any]:
        """Run the trials of isolation, crashes and limits; return null with a reason when there is no time or no task
        left."""
        if not self._options.trials:
            return nothing_tried("--no-trials")
        late = time.monotonic() + plan.TRIAL_SECONDS > self._time.began + LAST_CALL * self._time.budget
        if late or all(subject.error for subject in self._subjects):
            return nothing_tried("there was no time for it; --seconds gives more" if late else None)
        self._screen.step("a counter, a leak, a crash, and jobs that are stuck in C, in both modes", 0.97)
        try:
            return try_out(self._starter)
        except CandidateFailed as e:  # the measurements are reported all the same
            return nothing_tried(str(e))

    def _during(self) -> float:
        """Return how many of the usable cores other programs took while it was measured."""
        measured = [subject.others for subject in self._subjects if not subject.error]
        return max(measured, default=0.0)

    def _settings(self) -> dict[str, Any]:
        o = self._options
        return {
            "tasks": [subject.work.task for subject in self._subjects],
            "widths": list(o.widths),
            "jobs": o.jobs,
            "repeat": o.repeat,
            "seconds": round(self._time.budget, 1),
        }

    @property
    def _seconds_each(self) -> float:
        """Return the seconds of the budget that each task gets."""
        fixed = plan.FIXED + plan.PER_WIDTH * len(self._options.widths)
        return max(0.25 * self._time.budget, self._time.budget - fixed) / len(self._subjects)

    # -- what is measured ----------------------------------------------------------------------------------------------

    def _profile(self) -> None:
        """Measure what a job of each task costs in a plain loop."""
        time_budget = TimeBudget(
            self._time.slice, self._seconds_each, self._time.budget, self._options.jobs, self._options.repeat
        )
        for subject in self._subjects:
            self._tell(f"{subject.work.task} in a plain loop")
            with self._starter.candidate(LOOP, 1) as candidate:
                assert isinstance(candidate, BareCandidate)
                profile(subject, candidate, time_budget, self._others)

    def _choose(self) -> None:
        """Decide which rows fit into the time."""
        for subject in self._subjects:
            if subject.error:
                continue
            subject.cells = plan.fitting(
                self._options.widths, subject.cost, self._cores, self._options, self._seconds_each
            )
            if not subject.cells:
                subject.error = (
                    f"One job takes {subject.cost.wall:.3g} s, too long to measure it side by side in "
                    f"{self._seconds_each:.0f} s, its share of the time: give it more with --seconds "
                    f"(now {self._time.budget:g})."
                )
            subject.left_out = set(plan.cells(self._options.widths)) - set(subject.cells)
            subject.cells += plan.mixed_cells([w for w in self._options.widths if self._is_whole(subject, w)],
                                              subject.cost, self._cores)  # fmt: skip
            self._leave_out_what_does_not_fit(subject)
        self._steps = 1 + sum(len(s.cells) for s in self._subjects)

    def _is_whole(self, subject: Subject, width: int) -> bool:
        return all(Cell(mode, width) in subject.cells for mode in MODES)

    def _leave_out_what_does_not_fit(self, subject: Subject) -> None:
        """Leave out the rows whose jobs would fill the machine's memory."""
        here = Machine.here()
        too_much = [cell for cell in subject.cells if not fits_memory(cell.mode, cell.workers, subject.peak_mb, here)]
        if too_much:
            subject.cells = [cell for cell in subject.cells if cell not in too_much]
            widest = max(cell.workers for cell in too_much)
            subject.notes.append(
                f"Not measured with {min(cell.workers for cell in too_much)} and more: {widest} at once would take "
                f"{widest * (subject.peak_mb or 0) / 1000:.1f} GB at their peaks."
            )

    # -- side by side --------------------------------------------------------------------------------------------------

    def _measure(self, width: int) -> None:
        began, self._time.in_runs = time.monotonic(), 0.0
        self._adapt()
        self._measure_here(width)
        self._time.widths_left.remove(width)
        self._time.per_width = max(self._time.per_width, time.monotonic() - began - self._time.in_runs)

    def _adapt(self) -> None:
        """Shorten the remaining runs when this machine is slower than planned."""
        still = self._time.widths_left
        runs = sum(cell.workers in still for s in self._subjects for cell in s.cells) * self._options.repeat
        left = (
            self._time.began
            + self._time.budget
            - plan.TRIAL_SECONDS
            - time.monotonic()
            - self._time.per_width * len(still)
        )
        self._time.slice = plan.rest_slice(self._time.slice, left, runs)

    def _measure_here(self, width: int) -> None:
        subjects = [s for s in self._subjects if not s.error and any(cell.workers == width for cell in s.cells)]
        modes = [m for m in (*MODES, MIXED, *POOLS) if any(Cell(m, width) in s.cells for s in subjects)]
        if time.monotonic() > self._until:
            for subject in subjects:
                subject.left_out |= {cell for cell in subject.cells if cell.workers == width}
            return
        with ExitStack() as stack:
            candidates: dict[str, Candidate] = {}
            for mode in modes:
                self._screen.step(f"starting {what(mode, width)}", self._done / self._steps)
                candidates[mode] = stack.enter_context(self._starter.candidate(mode, width))
            for subject in subjects:
                self._measure_subject(subject, [candidates[m] for m in modes if Cell(m, width) in subject.cells])

    def _measure_subject(self, subject: Subject, candidates: list[Candidate]) -> None:
        workers = [candidate for candidate in candidates if candidate.mode in (*MODES, MIXED)]
        pools = [candidate for candidate in candidates if candidate.mode in POOLS]
        for candidate in candidates:
            subject.rows[Cell(candidate.mode, candidate.workers)] = Row(
                candidate.mode, candidate.workers, candidate.startup
            )
            self._warm_up(subject, candidate)
        for turn in range(self._options.repeat):
            for candidate in [*(workers if turn % 2 == 0 else reversed(workers)), *pools]:
                self._run(subject, candidate)
        for candidate in candidates:
            row = subject.rows[Cell(candidate.mode, candidate.workers)]
            row.memory = candidate.memory() if row.samples else None
            self._done += 1
            if row.samples and row.all_failed:
                subject.error = (
                    subject.error
                    or f"It works in a plain loop, but fails every time in {what(row.mode, row.workers)}: {row.error}"
                )

    def _warm_up(self, subject: Subject, candidate: Candidate) -> None:
        seconds = plan.worst_seconds(Cell(candidate.mode, candidate.workers), subject.cost, self._cores, None)
        if seconds < WARM:
            self._attempt(subject, candidate, candidate.workers, keep=False)

    def _run(self, subject: Subject, candidate: Candidate) -> None:
        cell = Cell(candidate.mode, candidate.workers)
        rate = plan.expected_rate(cell, subject.cost, self._cores, subject.rates())
        jobs = self._options.jobs or plan.jobs_for(cell, rate, self._time.slice)
        if time.monotonic() + jobs / rate > self._until:
            subject.left_out.add(cell)
            return
        self._tell(f"{subject.work.task} in {what(candidate.mode, candidate.workers)}, {jobs:,} jobs")
        began = time.monotonic()
        self._attempt(subject, candidate, jobs, keep=True)
        self._time.in_runs += time.monotonic() - began

    def _attempt(self, subject: Subject, candidate: Candidate, jobs: int, *, keep: bool) -> None:
        try:
            sample = self._others.during(lambda: candidate.run(subject.work, jobs, self._until))
        except TooSlow:  # the whole budget is used up: the jobs that still run end with the candidate
            subject.left_out.add(Cell(candidate.mode, candidate.workers))
            return
        except CandidateFailed as e:
            if not isinstance(candidate, BareCandidate):
                raise
            candidate.restart()
            note = f"Not measured in {what(candidate.mode, candidate.workers)} because {e}."
            subject.notes += [note] if note not in subject.notes else []
            return
        if keep:
            subject.rows[Cell(candidate.mode, candidate.workers)].samples.append(sample)
        if keep and sample.failed > 0:
            where = what(candidate.mode, candidate.workers)
            text = f"{sample.failed:,} of {jobs:,} jobs failed in {where}: {sample.error}"
            if not any(" jobs failed in " in note for note in subject.notes):
                subject.notes.append(text)

    def _tell(self, text: str) -> None:
        self._screen.step(text, self._done / self._steps)
