"""The child watchdog's sleep, and what ends it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from jobqueue.workers.child.wake_pipe import WakePipe

LONG = 30.0  # seconds; a sleep that nothing ends fails the test by its time limit


@pytest.fixture
def wake_pipe() -> Iterator[WakePipe]:
    made = WakePipe()
    yield made
    made.close()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_the_sleep_ends_when_its_time_is_over(wake_pipe: WakePipe, ends: tuple[socket.socket, socket.socket]) -> None:
    woken = wake_pipe.sleep(lambda: 0.001, ends[0].fileno())
    assert not woken.by_socket
    assert woken.late > 0


def test_the_supervisor_ends_the_sleep(wake_pipe: WakePipe, ends: tuple[socket.socket, socket.socket]) -> None:
    ends[1].send(b"!")
    woken = wake_pipe.sleep(lambda: LONG, ends[0].fileno())
    assert woken == (True, 0.0)


def test_a_slot_ends_a_long_sleep(wake_pipe: WakePipe, ends: tuple[socket.socket, socket.socket]) -> None:
    asked = threading.Semaphore(0)

    def due_in() -> float:
        asked.release()
        return LONG

    def stir() -> None:
        for _ in range(2):  # from its second call on, a slot that starts a job has to end the sleep
            asked.acquire()
        wake_pipe.stir()

    slot = threading.Thread(target=stir)
    slot.start()
    assert wake_pipe.sleep(due_in, ends[0].fileno()) == (False, 0.0)
    slot.join()


def test_while_awake_a_wake_writes_nothing(wake_pipe: WakePipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot calls this for each job, so it must be cheap."""
    monkeypatch.setattr(os, "write", lambda *_: pytest.fail("it wrote"))
    wake_pipe.stir()


def test_a_job_that_starts_just_before_the_sleep_is_seen(
    wake_pipe: WakePipe, ends: tuple[socket.socket, socket.socket]
) -> None:
    """The next deadline is read again when slots have to end the sleep: a job that started in between has not done
    so."""
    answers = iter([None, 0.001])
    assert not wake_pipe.sleep(lambda: next(answers), ends[0].fileno()).by_socket
    assert next(answers, "none left") == "none left"


def test_of_short_sleeps_a_slot_ends_one_in_a_while(
    wake_pipe: WakePipe, ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of jobs of some 20 ms start in a second: the watchdog looks at some of them."""
    written: list[bytes] = []
    clock = [1000.0]
    monkeypatch.setattr(os, "write", lambda _fd, data: written.append(data))
    monkeypatch.setattr("jobqueue.workers.child.wake_pipe.monotonic", lambda: clock[0])

    def due_in() -> float:
        wake_pipe.stir()  # a job starts while the watchdog goes to sleep
        return 0.02

    for _ in range(10):
        wake_pipe.sleep(due_in, ends[0].fileno())
        clock[0] += 0.02
    assert len(written) == 4  # in 0.2 s
