"""The messages between a child and its supervisor, seen from the child."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from jobqueue.workers.child.supervisor_link import SupervisorLink
from jobqueue.workers.shared.messages import OutOfWork, Quiet, Retire, StopJob, encode


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_messages_to_the_supervisor(ends: tuple[socket.socket, socket.socket]) -> None:
    link = SupervisorLink(ends[0])
    link.out_of_work()
    link.ask_to_retire()
    assert ends[1].recv(100) == encode(OutOfWork()) + encode(Retire())


def test_messages_from_the_supervisor_may_arrive_in_parts(ends: tuple[socket.socket, socket.socket]) -> None:
    link, text = SupervisorLink(ends[0]), encode(Quiet()) + encode(StopJob(7))
    ends[1].send(text[:-3])
    assert link.hear() == [Quiet()]
    ends[1].send(text[-3:])
    assert link.hear() == [StopJob(7)]


def test_a_supervisor_that_is_gone_is_noticed(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[1].close()
    link = SupervisorLink(ends[0])
    link.out_of_work()  # raises nothing
    assert link.hear() is None


def test_nothing_is_sent_without_a_supervisor(ends: tuple[socket.socket, socket.socket]) -> None:
    """Without a reader the messages would fill the socket, and then hold up the sender."""
    link = SupervisorLink(ends[0], listens=False)
    link.out_of_work()
    ends[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        ends[1].recv(100)
