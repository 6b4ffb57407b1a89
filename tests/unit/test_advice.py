"""``judge`` gives the kind, the mode and the number for tasks whose figures are known, in sentences with the
figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobqueue.insight.advice import judge
from jobqueue.insight.profile import Machine, Profile

TWO = Machine(cores=2, memory_mb=8000, gil=True, python="3.13.0")
EIGHT = replace(TWO, cores=8, memory_mb=32000)
FREE = replace(TWO, gil=False)


def profile(wall_ms: float, cpu_ms: float, **changes: object) -> Profile:
    wall, cpu = wall_ms / 1000, cpu_ms / 1000
    base = Profile("m.t", 100, 0, wall, cpu, wall, 1.2 * wall, 0.0, 1.0, None)
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "machine", "kind", "mode", "workers"),
    [
        (profile(51, 50), TWO, "computes", "process", 2),
        (profile(51, 50), EIGHT, "computes", "process", 8),
        (profile(51, 50), FREE, "computes", "thread", 2),
        (profile(100, 50, gil_wait=0.5), FREE, "computes", "process", 2),  # a module turned it on where it ran
        (profile(51, 200), EIGHT, "computes", "process", 2),  # four threads of its own
        (profile(56, 6.5), TWO, "waits", "thread", 17),
        (profile(50, 0.01), TWO, "waits", "thread", 64),
        (profile(50, 12), TWO, "waits", "thread", 8),
        (profile(100, 30), TWO, "mixed", "process", 2),  # one process of threads does 3.3 at once, two do 6
        (profile(50, 1, memory_growth_mb=0.095), TWO, "grows memory", "process", 16),  # 100,000 bytes a run
        (profile(50, 1, memory_growth_mb=0.05), TWO, "waits", "thread", 64),
        (profile(50, 25), TWO, "mixed", "process", 2),
        (profile(50, 25), FREE, "mixed", "thread", 4),
        (profile(0.01, 0.01), TWO, "tiny", "process", 1),
        (profile(20, 19, memory_growth_mb=3.0), TWO, "grows memory", "process", 2),
        (profile(20, 1, memory_growth_mb=3.0), TWO, "grows memory", "process", 16),
        (profile(20, 19, memory_growth_mb=0.05), TWO, "computes", "process", 2),
        (profile(20, 19, memory_growth_mb=None, memory_peak_mb=None), TWO, "computes", "process", 2),
    ],
)
def test_the_kind_the_mode_and_the_number_follow_from_the_figures(
    found: Profile, machine: Machine, kind: str, mode: str, workers: int
) -> None:
    advice = judge(found, machine)
    assert (advice.kind, advice.mode, advice.workers) == (kind, mode, workers), advice
    assert advice.reason.endswith(".")
    assert advice.would_change.endswith(".")


def test_the_wait_for_the_gil_does_not_count_as_a_wait_of_the_job() -> None:
    """Sixteen computing threads spend 50 ms of CPU in 800 ms: the rest is the wait for the GIL, not for input or
    output."""
    crowded = profile(800, 50, gil_wait=0.93)
    assert judge(crowded, TWO).kind == "computes"
    assert "93%" in judge(crowded, TWO).reason
    assert judge(replace(crowded, gil_wait=None), TWO).kind == "waits"


def test_mixed_tasks_get_processes_with_threads_in_each() -> None:
    assert judge(profile(50, 17), TWO).threads == 3
    assert judge(profile(51, 50), TWO).threads == 1


@pytest.mark.parametrize(
    ("runs", "wall_ms", "known"), [(0, 0, False), (9, 10, False), (10, 10, True), (3, 400, True), (2, 60_000, False)]
)
def test_too_few_runs_give_no_advice(runs: int, wall_ms: float, known: bool) -> None:
    advice = judge(profile(wall_ms, wall_ms, runs=runs), TWO)
    assert (advice.kind != "unknown") is known
    if not known:
        assert (advice.mode, advice.workers) == (None, 0)
        assert "10 runs" in advice.would_change


def test_a_task_that_only_failed_gets_no_advice() -> None:
    advice = judge(profile(50, 1, runs=40, errors=40), TWO)
    assert (advice.kind, advice.mode) == ("unknown", None)
    assert "40 runs failed" in advice.reason
    assert judge(profile(50, 1, runs=40, errors=39), TWO).kind == "waits"


def test_memory_bounds_the_number_of_processes() -> None:
    assert judge(profile(50, 50, memory_peak_mb=1500.0), EIGHT).workers == 8
    assert judge(profile(50, 50, memory_peak_mb=7000.0), EIGHT).workers == 2
    assert judge(profile(50, 50, memory_peak_mb=90_000.0), EIGHT).workers == 1


@pytest.mark.parametrize(
    ("peak_mb", "memory_mb", "workers"), [(100.0, 24_000, 40), (100.0, 1000, 4), (100.0, 200, 1), (None, 200, 40)]
)
def test_threads_at_their_peaks_fit_the_memory(peak_mb: float | None, memory_mb: float, workers: int) -> None:
    machine = replace(TWO, memory_mb=memory_mb)
    advice = judge(profile(50, 2.5, memory_peak_mb=peak_mb), machine)
    assert (advice.mode, advice.workers) == ("thread", workers)
    assert ("more would not fit" in advice.reason) is (workers < 40)
    if peak_mb and workers == 40:
        assert "4,000 MB when all are at their peaks (100 MB each)" in advice.reason
    mixed = judge(profile(50, 15, memory_peak_mb=peak_mb), machine)
    taken = mixed.workers * (40 + mixed.threads * (peak_mb or 0))
    assert taken <= machine.memory_mb / 2 or (mixed.workers, mixed.threads) == (1, 1)


IN_COMPANY = {"company": 15.0, "lock_wait": 0.9}


@pytest.mark.parametrize(
    ("changes", "kind", "mode", "words"),
    [
        ({"held": 0.9}, "takes turns", "process", "90% of it in C code that keeps the GIL"),
        ({**IN_COMPANY, "slower": 14.0}, "takes turns", "process", "beside 15 others a run takes 14.0 times as long"),
        ({**IN_COMPANY, "slower": 1.1}, "waits", "thread", "threads wait at once"),  # for threads of its own
        ({**IN_COMPANY}, "unknown", None, "The record cannot tell which"),
        ({"company": 15.0, "lock_wait": 0.05}, "waits", "thread", "threads wait at once"),
        ({}, "waits", "thread", "threads wait at once"),
    ],
)
def test_waiting_for_something_outside_differs_from_waiting_for_other_threads(
    changes: dict[str, float], kind: str, mode: str | None, words: str
) -> None:
    advice = judge(profile(20, 0.1, task="shop.web.fetch", **changes), TWO)
    assert (advice.kind, advice.mode) == (kind, mode)
    assert words in advice.reason
    unseen = "company" not in changes and mode == "thread"
    assert ("`jobq compare shop.web:fetch VALUE...`" in advice.would_change) is (unseen or kind == "unknown")
    assert ("Its record does not show whether several can wait" in advice.would_change) is unseen


def test_the_memory_of_runs_beside_other_threads_is_reported_as_not_known() -> None:
    among_threads = profile(20, 0.1, memory_growth_mb=None, memory_peak_mb=None, company=3.0, lock_wait=0.0)
    assert "does not show what memory a run keeps: `jobq compare m:t" in judge(among_threads, TWO).would_change


def test_a_leak_names_the_limit_and_how_long_it_lasts() -> None:
    advice = judge(profile(20, 19, memory_growth_mb=3.0), TWO)
    assert advice.max_memory_mb == 2000
    assert "3.0 MB" in advice.reason
    assert "2000 MB" in advice.reason
    assert "653 jobs" in advice.reason


def test_for_tiny_jobs_the_advice_says_what_the_queue_costs() -> None:
    assert "200 µs per job, 20 times" in judge(profile(0.01, 0.01), TWO).reason


def test_machine_here_describes_this_machine() -> None:
    here = Machine.here()
    assert here.cores >= 1
    assert here.memory_mb > 100
    assert here.python.startswith("3.")
