"""An interrupt reaches the job that it is meant for, and no other."""

from __future__ import annotations

import cProfile
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from helpers import eventually
from rq.timeouts import JobTimeoutException

from jobqueue.workers.rq_finish.limits import LEAST, FinishLimits
from jobqueue.workers.running.limits import Interrupted, Interruptible, WrittenOff, time_limit_error


@pytest.fixture(autouse=True)
def _alarm_comes_back() -> Iterator[None]:
    old = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, old)


def in_main(work: Callable[[], None]) -> None:
    work()


def in_thread(work: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as e:
            errors.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


PLACES = pytest.mark.parametrize("place", [in_main, in_thread])


@PLACES
def test_an_interrupt_is_raised_in_the_job(place: Callable[[Callable[[], None]], None]) -> None:
    slot = Interruptible()

    def work() -> None:
        slot.bind()
        slot.enter(7, 60)
        deadline = time.monotonic() + 20
        try:
            threading.Timer(0.05, lambda: slot.interrupt(7, Interrupted)).start()
            while time.monotonic() < deadline:
                time.sleep(0.01)
        except Interrupted:
            return
        finally:
            slot.leave()
        pytest.fail("nothing was raised")

    place(work)


def test_an_interrupt_wakes_a_sleep_in_the_main_thread() -> None:
    slot = Interruptible()
    slot.bind()
    slot.enter(7, 60)
    timer = threading.Timer(0.05, lambda: slot.interrupt(7, Interrupted))

    def work() -> None:
        timer.start()
        time.sleep(30)

    started = time.monotonic()
    with pytest.raises(Interrupted):
        work()
    slot.leave()
    assert time.monotonic() - started < 20


@PLACES
def test_an_interrupt_for_another_job_is_not_raised(place: Callable[[Callable[[], None]], None]) -> None:
    slot = Interruptible()

    def work() -> None:
        slot.bind()
        slot.enter(2, 60)
        assert not slot.interrupt(1, Interrupted)
        sum(range(1000))
        slot.leave()
        assert not slot.interrupt(2, Interrupted)
        sum(range(1000))

    place(work)


@PLACES
def test_an_interrupt_never_reaches_the_next_job(place: Callable[[Callable[[], None]], None]) -> None:
    """Another thread interrupts each job at about the moment when it ends: an exception is only raised within the
    job."""
    slot = Interruptible()
    rounds, hits, stop = 3000, [0], threading.Event()

    def fire() -> None:
        last = 0
        while not stop.is_set():
            if (target := slot.target) not in (0, last):
                slot.interrupt(target, Interrupted)
                last = target

    def work() -> None:
        slot.bind()
        target, deadline = 0, time.monotonic() + 30
        while target < rounds or (not hits[0] and time.monotonic() < deadline):  # the other thread may wait for a core
            target += 1
            try:
                slot.enter(target, 60)
                try:
                    for _ in range(target % 3000):
                        pass
                finally:
                    slot.leave()
            except Interrupted:
                hits[0] += 1
                slot.leave()  # as the slot does: repeated, as the first call may itself be interrupted
            sum(range(100))  # an exception here, between the jobs, ends the test

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    shooter = threading.Thread(target=fire)
    shooter.start()
    try:
        place(work)
    finally:
        stop.set()
        shooter.join(20)
        sys.setswitchinterval(usual)
    assert hits[0] > 0  # the number depends on the machine; with none the test shows nothing


class Ajar:
    """A lock as in CPython 3.14: an exception may arrive when ``with`` has acquired the lock and does not release
    it."""

    def __init__(self, thread: int) -> None:
        self._lock, self._thread = threading.Lock(), thread
        self.acquire, self.release, self.locked = self._lock.acquire, self._lock.release, self._lock.locked

    def __enter__(self) -> None:
        self.acquire()
        if threading.get_ident() == self._thread:
            raise Interrupted

    def __exit__(self, *_: object) -> None:
        self.release()


def test_an_interrupt_on_the_way_out_leaves_the_lock_free() -> None:
    """If the lock stayed held, the slot and its watchdog would wait for each other for ever."""
    slot = Interruptible()
    slot._lock = ajar = Ajar(threading.get_ident())  # type: ignore[assignment]
    slot.bind()
    slot.enter(1, 60)
    other = threading.Thread(target=slot.interrupt, args=(2, Interrupted))  # too late, but leave() waits for it
    other.start()
    other.join(20)
    slot.leave()
    assert not ajar.locked()


@PLACES
def test_a_profiler_runs_behind_an_interrupt_that_came_too_late(place: Callable[[Callable[[], None]], None]) -> None:
    """CPython 3.11 went on for ever."""

    def work() -> None:
        slot = Interruptible()
        slot.bind()
        slot.enter(1, 60)
        slot.interrupt(2, Interrupted)
        slot.leave()
        profile = cProfile.Profile()
        assert profile.runcall(lambda: sum(n for n in range(3))) == 3

    place(work)


def test_an_interrupt_reaches_one_thread_only() -> None:
    """Interrupting one thread does not affect the others."""
    slots = [Interruptible() for _ in range(3)]
    ended: dict[int, str] = {}
    go_on = threading.Event()

    def work(n: int) -> None:
        slots[n].bind()
        try:
            slots[n].enter(n + 1, 60)
            while not go_on.is_set():
                time.sleep(0.005)
            ended[n] = "done"
        except Interrupted:
            ended[n] = "interrupted"
        finally:
            slots[n].leave()

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: all(slot.target for slot in slots))
    assert slots[1].interrupt(2, Interrupted)
    eventually(lambda: ended == {1: "interrupted"})
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert ended == {0: "done", 1: "interrupted", 2: "done"}


def test_the_error_names_the_limit() -> None:
    kind = time_limit_error(2.5)
    assert issubclass(kind, JobTimeoutException)
    assert str(kind()) == "The job ran longer than its time limit of 2.5 s."
    assert f"{kind.__module__}.{kind.__qualname__}" == "jobqueue.errors.TimeLimitExceeded"
    assert str(time_limit_error(1)()) != str(kind())


def test_deadlines_of_a_slot() -> None:
    slot = Interruptible()
    slot.bind()
    slot.enter(1, 0)
    assert slot.deadline == 0.0
    slot.enter(2, 5)
    assert 0 < slot.deadline - time.monotonic() <= 5
    slot.leave()
    assert (slot.target, slot.deadline) == (0, 0.0)


def test_a_callbacks_penalty_sets_and_clears_the_deadline() -> None:
    slot = Interruptible()
    slot.bind()
    penalty = FinishLimits(slot).penalty()
    tokens = set()
    for _ in range(2):
        with penalty(5, JobTimeoutException, job_id="x"):
            assert slot.target < 0  # no claim number, and another one for each callback
            assert slot.deadline
            tokens.add(slot.target)
        assert (slot.target, slot.deadline) == (0, 0.0)
    assert len(tokens) == 2


def test_the_limit_of_a_finish_applies_between_requests_to_the_store() -> None:
    slot = Interruptible()
    slot.bind()
    limits = FinishLimits(slot)
    with limits.stretch(3):
        assert LEAST - 1 < slot.deadline - time.monotonic() <= LEAST
        with limits.paused():
            assert slot.target == 0
        with limits.penalty()(5, JobTimeoutException, job_id="x"):
            with limits.paused():  # a callback that waits for the store
                assert slot.target < 0
            assert slot.deadline - time.monotonic() <= 5
        assert slot.target < 0
        limits.close()
        assert slot.target == 0
    assert (slot.target, slot.deadline) == (0, 0.0)


def test_a_thread_that_was_written_off_ends_before_it_asks_the_store() -> None:
    slot = Interruptible()
    slot.bind()
    limits = FinishLimits(slot)

    def finish() -> None:
        with limits.stretch(3):
            slot.written_off = True
            with limits.paused():
                pytest.fail("it asked the store")

    with pytest.raises(WrittenOff):
        finish()
