"""What CPython's documentation of concurrent.futures promises: each promise is quoted above its test.

The same tests run on the standard library's executors and on ours, so that they cannot ask for what is not meant.
"""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import samples
from helpers import Server, Tree, eventually, lines

from jobqueue import JobExecutor

KINDS = ["threads", "processes", "jobs in threads", "jobs in processes", "jobs elsewhere"]
OURS = KINDS[2:]
WORKERS = 2
LONG = 60.0  # seconds after which a call counts as hanging

Make = Callable[[], cf.Executor]


@pytest.fixture(scope="module")
def worker(module_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """A worker for the executors that have none of their own."""
    flags = ["--mode", "process", "-n", str(WORKERS), "-I", "samples", "-I", "builtins:pow"]
    tree = Tree(module_server.url, tmp_path_factory.mktemp("worker"), flags, {})
    yield tree
    tree.stop()
    tree.destroy()


@pytest.fixture(scope="module", params=KINDS)
def make(request: pytest.FixtureRequest, module_server: Server) -> Make:
    """Make an executor of one kind with two workers."""
    url = module_server.url
    match request.param:
        case "threads":
            return lambda: cf.ThreadPoolExecutor(WORKERS)
        case "processes":
            return lambda: cf.ProcessPoolExecutor(WORKERS, multiprocessing.get_context("forkserver"))
        case "jobs elsewhere":
            request.getfixturevalue("worker")
            return lambda: JobExecutor(url=url)
        case _:
            mode = "thread" if "threads" in request.param else "process"
            return lambda: JobExecutor(mode, WORKERS, url=url, modules=["samples", "builtins:pow"])


@pytest.fixture(scope="module")
def shared(make: Make) -> Iterator[cf.Executor]:
    with make() as executor:
        yield executor


@pytest.fixture
def pool(shared: cf.Executor, gate: Gate) -> Iterator[cf.Executor]:
    """An executor for all tests that leave it unchanged."""
    yield shared
    gate.open()


class Gate:
    """A gate for which calls wait until it is opened."""

    def __init__(self, directory: Path) -> None:
        self.path, self.record = str(directory / "gate"), str(directory / "record")

    def held(self, pool: cf.Executor, name: str = "x") -> cf.Future[Any]:
        return pool.submit(samples.wait_for, self.record, name, self.path, LONG)

    def fill(self, pool: cf.Executor) -> list[cf.Future[Any]]:
        """Keep all workers busy; return as soon as they are."""
        futures = [self.held(pool, f"filler {n}") for n in range(WORKERS)]
        eventually(lambda: all(future.running() for future in futures))
        return futures

    def pending(self, pool: cf.Executor) -> cf.Future[Any]:
        """Submit a call, while all workers are busy, that none of them takes; a process pool takes some more than it
        runs."""
        self.fill(pool)
        return [pool.submit(samples.ok, n) for n in range(WORKERS + 4)][-1]

    def open(self) -> None:
        Path(self.path).touch()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


# -- Executor.submit -------------------------------------------------------------------------------------------------


# "Schedules the callable, fn, to be executed as fn(*args, **kwargs)"
def test_submit_calls_with_arguments(pool: cf.Executor) -> None:
    assert pool.submit(pow, 323, 1235).result(LONG) == 323**1235
    assert pool.submit(samples.ok, value=[1, {"a": None}]).result(LONG) == [1, {"a": None}]


# "and returns a Future object representing the execution of the callable."
def test_submit_returns_a_future(pool: cf.Executor) -> None:
    assert isinstance(pool, cf.Executor)
    future = pool.submit(samples.ok, 1)
    assert isinstance(future, cf.Future)
    assert future.result(LONG) == 1


# "Executes calls asynchronously"
def test_submit_does_not_wait(pool: cf.Executor, gate: Gate) -> None:
    future = gate.held(pool)
    assert not future.done()
    gate.open()
    assert future.result(LONG) == "x"


# -- Executor.map ----------------------------------------------------------------------------------------------------


# "Similar to map(fn, *iterables)": the order of the calls, and the shortest iterable ends it
def test_map_is_like_map(pool: cf.Executor) -> None:
    assert list(pool.map(samples.ok, range(40))) == list(range(40))
    assert list(pool.map(pow, [2, 3, 4], [5, 2])) == [32, 9]
    assert list(pool.map(samples.ok, [])) == []


# "the iterables are collected immediately rather than lazily"
def test_map_collects_at_once(pool: cf.Executor) -> None:
    read = []
    results = pool.map(samples.ok, (read.append(n) or n for n in range(5)))
    assert read == [0, 1, 2, 3, 4]
    assert list(results) == read


# "unless a buffersize is specified: If the buffer is full, then the iteration over iterables is paused until a result
# is yielded from the buffer."
def test_map_with_a_buffer(pool: cf.Executor) -> None:
    if not isinstance(pool, JobExecutor) and sys.version_info < (3, 14):
        pytest.skip("buffersize came with Python 3.14")
    read: list[int] = []
    results = pool.map(samples.ok, (read.append(n) or n for n in range(9)), buffersize=3)  # type: ignore[call-arg]
    assert read == [0, 1, 2]
    assert next(results) == 0
    assert read == [0, 1, 2, 3]
    assert list(results) == list(range(1, 9))
    for wrong, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error):
            pool.map(samples.ok, [1], buffersize=wrong)  # type: ignore[call-arg]


# "fn is executed asynchronously and several calls to fn may be made concurrently."
def test_map_runs_calls_at_the_same_time(pool: cf.Executor, gate: Gate) -> None:
    results = pool.map(samples.wait_for, [gate.record] * WORKERS, "ab", [gate.path] * WORKERS)
    eventually(lambda: sorted(lines(gate.record)) == ["start a", "start b"])
    gate.open()
    assert list(results) == ["a", "b"]


# "The returned iterator raises a TimeoutError if __next__() is called and the result isn't available after timeout
# seconds from the original call to Executor.map()."
def test_map_timeout(pool: cf.Executor, gate: Gate) -> None:
    results = pool.map(samples.wait_for, [gate.record], ["x"], [gate.path], timeout=0.05)
    with pytest.raises(TimeoutError):
        next(results)


# "If a fn call raises an exception, then that exception will be raised when its value is retrieved from the iterator."
def test_map_raises_at_its_place(pool: cf.Executor) -> None:
    results = pool.map(samples.in_turn, [1, 0, 2])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


# "The (approximate) size of these chunks can be specified by setting chunksize to a positive integer."
def test_map_with_chunks(pool: cf.Executor) -> None:
    assert list(pool.map(samples.ok, range(10), chunksize=4)) == list(range(10))
    if not isinstance(pool, cf.ThreadPoolExecutor):  # "With ThreadPoolExecutor, chunksize has no effect."
        with pytest.raises(ValueError, match="chunksize"):
            pool.map(samples.ok, [1], chunksize=0)


# -- Executor.shutdown -----------------------------------------------------------------------------------------------


# "If wait is True then this method will not return until all the pending futures are done executing"
# "Calls to Executor.submit() and Executor.map() made after shutdown will raise RuntimeError."
def test_shutdown(make: Make) -> None:
    executor = make()
    futures = [executor.submit(samples.nap, 0.02) for _ in range(6)]
    executor.shutdown(wait=True)
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(samples.ok, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(samples.ok, [1])
    executor.shutdown()  # "It is safe to call this method several times."


# "If wait is False then this method will return immediately and the resources associated with the executor will be
# freed when all pending futures are done executing."
def test_shutdown_without_waiting(make: Make, gate: Gate) -> None:
    executor = make()
    futures = [gate.held(executor, str(n)) for n in range(4)]
    executor.shutdown(wait=False)
    assert not any(future.done() for future in futures)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(samples.ok, 1)
    gate.open()
    assert [future.result(LONG) for future in futures] == ["0", "1", "2", "3"]
    executor.shutdown(wait=True)


# "If cancel_futures is True, this method will cancel all pending futures that the executor has not started running."
# "If both cancel_futures and wait are True, all futures that the executor has started running will be completed prior
# to this method returning. The remaining futures are cancelled."
def test_shutdown_that_cancels(make: Make, gate: Gate) -> None:
    executor = make()
    running = gate.fill(executor)
    waiting = [executor.submit(samples.ok, n) for n in range(10)]

    def open_when_canceled() -> None:
        eventually(lambda: all(future.cancelled() or future.running() for future in waiting))
        gate.open()

    opener = threading.Thread(target=open_when_canceled)
    opener.start()
    executor.shutdown(wait=True, cancel_futures=True)
    opener.join()
    assert [future.result(0) for future in running] == ["filler 0", "filler 1"]
    assert all(future.done() for future in waiting)
    canceled = [future.cancelled() for future in waiting]
    assert sum(canceled) >= 7  # a pool that has taken some calls ahead may run these
    assert canceled == sorted(canceled)


# "the with statement, which will shutdown the Executor (waiting as if Executor.shutdown() were called with wait set
# to True)"
def test_with_waits_also_when_its_body_raises(make: Make) -> None:
    futures: list[cf.Future[Any]] = []

    def body() -> None:
        with make() as executor:
            futures.extend(executor.submit(samples.nap, 0.05) for _ in range(4))
            raise LookupError("in the body")

    with pytest.raises(LookupError, match="in the body"):
        body()
    assert [future.result(0) for future in futures] == [0.05] * 4


# -- Future.cancel, cancelled, running, done ------------------------------------------------------------------------


# "If the call is currently being executed or finished running and cannot be cancelled then the method will return
# False"; running(): "Return True if the call is currently being executed and cannot be cancelled."
def test_a_running_call_is_not_canceled(pool: cf.Executor, gate: Gate) -> None:
    (future, *_) = gate.fill(pool)
    assert not future.cancel()
    assert (future.running(), future.cancelled(), future.done()) == (True, False, False)
    gate.open()
    assert future.result(LONG) == "filler 0"
    assert not future.cancel()
    assert (future.running(), future.cancelled(), future.done()) == (False, False, True)


# "otherwise the call will be cancelled and the method will return True"; cancelled(): "Return True if the call was
# successfully cancelled."; done(): "Return True if the call was successfully cancelled or finished running."
def test_a_waiting_call_is_canceled(pool: cf.Executor, gate: Gate) -> None:
    last = gate.pending(pool)
    assert (last.running(), last.cancelled(), last.done()) == (False, False, False)
    assert last.cancel()
    assert last.cancel()
    assert (last.running(), last.cancelled(), last.done()) == (False, True, True)


def test_a_canceled_call_does_not_run(pool: cf.Executor, gate: Gate) -> None:
    gate.fill(pool)
    futures = [pool.submit(samples.note, gate.record, n) for n in range(8)]
    canceled = [n for n, future in enumerate(futures) if future.cancel()]
    assert canceled
    gate.open()
    assert pool.submit(samples.ok, "behind them").result(LONG) == "behind them"
    cf.wait(futures, LONG)
    assert {int(line) for line in lines(gate.record) if line.isdigit()} == set(range(8)) - set(canceled)


# -- Future.result, exception ---------------------------------------------------------------------------------------


# "If the call hasn't completed in timeout seconds, then a TimeoutError will be raised. timeout can be an int or float."
def test_result_and_exception_time_out(pool: cf.Executor, gate: Gate) -> None:
    future = gate.held(pool)
    for ask in (future.result, future.exception):
        for timeout in (0, 0.01):
            with pytest.raises(TimeoutError):
                ask(timeout=timeout)


# "If the future is cancelled before completing then CancelledError will be raised."
def test_result_and_exception_of_a_canceled_call(pool: cf.Executor, gate: Gate) -> None:
    last = gate.pending(pool)
    last.cancel()
    for ask in (last.result, last.exception):
        with pytest.raises(cf.CancelledError):
            ask(timeout=LONG)


# "If the call raised an exception, this method will raise the same exception."
# "Return the exception raised by the call."
def test_an_exception(pool: cf.Executor) -> None:
    future = pool.submit(samples.fail, "as I wished")
    with pytest.raises(ValueError, match=r"^as I wished$") as raised:
        future.result(LONG)
    error = future.exception(LONG)
    assert type(error) is ValueError
    assert error.args == raised.value.args == ("as I wished",)


# (process pools, since Python 3.5) the remote traceback is the exception's cause
def test_an_exception_shows_where_it_came_from(pool: cf.Executor) -> None:
    error = pool.submit(samples.fail, "far away").exception(LONG)
    assert error is not None
    if isinstance(pool, cf.ThreadPoolExecutor):
        assert error.__cause__ is None
        return
    assert "samples.py" in str(error.__cause__)
    assert 'raise ValueError(text)\nValueError: far away\n"""' in str(error.__cause__)


# "If the call completed without raising, None is returned."
def test_no_exception(pool: cf.Executor) -> None:
    assert pool.submit(samples.ok, 1).exception(LONG) is None


# a thread that waits is woken by the cancellation too
def test_a_cancellation_wakes_a_waiting_thread(pool: cf.Executor, gate: Gate) -> None:
    last = gate.pending(pool)
    seen: list[object] = []

    def wait() -> None:
        try:
            last.result(LONG)
        except cf.CancelledError:
            seen.append("canceled")

    thread = threading.Thread(target=wait)
    thread.start()
    last.cancel()
    thread.join(LONG)
    assert seen == ["canceled"]


# -- Future.add_done_callback ----------------------------------------------------------------------------------------


# "fn will be called, with the future as its only argument, when the future is cancelled or finishes running."
# "Added callables are called in the order that they were added and are always called in a thread belonging to the
# process that added them."
def test_callbacks(pool: cf.Executor, gate: Gate) -> None:
    future, seen = gate.held(pool), []
    for name in "abc":
        future.add_done_callback(lambda it, name=name: seen.append((name, it, os.getpid())))  # type: ignore[misc]
    gate.open()
    eventually(lambda: len(seen) == 3)
    assert seen == [(name, future, os.getpid()) for name in "abc"]


def test_callbacks_of_a_canceled_call(pool: cf.Executor, gate: Gate) -> None:
    last, seen = gate.pending(pool), []
    last.add_done_callback(seen.append)
    last.cancel()
    eventually(lambda: seen == [last])  # the executor's thread may have seen it first, and calls them then


# "If the callable raises an Exception subclass, it will be logged and ignored."
def test_callbacks_that_raise(pool: cf.Executor, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    future, seen = gate.held(pool), []

    def bad(_: object) -> None:
        raise LookupError("bad callback")

    future.add_done_callback(bad)
    future.add_done_callback(seen.append)
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        gate.open()
        eventually(lambda: seen == [future])
    assert "bad callback" in caplog.text
    assert future.result(0) == "x"
    assert pool.submit(samples.ok, 1).result(LONG) == 1


# "If the future has already completed or been cancelled, fn will be called immediately."
def test_callbacks_that_are_added_late(pool: cf.Executor) -> None:
    future, seen = pool.submit(samples.ok, 1), []
    future.result(LONG)
    future.add_done_callback(lambda it: seen.append((it, threading.current_thread())))
    assert seen == [(future, threading.current_thread())]


# -- Future: for executors and tests ---------------------------------------------------------------------------------


# "If the method returns False then the Future was cancelled, i.e. Future.cancel() was called and returned True."
# "This method can only be called once"; an executor has called it by then
def test_set_running_or_notify_cancel(pool: cf.Executor, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    (running, *_) = gate.fill(pool)
    with caplog.at_level(logging.CRITICAL), pytest.raises(RuntimeError, match="unexpected state"):
        running.set_running_or_notify_cancel()


# "This method raises concurrent.futures.InvalidStateError if the Future is already done."
def test_a_done_future_cannot_be_set(pool: cf.Executor) -> None:
    future = pool.submit(samples.ok, 1)
    future.result(LONG)
    with pytest.raises(cf.InvalidStateError):
        future.set_result(2)
    with pytest.raises(cf.InvalidStateError):
        future.set_exception(ValueError())
    assert future.result(0) == 1


# -- wait ------------------------------------------------------------------------------------------------------------


# "ALL_COMPLETED: The function will return when all futures finish or are cancelled."
# "Duplicate futures given to fs are removed and will be returned only once. Returns a named 2-tuple of sets."
def test_wait_for_all(pool: cf.Executor, gate: Gate) -> None:
    last = gate.pending(pool)
    last.cancel()
    gate.open()
    futures = [last, pool.submit(samples.fail), pool.submit(samples.ok, 1)]
    found = cf.wait([*futures, *futures], LONG)
    assert (found.done, found.not_done) == (set(futures), set())


# "FIRST_COMPLETED: The function will return when any future finishes or is cancelled."
def test_wait_for_the_first(pool: cf.Executor, gate: Gate) -> None:
    held, quick = gate.held(pool), pool.submit(samples.ok, 1)
    assert cf.wait([held, quick], LONG, cf.FIRST_COMPLETED) == ({quick}, {held})


# "FIRST_EXCEPTION: The function will return when any future finishes by raising an exception. If no future raises an
# exception then it is equivalent to ALL_COMPLETED."
def test_wait_for_an_exception(pool: cf.Executor, gate: Gate) -> None:
    held, good = gate.held(pool), pool.submit(samples.ok, 1)
    good.result(LONG)
    bad = pool.submit(samples.fail)
    assert cf.wait([held, good, bad], LONG, cf.FIRST_EXCEPTION) == ({good, bad}, {held})
    gate.open()
    assert cf.wait([held, good], LONG, cf.FIRST_EXCEPTION) == ({held, good}, set())


# "timeout can be used to control the maximum number of seconds to wait before returning."
def test_wait_with_a_timeout(pool: cf.Executor, gate: Gate) -> None:
    held, quick = gate.held(pool), pool.submit(samples.ok, 1)
    quick.result(LONG)
    assert cf.wait([held, quick], timeout=0.05) == ({quick}, {held})


# "futures (possibly created by different Executor instances)"
def test_wait_for_futures_of_several_executors(pool: cf.Executor) -> None:
    with cf.ThreadPoolExecutor(1) as other:
        futures = [pool.submit(samples.ok, 1), other.submit(samples.ok, 2)]
        assert {future.result() for future in cf.as_completed(futures, LONG)} == {1, 2}


# -- as_completed ----------------------------------------------------------------------------------------------------


# "yields futures as they complete (finished or cancelled futures)."
# "Any futures given by fs that are duplicated will be returned once."
# "Any futures that completed before as_completed() is called will be yielded first."
def test_as_completed(pool: cf.Executor, gate: Gate) -> None:
    held, early = gate.held(pool), pool.submit(samples.ok, "early")
    early.result(LONG)
    late = pool.submit(samples.ok, "late")
    found = cf.as_completed([held, late, early, held, early], LONG)
    late.result(LONG)
    assert {next(found), next(found)} == {early, late}
    gate.open()
    assert list(found) == [held]


# "The returned iterator raises a TimeoutError if __next__() is called and the result isn't available after timeout
# seconds from the original call to as_completed()."
def test_as_completed_times_out(pool: cf.Executor, gate: Gate) -> None:
    held, quick = gate.held(pool), pool.submit(samples.ok, 1)
    quick.result(LONG)
    found = cf.as_completed([held, quick], timeout=0.05)
    assert next(found) is quick
    with pytest.raises(TimeoutError):
        next(found)


# -- asyncio ---------------------------------------------------------------------------------------------------------


# asyncio: "loop.run_in_executor(executor, func, *args)", "asyncio.wrap_future(future): Wrap a
# concurrent.futures.Future object in a asyncio.Future object."
def test_futures_in_asyncio(pool: cf.Executor, gate: Gate) -> None:
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        futures = [loop.run_in_executor(pool, samples.ok, n) for n in range(5)]
        good = await asyncio.gather(*futures, asyncio.wrap_future(pool.submit(samples.fail)), return_exceptions=True)
        last = asyncio.wrap_future(gate.pending(pool))
        last.cancel()  # "cancels the future that it wraps", as chained futures do
        with pytest.raises(asyncio.CancelledError):
            await last
        return good

    *values, error = asyncio.run(main())
    assert values == [0, 1, 2, 3, 4]
    assert isinstance(error, ValueError)


# -- what is documented of ours alone --------------------------------------------------------------------------------


@pytest.mark.parametrize("make", OURS, indirect=True)
def test_futures_have_the_id_of_their_job(pool: cf.Executor, module_server: Server) -> None:
    future: Any = pool.submit(samples.ok, 1)
    assert future.result(LONG) == 1
    assert future.job_id in repr(future)
    from jobqueue.job import Job

    assert Job.fetch(future.job_id, module_server.client).get_status().value == "finished"


@pytest.mark.parametrize("make", OURS, indirect=True)
def test_an_idle_executor_reacts_at_once(pool: cf.Executor, gate: Gate) -> None:
    """While the executor waits for one job, it gets the result of a later job at once, not at its next poll."""
    gate.held(pool)
    pool.submit(samples.ok, 0).result(LONG)
    times = []
    for n in range(9):
        began = time.monotonic()
        pool.submit(samples.ok, n).result(LONG)
        times.append(time.monotonic() - began)
    assert sorted(times)[4] < 0.25  # a poll would take up to a second each; the median forgives a busy machine


@pytest.mark.parametrize("make", OURS, indirect=True)
def test_wait_for_a_cancellation(pool: cf.Executor, gate: Gate) -> None:
    """A cancellation is seen at once; the standard library tells waiters only when a worker reaches the canceled
    call."""
    last, held = gate.pending(pool), gate.held(pool)
    timer = threading.Timer(0.05, last.cancel)
    timer.start()
    assert cf.wait([last, held], LONG, cf.FIRST_COMPLETED) == ({last}, {held})
    timer.join()
