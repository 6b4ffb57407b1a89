"""What `jobq compare` concludes from figures: the mode, the number, the sentence."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from jobqueue.compare import figures, plan, trial_sentences
from jobqueue.compare.candidates import gil_turned_on_by
from jobqueue.compare.figures import LOOP, MIXED, Row, Sample, Work, percentile, slope
from jobqueue.compare.measure import TreeMemory
from jobqueue.compare.noise import taken
from jobqueue.compare.plan import Cell, Cost
from jobqueue.compare.subject import Subject
from jobqueue.compare.trial_runs import how
from jobqueue.compare.verdict import as_json
from jobqueue.insight.profile import Machine

TWO_CORES = Machine(2, 8000.0, True, "3.11.4")
NO_GIL = Machine(2, 8000.0, False, "3.13.0")
USS = {"thread": (40e6, 0.2e6), "process": (40e6, 9e6)}

Rates = Mapping[int, float]


def subject(
    wall: float,
    cpu: float,
    threads: Rates,
    processes: Rates,
    *,
    both: Rates = MappingProxyType({}),
    others: float = 0.0,
    peak: float | None = None,
    thread_cores: float = 1.0,
    process_cores: float = 2.0,
    grew: float | None = None,
) -> Subject:
    """Return a task with these figures in the loop (seconds per job), and these rates per width."""
    made = Subject(Work("task", "module.task", ((1,),)), (1,))
    made.grew_mb, made.peak_mb = grew, peak
    jobs = 100
    rows = [Row(LOOP, 1, 0.1, [Sample(jobs, jobs * wall, jobs * cpu, [wall] * jobs, others=others)])]
    every = (("thread", threads, thread_cores), ("process", processes, process_cores), (MIXED, both, process_cores))
    for mode, rates, cores in every:
        for width, rate in rates.items():
            base, each = USS[mode if mode != MIXED else "process"]
            seconds = jobs / rate
            latencies = [wall if width == 1 else width / rate] * jobs
            sample = Sample(jobs, seconds, cores * seconds, latencies, others=others)
            memory = TreeMemory(int(base + each * width), None)
            rows.append(Row(mode, width, 0.5, [sample], memory))
    made.rows = {Cell(row.mode, row.workers): row for row in rows}
    return made


def advice(made: Subject, machine: Machine = TWO_CORES) -> tuple[str, str, int, str]:
    said = as_json(made, machine)
    return said["kind"], said["advice"]["mode"], said["advice"]["workers"], said["verdict"]


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "usable_cores", lambda: 2)


HEAVY: dict[str, Any] = {
    "wall": 0.05,
    "cpu": 0.05,
    "threads": {1: 19.6, 2: 19.5, 4: 19.4},
    "processes": {1: 19.4, 2: 38.0, 4: 38.6},
}


def test_a_computing_task_gets_a_process_per_core() -> None:
    kind, mode, workers, verdict = advice(subject(**HEAVY))
    assert (kind, mode, workers) == ("computes", "process", 2)
    assert verdict == (
        "task: processes, 2 of them: 38 jobs/s, 1.9 times the plain loop, 1.9 times what 2 threads did (19.5): "
        "it computes (100% CPU), and threads take turns at the GIL."
    )


def test_noise_does_not_make_more_processes_than_cores_worth_it() -> None:
    rates = {1: 17.3, 2: 31.6, 4: 31.8, 8: 30.2, 16: 37.2}
    kind, mode, workers, _ = advice(subject(0.0547, 0.0545, {1: 15.8, 2: 19.9, 16: 18.4}, rates))
    assert (kind, mode, workers) == ("computes", "process", 2)


def test_where_a_process_for_each_core_was_not_measured_the_sentence_says_so() -> None:
    one_for_each = "; 2, one for each core, were not measured and may well do."
    processes = {1: 19.4, 2: 28.0, 16: 38.0}
    assert one_for_each not in advice(subject(0.05, 0.05, {1: 19.6, 16: 19.4}, processes))[3]
    del processes[2]
    _, mode, workers, verdict = advice(subject(0.05, 0.05, {1: 19.6, 16: 19.4}, processes))
    assert (mode, workers) == ("process", 16)
    assert verdict.endswith(one_for_each)


def test_a_waiting_task_gets_threads_even_if_processes_are_as_fast() -> None:
    rates = {1: 19.0, 8: 150.0, 16: 290.0}
    kind, mode, workers, verdict = advice(subject(0.05, 0.001, rates, {**rates, 16: 310.0}))
    assert (kind, mode, workers) == ("waits", "thread", 16)
    assert "14.5 times the plain loop, as fast as 16 processes (310)" in verdict
    assert "for 0.2 MB per added worker instead of 9.0 MB" in verdict


def test_code_that_releases_the_gil_gets_threads_and_the_sentence_says_so() -> None:
    rates = {1: 20.0, 2: 38.0}
    kind, mode, workers, verdict = advice(subject(0.05, 0.05, rates, rates, thread_cores=1.9))
    assert (kind, mode, workers) == ("computes", "thread", 2)
    assert "its code gives the GIL away while it computes" in verdict
    assert "By its share of CPU time alone it would be processes; it was measured otherwise." in verdict


def test_equal_figures_for_want_of_cores_do_not_change_the_advice() -> None:
    """On this busy machine, neither mode had more than one core."""
    rates = {1: 15.0, 2: 14.0, 4: 15.0}
    _, mode, workers, verdict = advice(subject(0.05, 0.05, rates, rates, thread_cores=0.8, process_cores=0.9))
    assert (mode, workers) == ("process", 2)
    assert "otherwise" not in verdict
    assert "there was no core to spare, so measure again when this machine is quiet" in verdict


def test_without_a_gil_a_computing_task_gets_threads() -> None:
    rates = {1: 20.0, 2: 39.0}
    kind, mode, _, verdict = advice(subject(0.05, 0.05, rates, rates, thread_cores=2.0), NO_GIL)
    assert (kind, mode) == ("computes", "thread")
    assert "this Python has no GIL" in verdict
    assert "otherwise" not in verdict


def test_without_a_gil_an_advantage_of_processes_is_not_put_down_to_the_gil() -> None:
    made = subject(0.05, 0.05, {1: 20.0, 2: 22.0}, {1: 20.0, 2: 39.0}, thread_cores=2.0)
    kind, mode, _, verdict = advice(made, NO_GIL)
    assert (kind, mode) == ("computes", "process")
    assert "threads got in each other's way, although this Python has no GIL" in verdict
    assert "it would be threads; it was measured otherwise" in verdict


def test_for_tiny_jobs_the_price_of_the_queue_is_given() -> None:
    kind, _, _, verdict = advice(subject(1e-6, 1e-6, {1: 8000.0, 2: 9000.0}, {1: 10_000.0, 2: 12_000.0}))
    assert kind == "tiny"
    assert verdict.startswith("task: the queue costs more than the job: 99 µs of queue for 1 µs of work, 99 times")


def test_slower_jobs_on_a_busy_machine_do_not_raise_the_price_of_the_queue() -> None:
    """On this busy machine, the job itself took 50 ms in the worker, and 20 ms in the loop."""
    made = subject(0.02, 0.01, {1: 19.6, 2: 38.0}, {1: 19.0, 2: 37.0})
    for mode in ("thread", "process"):
        row = made.rows[Cell(mode, 1)]
        row.samples = [Sample(s.jobs, s.wall, s.cpu, [0.05] * s.jobs) for s in row.samples]
    said = as_json(made, TWO_CORES)
    assert said["kind"] == "mixed"
    assert said["queue_price"] == {"loop_ms": 20.0, "queue_ms": 51.02, "extra_ms": 1.02, "times": 2.551}


def test_the_mean_time_per_job_decides_and_not_the_median() -> None:
    """In this example three of four jobs hit a cache, and the fourth waits for 0.1 s."""
    made = subject(0.0007, 0.0001, {1: 1100.0, 2: 2100.0}, {1: 1000.0, 2: 1900.0})
    for row in made.rows.values():
        row.samples = [Sample(s.jobs, s.wall, s.cpu, [1e-5] * 75 + [0.00277] * 25) for s in row.samples]
    kind, mode, _, verdict = advice(made)
    assert (kind, mode) == ("waits", "thread")
    assert "costs more than the job" not in verdict


def test_a_price_close_to_the_jobs_own_time_is_given_exactly() -> None:
    kind, _, _, verdict = advice(subject(2e-4, 2e-4, {1: 2000.0, 2: 2100.0}, {1: 1900.0, 2: 2500.0}))
    assert kind == "tiny"
    assert "300 µs of queue for 200 µs of work, 1.5 times as much" in verdict


def test_a_rate_that_still_grew_at_the_largest_width_may_grow_further() -> None:
    rates = {1: 19.0, 8: 150.0, 16: 290.0}
    assert "; more than 16 were not measured." in advice(subject(0.05, 0.001, rates, rates))[3]
    assert "not measured" not in advice(subject(0.05, 0.001, {**rates, 16: 200.0}, rates))[3]
    assert "; more than 2 were not measured." in advice(subject(20.0, 0.001, {2: 0.1}, {2: 0.1}))[3]


def test_a_task_that_leaks_memory_gets_processes() -> None:
    made = subject(0.05, 0.002, {1: 19.0, 2: 38.0}, {1: 19.0, 2: 37.0}, grew=2.0)
    kind, mode, _, verdict = advice(made)
    assert (kind, mode) == ("grows memory", "process")
    assert "each job leaves 2.0 MB behind" in verdict


def test_one_width_says_nothing_about_modes_so_the_rule_decides() -> None:
    assert advice(subject(0.05, 0.05, {1: 20.0}, {1: 18.0}))[1] == "process"


def test_a_ratio_is_the_median_over_runs_next_to_each_other_in_time() -> None:
    made = subject(**HEAVY)
    for cell, walls in ((Cell("thread", 2), (1.0, 2.0, 1.0)), (Cell("process", 2), (0.5, 1.0, 1.0))):
        made.rows[cell].samples = [Sample(20, wall, wall, [0.05]) for wall in walls]
    assert next(r for r in as_json(made, TWO_CORES)["process_over_thread"] if r["workers"] == 2) == {
        "workers": 2,
        "ratio": 2.0,
        "samples": [2.0, 2.0, 1.0],
    }


def test_a_task_that_could_not_be_measured_has_a_reason() -> None:
    made = Subject(Work("task", "module.task", ((),)), ())
    made.error = "It fails every time: ValueError: no"
    said = as_json(made, TWO_CORES)
    assert (said["advice"], said["kind"], said["runs"]) == (None, None, [])
    assert said["verdict"] == "task: not measured. It fails every time: ValueError: no"


def test_rows_left_out_for_want_of_time_are_named_in_one_sentence() -> None:
    made = subject(**HEAVY)
    made.left_out = {Cell("thread", 16), Cell("thread", 8), Cell("process", 16)}
    (note,) = as_json(made, TWO_CORES)["notes"]
    assert note == "Not measured for want of time: threads at 8, 16; processes at 16. --seconds gives more."
    made.left_out |= {Cell("process", 8), Cell("ThreadPoolExecutor", 16), Cell("ProcessPoolExecutor", 16)}
    (note,) = as_json(made, TWO_CORES)["notes"]
    assert note == (
        "Not measured for want of time: threads and processes at 8, 16; bare threads and bare processes at 16. "
        "--seconds gives more."
    )


def test_rows_that_were_repeated_less_often_are_named_as_such() -> None:
    made = subject(**HEAVY)
    made.left_out = {Cell("thread", 2), Cell("process", 2), Cell("process", 16)}
    assert as_json(made, TWO_CORES)["notes"] == [
        "Not measured for want of time: processes at 16. --seconds gives more.",
        "Repeated less often for want of time: threads and processes at 2. --seconds gives more.",
    ]


def test_slope_and_percentiles() -> None:
    assert slope([(1, 10.0), (2, 12.0), (4, 16.0)]) == pytest.approx(2.0)
    assert slope([(2, 1.0), (2, 5.0)]) is None
    assert percentile([3, 1, 2, 4], 50) == 2
    assert percentile(list(range(1, 101)), 95) == 95
    assert percentile([7.0], 95) == 7.0


# -- the interpreter and the trials ----------------------------------------------------------------------------------


def test_a_module_that_turned_the_gil_on_is_named() -> None:
    warned = (
        "<frozen importlib._bootstrap>:488: RuntimeWarning: The global interpreter lock (GIL) has been enabled to load "
        "module 'hiredis.hiredis', which has not declared that it can run safely without the GIL. To override this "
        "behavior and keep the GIL disabled (at your own risk), run with PYTHON_GIL=0 or -Xgil=0.\n"
    )
    assert gil_turned_on_by(warned + "a line\n" + warned) == ["hiredis.hiredis"]
    assert gil_turned_on_by("nothing of the sort") == []


@pytest.mark.parametrize(
    ("error", "word"),
    [
        ("TimeLimitExceeded: ... It did not react: its process was killed.", "killed"),
        ("TimeLimitExceeded: ... It did not react: the thread that ran it was written off.", "written off"),
        ("jobqueue.errors.TimeLimitExceeded: The job ran longer than its time limit of 1 s.", "exception"),
    ],
)
def test_the_end_of_a_stuck_job_in_words(error: str, word: str) -> None:
    assert how(error) == word


def test_a_crash_that_lost_other_jobs_is_mentioned() -> None:
    one = {"workers": 4, "neighbours": 3, "interrupted": 3, "finished": 3, "lost": 0, "recovery_s": 0.2}
    good = trial_sentences.blast_radius({"thread": one, "process": {**one, "interrupted": 0, "recovery_s": None}})
    assert "it took all of its 3 neighbours with it, in process mode none." in good
    assert "All neighbours finished nevertheless (again after 0.20 s)." in good
    bad = trial_sentences.blast_radius({"thread": {**one, "finished": 2, "lost": 1}, "process": one})
    assert "1 of the neighbours never finished." in bad


def test_a_job_that_waited_for_a_core_still_counts_as_computing() -> None:
    """On this busy machine a job took 150 ms for 50 ms of computing, and had no core for 100 ms."""
    made = subject(0.15, 0.05, {1: 7.0, 2: 9.0}, {1: 7.0, 2: 9.0}, thread_cores=0.6)
    row = made.rows[Cell(LOOP, 1)]
    row.samples = [Sample(10, 1.5, 0.5, [0.15] * 10, starved=1.0)]
    assert advice(made)[:2] == ("computes", "process")


# -- processes with threads in each ----------------------------------------------------------------------------------

MIX: dict[str, Any] = {"wall": 0.1, "cpu": 0.03, "threads": {1: 9.6, 4: 28.0, 8: 29.0}}


@pytest.mark.parametrize(
    ("processes", "both", "mode", "workers", "threads"),
    [
        (
            {1: 9.6, 4: 37.0, 8: 55.0},
            {4: 37.0, 8: 56.0},
            "process",
            2,
            4,
        ),  # as fast as eight processes, for less memory
        ({1: 9.6, 4: 30.0, 8: 31.0}, {4: 37.0, 8: 56.0}, "process", 2, 4),
        ({1: 9.6, 4: 37.0, 8: 55.0}, {4: 30.0, 8: 31.0}, "process", 8, 1),
        ({1: 9.6, 4: 28.0, 8: 29.0}, {4: 28.0, 8: 29.5}, "thread", 4, 1),
    ],
)
def test_a_task_that_waits_and_computes_can_get_processes_with_threads(
    processes: Rates, both: Rates, mode: str, workers: int, threads: int
) -> None:
    said = as_json(subject(**MIX, processes=processes, both=both), TWO_CORES)
    chosen = said["advice"]
    assert (chosen["mode"], chosen["workers"], chosen["threads"]) == (mode, workers, threads), said["verdict"]
    if threads > 1:
        assert said["verdict"].startswith("task: 2 processes with 4 threads each: 56 jobs/s")
        assert "1.9 times what 8 threads did (29)" in said["verdict"]
    row = next(run for run in said["runs"] if run["mode"] == MIXED and run["workers"] == 8)
    assert (row["processes"], row["threads"]) == (2, 4)


def test_the_widths_that_are_measured_with_threads_in_processes() -> None:
    waits_and_computes = Cost(0.1, 0.03)
    assert plan.mixed_cells((1, 2, 4, 6, 8), waits_and_computes, 2) == [Cell(MIXED, 4), Cell(MIXED, 6), Cell(MIXED, 8)]
    assert plan.mixed_cells((1, 2, 4, 8, 16), waits_and_computes, 8) == [Cell(MIXED, 16)]
    assert plan.mixed_cells((1, 2, 4, 8), waits_and_computes, 1) == []
    assert plan.mixed_cells((1, 2, 4, 8), Cost(0.05, 0.05), 2) == []
    assert plan.mixed_cells((1, 2, 4, 8), Cost(1e-6, 1e-7), 2) == []


# -- memory ----------------------------------------------------------------------------------------------------------

WAITS: dict[str, Any] = {
    "wall": 0.05,
    "cpu": 0.001,
    "threads": {1: 19.0, 4: 76.0, 16: 300.0},
    "processes": {1: 19.0, 4: 75.0, 16: 290.0},
}


def test_the_memory_of_all_workers_at_their_peak_is_given_and_has_to_fit() -> None:
    roomy = advice(subject(**WAITS, peak=100.0), Machine(2, 24_000.0, True, "3.11.4"))
    assert roomy[:3] == ("waits", "thread", 16)
    assert "16 at once take 1,600 MB at their peaks (100 MB each)" in roomy[3]
    tight = advice(subject(**WAITS, peak=100.0), Machine(2, 1000.0, True, "3.11.4"))
    assert tight[:3] == ("waits", "thread", 4)
    assert advice(subject(**WAITS, peak=1.0))[2] == 16
    assert "peaks" not in advice(subject(**WAITS, peak=1.0))[3]


# -- noise -----------------------------------------------------------------------------------------------------------


def test_a_busy_machine_makes_the_advice_uncertain() -> None:
    quiet, noisy = (as_json(subject(**HEAVY, others=others), TWO_CORES) for others in (0.1, 0.9))
    assert (quiet["advice"]["certain"], quiet["advice"]["doubts"]) == (True, [])
    assert "Not certain" not in quiet["verdict"]
    assert noisy["advice"]["certain"] is False
    assert noisy["advice"]["doubts"][0] == "other programs used 0.9 of 2 cores meanwhile"
    assert noisy["verdict"].endswith("Not certain: other programs used 0.9 of 2 cores meanwhile.")


def test_too_few_measurements_make_the_advice_uncertain() -> None:
    only_wide = as_json(subject(0.05, 0.001, {1: 19.0, 16: 300.0}, {1: 19.0, 16: 290.0}), TWO_CORES)
    assert only_wide["advice"]["doubts"] == ["too few widths were measured"]
    one_mode = as_json(subject(0.05, 0.001, {1: 19.0, 4: 76.0, 16: 80.0}, {}), TWO_CORES)
    assert "only one of the two modes was measured" in one_mode["advice"]["doubts"]
    tiny = as_json(subject(1e-6, 1e-6, {1: 9000.0}, {1: 9100.0}, others=1.0), TWO_CORES)
    assert tiny["advice"]["certain"], "that much more queue than work does not change with the noise"


@pytest.mark.parametrize(
    ("others", "ours", "machine", "left"),
    [(0.5, 2, 2, 0.5), (3.0, 2, 2, 2.0), (0.5, 1, 8, 0.0), (7.5, 1, 8, 0.5), (-0.1, 2, 2, 0.0)],
)
def test_only_our_cores_count(others: float, ours: int, machine: int, left: float) -> None:
    """A container with one of eight cores is not disturbed by a program that uses two others."""
    assert taken(others, ours, machine) == left
