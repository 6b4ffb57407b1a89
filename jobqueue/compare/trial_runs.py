"""Try out what each mode can and cannot do: memory isolation, what a crash takes with it, time limits in C code.

A trial is a generator that yields while it waits, so that the trials of both modes run side by side in one thread: they
sleep most of the time. ``trial_sentences`` has the sentences about what was found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil

from jobqueue.compare import trials
from jobqueue.compare.candidates import BareCandidate, CandidateFailed, Surroundings, WorkerCandidate
from jobqueue.compare.figures import Work

WORKERS = trials.NEIGHBOURS + 1
COUNTED, ROUNDS = 40, 10  # jobs that increment the counter; rounds at most, until every process has run some of them
LEAK = 64.0  # MB
LIMIT = 1  # seconds
CRASH_AFTER, NAP = 0.25, 0.45  # seconds: until all neighbours of a crash are running, and how long they go on after it
LONG_NAP = 3.4  # seconds: the neighbours of a stuck job still run when its limit is enforced by a kill
STUCK = 30.0
TRIAL_LIMIT = 20.0  # seconds for one trial
TRIALS = "jobqueue.compare.trials"

T = TypeVar("T")
Trial = Generator[None, None, dict[str, Any]]


class TrialFailed(CandidateFailed):
    """A trial did not come to its end."""


def side_by_side(running: dict[str, Trial], every: float = 0.005) -> dict[str, dict[str, Any]]:
    """Run several trials at once until all have returned; return the findings of each."""
    found: dict[str, dict[str, Any]] = {}
    while running:
        for name, trial in list(running.items()):
            try:
                next(trial)
            except StopIteration as end:
                found[name] = end.value
                del running[name]
        time.sleep(every)
    return found


def to_its_end(trial: Generator[None, None, T], every: float = 0.005) -> T:
    """Run one trial alone; return its findings."""
    while True:
        try:
            next(trial)
        except StopIteration as end:
            found: T = end.value
            return found
        time.sleep(every)


def _until(check: Callable[[], bool], candidate: WorkerCandidate) -> Generator[None, None, None]:
    deadline = time.monotonic() + TRIAL_LIMIT
    while not check():
        candidate.check()
        if time.monotonic() > deadline:
            raise TrialFailed(
                f"A trial in {candidate.mode} mode had no end after {TRIAL_LIMIT:g} s: {candidate.last_words()}"
            )
        yield


def _results(
    candidate: WorkerCandidate, task: str, argses: Sequence[tuple[Any, ...]]
) -> Generator[None, None, list[Any]]:
    before = candidate.queue.ended()
    ids = candidate.queue.submit(task, argses)
    yield from _until(lambda: candidate.queue.ended() >= before + len(ids), candidate)
    return list(candidate.queue.results(ids))


# -- memory isolation ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counter:
    """What happened to a module's counter that all consumers incremented."""

    jobs: int
    consumers: int
    processes: int
    highest: int
    shared: bool

    @classmethod
    def of(cls, seen: Sequence[dict[str, Any]]) -> Counter:
        """Build it from what each job saw: the count, and the process in which it ran."""
        counts = sorted(one["count"] for one in seen)
        return cls(
            jobs=len(seen),
            consumers=len({(one["pid"], one["thread"]) for one in seen}),
            processes=len({one["pid"] for one in seen}),
            highest=counts[-1],
            shared=counts == list(range(counts[0], counts[0] + len(seen))),
        )


def isolation(candidate: WorkerCandidate) -> Trial:
    """Let all jobs increment a module's counter, and let one job leak memory."""
    seen = yield from _counted(candidate)
    counted = Counter.of(seen)
    there = yield from _results(candidate, f"{TRIALS}.present", [(0.05,)] * candidate.workers)
    consumers = {*(one["pid"] for one in there), *(one["pid"] for one in seen)}
    before = {pid: _uss(pid) for pid in consumers}
    yield from _results(candidate, f"{TRIALS}.leak", [(LEAK,)])
    grew = sorted((round((_uss(pid) - before[pid]) / 1e6, 1) for pid in consumers), reverse=True)
    leak = {"leaked_mb": LEAK, "processes": len(consumers), "grew_mb": grew}
    said = {name: getattr(counted, name) for name in ("jobs", "processes", "highest", "shared")}
    return {"workers": candidate.workers, "counter": said, "leak": leak}


def counter(candidate: WorkerCandidate) -> Generator[None, None, Counter]:
    """Let all consumers increment the counter, and find out whether they saw the same one."""
    return Counter.of((yield from _counted(candidate)))


def _counted(candidate: WorkerCandidate) -> Generator[None, None, list[Any]]:
    """Increment the counter; repeat it while some process got no core before the others had done all jobs."""
    processes = candidate.workers if candidate.mode == "process" else 1
    seen: list[Any] = []
    for _ in range(ROUNDS):
        seen += yield from _results(candidate, "jobqueue.tasks.count_here", [(0.02,)] * COUNTED)
        if len({one["pid"] for one in seen}) >= processes:
            break
    return seen


def _uss(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_full_info().uss)
    except psutil.Error:
        return 0


# -- the blast radius ----------------------------------------------------------------------------------------------


def _cast(record: str, part: str, seconds: float, neighbour: str, nap: float) -> list[tuple[Any, ...]]:
    """Return the arguments of the neighbours with their part, and last the job that the trial is about."""
    neighbours = [(neighbour, record, f"n{n}", nap) for n in range(trials.NEIGHBOURS)]
    return [*neighbours, (part, record, "it", seconds)]


def _crashing(record: str) -> list[tuple[Any, ...]]:
    return _cast(record, "crash", CRASH_AFTER, "neighbour of a crash", NAP)


def blast(candidate: WorkerCandidate, record: str) -> Trial:
    """Crash one job and see what happens to its neighbours."""
    *around, it = _crashing(record)
    before = candidate.queue.ended()
    ids = candidate.queue.submit(f"{TRIALS}.act", around)
    (crashed,) = candidate.queue.submit(f"{TRIALS}.act", [it], on_crash="fail")
    yield from _until(lambda: candidate.queue.ended() >= before + WORKERS, candidate)
    finished = candidate.queue.statuses(ids).count("finished")
    return _after_crash(record, finished, candidate.queue.why(crashed))


def bare_blast(mode: str, around: Surroundings, record: str) -> dict[str, Any]:
    """Crash one job in a pool without a queue, where the jobs that the crash ends are lost."""
    candidate = BareCandidate(mode, WORKERS, around)
    try:
        work = Work("act", f"{TRIALS}.act", tuple(_crashing(record)))
        sample = candidate.run(work, WORKERS, time.monotonic() + TRIAL_LIMIT)
        return _after_crash(record, sample.jobs - sample.failed, sample.error or "nothing")
    except CandidateFailed as e:
        return _after_crash(record, 0, f"the whole program ended: {e}")
    finally:
        candidate.close()


def _after_crash(record: str, finished: int, said: str) -> dict[str, Any]:
    lines = trials.read(record)
    crash = next((when for when, what in lines if what == "crash"), None)
    names = [f"began n{n}" for n in range(trials.NEIGHBOURS)]
    again = [when for name in names for when in [w for w, what in lines if what == name][1:]]
    neighbours = len(names)
    lost = neighbours - finished
    return {
        "workers": WORKERS,
        "neighbours": neighbours,
        "interrupted": len(again) + lost,
        "finished": finished,
        "lost": lost,
        "recovery_s": round(max(again) - crash, 3) if again and crash else None,
        "crashed_job": said,
    }


# -- time limits ---------------------------------------------------------------------------------------------------


def stuck(candidate: WorkerCandidate, part: str, record: str) -> Trial:
    """Run a job with a time limit that is stuck in C code: see when and how it was ended, and which other jobs ended
    with it."""
    *around, it = _cast(record, part, STUCK, "neighbour", LONG_NAP)
    candidate.queue.submit(f"{TRIALS}.act", around)
    (ours,) = candidate.queue.submit(f"{TRIALS}.act", [it], job_timeout=LIMIT, on_crash="fail")
    yield from _until(lambda: candidate.queue.statuses([ours]) == ["failed"], candidate)
    took = time.time() - candidate.queue.started(ours)  # as its worker recorded it: the limit counts from then
    ended = time.monotonic()
    # As the job itself recorded it, a little later.
    began = next(when for when, what in trials.read(record) if what == "began it")
    yield from _until(lambda: time.monotonic() > ended + 0.3, candidate)  # by then the jobs that run again have begun
    names = [what for _, what in trials.read(record)]
    error = candidate.queue.why(ours)
    return {
        # The second value is all that is known of a job that was killed before its start was marked.
        "ended_s": round(max(took, ended - began), 2),
        "how": how(error),
        "error": error,
        "neighbours_interrupted": sum(names.count(f"began n{n}") > 1 for n in range(trials.NEIGHBOURS)),
    }


def how(error: str) -> str:
    """Return in one word how a job that exceeded its limit was ended, from what was recorded about it."""
    if "killed" in error:
        return "killed"
    return "written off" if "written off" in error else "exception"


# -- all of them ---------------------------------------------------------------------------------------------------


def in_turn(candidate: WorkerCandidate, directory: str) -> Trial:
    """Run the trials of isolation, of a crash, and of a job that keeps the GIL, one after the other on one worker."""
    found = {"isolation": (yield from isolation(candidate))}
    found["blast"] = yield from blast(candidate, f"{directory}/{candidate.mode}-crash")
    found["gil"] = yield from stuck(candidate, "gil", f"{directory}/{candidate.mode}-gil")
    return found


def blocking(candidate: WorkerCandidate, directory: str) -> Trial:
    return {"blocking": (yield from stuck(candidate, "blocking", f"{directory}/{candidate.mode}-blocking"))}


def collect(found: dict[str, dict[str, Any]], pools: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Arrange the findings as the report has them. Keys: the mode, and the mode with a stroke for the blocking
    trials."""
    modes = [name for name in found if "/" not in name]
    return {
        "isolation": {mode: found[mode]["isolation"] for mode in modes},
        "blast_radius": {mode: found[mode]["blast"] for mode in modes} | pools,
        "time_limits": {"limit_s": float(LIMIT)}
        | {
            mode: {"workers": WORKERS, "blocking": found[f"{mode}/blocking"]["blocking"], "gil": found[mode]["gil"]}
            for mode in modes
        },
    }
