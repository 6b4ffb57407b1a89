"""How much `jobq compare` measures in the given time, and how many jobs a run has."""

from __future__ import annotations

import pytest

from jobqueue.compare import plan
from jobqueue.compare.plan import Cell, CompareOptions, Cost

WAITS = Cost(0.05, 0.001)
COMPUTES = Cost(0.05, 0.05)


def test_widths_are_powers_of_two_and_the_maximum() -> None:
    assert plan.widths_up_to(16) == (1, 2, 4, 8, 16)
    assert plan.widths_up_to(6) == (1, 2, 4, 6)
    assert plan.widths_up_to(1) == (1,)


def test_the_defaults_take_75_seconds() -> None:
    assert plan.budget(CompareOptions(), 4) <= 80
    assert plan.budget(CompareOptions(repeat=5), 4) > 150
    assert plan.budget(CompareOptions(seconds=30.0), 4) == 30.0


def test_a_small_budget_makes_short_runs_and_none_shorter_than_can_be_measured() -> None:
    assert plan.slice_of(CompareOptions(), 4) == plan.SLICE
    assert plan.slice_of(CompareOptions(seconds=50.0), 4) < plan.SLICE
    assert plan.slice_of(CompareOptions(seconds=5.0), 4) == plan.SLICES[0]


def test_the_trials_get_time_of_what_is_measured_only_where_enough_is_left() -> None:
    assert plan.measuring(75.0, trials=True) == 75.0 * plan.OVERTIME - plan.TRIAL_SECONDS
    assert plan.measuring(10.0, trials=True) == 10.0
    assert plan.measuring(75.0, trials=False) == 75.0


def test_a_machine_that_is_slower_than_expected_makes_runs_shorter_not_fewer() -> None:
    assert plan.rest_slice(0.5, 100.0, 10) == 0.5
    assert plan.rest_slice(0.5, 10.0, 40) == pytest.approx(0.25 / plan.PER_RUN)
    assert plan.rest_slice(0.5, -3.0, 40) == plan.SLICES[0]


def test_the_expected_rate_is_bound_by_waits_cores_and_the_queue() -> None:
    assert plan.expected_rate(Cell("thread", 16), WAITS, 2, {}) == pytest.approx(320)
    assert plan.expected_rate(Cell("process", 16), COMPUTES, 2, {}) == pytest.approx(40)
    assert plan.expected_rate(Cell("thread", 1), Cost(1e-7, 1e-7), 2, {}) == plan.CEILINGS["thread"]


def test_a_rate_that_stopped_to_grow_is_expected_to_stay() -> None:
    before = {Cell("thread", 1): 20.0, Cell("thread", 2): 20.0, Cell("process", 1): 20.0}
    assert plan.expected_rate(Cell("thread", 4), COMPUTES, 2, before) == pytest.approx(20)
    assert plan.expected_rate(Cell("process", 2), COMPUTES, 2, before) == pytest.approx(40)


def test_jobs_fill_the_time_and_every_consumer_has_as_many() -> None:
    assert plan.jobs_for(Cell("thread", 1), 20.0, 0.5) == 10
    assert plan.jobs_for(Cell("process", 16), 40.0, 0.5) == 32
    assert plan.jobs_for(Cell("process", 16), 1.0, 0.5) == 16
    assert plan.jobs_for(Cell("thread", 4), 1e9, 0.5) == plan.MOST_JOBS


def test_all_rows_fit_when_jobs_are_short() -> None:
    assert plan.fitting((1, 2, 4), WAITS, 2, CompareOptions(), 10.0) == plan.cells((1, 2, 4))


def test_where_time_is_short_the_pools_go_first_then_the_widest() -> None:
    one = Cost(1.0, 1.0)
    whole = plan.fitting((1, 2, 4), one, 2, CompareOptions(), 100.0)
    assert {cell.mode for cell in whole} == {"thread", "process", "ThreadPoolExecutor", "ProcessPoolExecutor"}
    some = plan.fitting((1, 2, 4), one, 2, CompareOptions(), 13.0)
    assert {cell.mode for cell in some} == {"thread", "process"}
    assert {cell.workers for cell in some} == {1, 2, 4}
    few = plan.fitting((1, 2, 4), one, 2, CompareOptions(), 3.0)
    assert few == [Cell("thread", 2), Cell("process", 2)]


def test_what_does_not_fit_at_all_is_not_measured() -> None:
    assert plan.fitting((1, 2, 4), Cost(30.0, 0.0), 2, CompareOptions(), 10.0) == []
    assert plan.fitting((1, 2), Cost(1.0, 0.0), 2, CompareOptions(jobs=100), 10.0) == []


def test_the_smallest_and_the_largest_width_are_measured_first() -> None:
    assert plan.in_order((1, 2, 4, 8, 16), 2) == [1, 16, 2, 4, 8]
    assert plan.in_order((1,), 2) == [1]
