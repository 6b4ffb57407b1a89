"""A job's future: its requests to the store, and its state after events in any order."""

from __future__ import annotations

import concurrent.futures as cf
from collections.abc import Sequence

import pytest

from jobqueue.errors import JobCanceled, JobFailed, NoSuchJob
from jobqueue.executor.futures import JobFuture
from jobqueue.model import Outcome


class Home:
    """An executor that gives the answers that the test sets."""

    def __init__(self) -> None:
        self.started = False
        self.asked: list[str] = []

    def cancel(self, futures: Sequence[JobFuture]) -> None:
        self.asked.append("cancel")
        for future in futures:
            future.set_canceled()

    def has_started(self, future: JobFuture) -> bool:
        self.asked.append("started")
        return self.started


@pytest.fixture
def home() -> Home:
    return Home()


@pytest.fixture
def future(home: Home) -> JobFuture:
    return JobFuture("a", "q", home)


def test_running_asks_the_store_each_time(home: Home, future: JobFuture) -> None:
    assert not future.running()
    home.started = True
    assert future.running()
    assert future.running()
    assert home.asked == ["started", "started"]


def test_a_job_that_has_started_once_is_not_canceled(home: Home, future: JobFuture) -> None:
    """A started job may be back in its queue: if it were removed there, its future would never end."""
    home.started = True
    assert future.running()
    assert not future.cancel()
    assert "cancel" not in home.asked
    future.settle(Outcome("a", 1))
    assert future.result(0) == 1


def test_cancel_may_be_called_twice(home: Home, future: JobFuture) -> None:
    seen: list[object] = []
    future.add_done_callback(seen.append)
    assert future.cancel()
    assert future.cancel()
    assert future.set_canceled()
    assert (home.asked, seen) == (["cancel"], [future])
    assert not future.running()


def test_an_outcome_that_comes_late_changes_nothing(future: JobFuture) -> None:
    future.cancel()
    future.settle(Outcome("a", 1))
    future.settle(Outcome("a", error=JobCanceled("Job a was canceled.", "a")))
    assert future.cancelled()


def test_a_job_that_was_canceled_elsewhere_ends_its_future(home: Home, future: JobFuture) -> None:
    future.settle(Outcome("a", error=JobCanceled("Job a was canceled.", "a")))
    assert future.cancelled()
    running = JobFuture("b", "q", home)
    home.started = True
    assert running.running()
    running.settle(Outcome("b", error=JobCanceled("Job b was canceled.", "b")))  # it ran, was given back, then canceled
    assert isinstance(running.exception(0), JobCanceled)


@pytest.mark.parametrize("error", [JobFailed("Job a failed: x", "a", ""), NoSuchJob("There is no job a.", "a")])
def test_errors_without_a_traceback_end_the_future(future: JobFuture, error: Exception) -> None:
    future.settle(Outcome("a", error=error))  # type: ignore[arg-type]
    assert future.exception(0) is error


def test_repr_shows_the_jobs_id(future: JobFuture) -> None:
    assert isinstance(future, cf.Future)
    assert "state=pending job=a>" in repr(future)
