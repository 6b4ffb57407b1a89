"""The main loop wakes for sockets and for events that other threads post, and calls each in order."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from jobqueue.workers.supervisor.main_loop import MainLoop


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_the_callback_of_a_readable_socket_is_called(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    loop, heard = MainLoop(), []
    loop.watch(ours, lambda: heard.append(ours.recv(10)))
    loop.wait(0)
    theirs.send(b"a")
    loop.wait(10)
    assert heard == [b"a"]


def test_the_callback_of_a_removed_socket_is_not_called(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    loop, heard = MainLoop(), []
    loop.watch(ours, lambda: heard.append(ours.recv(10)))
    loop.forget(ours)
    loop.forget(ours)
    theirs.send(b"a")
    loop.wait(0)
    assert heard == []


def test_events_of_other_threads_end_the_wait_and_come_in_order() -> None:
    loop, done = MainLoop(), []

    def post() -> None:
        for number in range(100):
            loop.post(lambda number=number: done.append((number, threading.current_thread().name)))  # type: ignore[misc]

    thread = threading.Thread(target=post)
    thread.start()
    began = time.monotonic()
    while len(done) < 100:
        loop.wait(10)
    thread.join()
    assert time.monotonic() - began < 10
    assert done == [(number, threading.current_thread().name) for number in range(100)]


def test_an_event_may_post_another() -> None:
    loop, done = MainLoop(), []
    loop.post(lambda: loop.post(lambda: done.append("second")))
    loop.wait(10)
    loop.wait(0)
    assert done == ["second"]
