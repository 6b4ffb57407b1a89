"""Settings and files on their way to a fork server, and the process object of one that was forked in advance."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest
from helpers import eventually

from jobqueue.store.connection import Address
from jobqueue.workers.shared.forked_process import ForkedProcess
from jobqueue.workers.shared.handover import MOST_FILES, hand_over, take_over
from jobqueue.workers.shared.settings import Settings

SETTINGS = Settings(Address(url="redis://:secret@h/0"), "w", ("high", "low"), children=2, slots=1, grace=1.5)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_the_settings_and_more_files_than_one_message_takes_arrive(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    numbers = [os.pipe() for _ in range(MOST_FILES // 2 + 3)]
    sent = [number for pair in numbers for number in pair]
    sender = threading.Thread(target=hand_over, args=(ours, SETTINGS, sent))
    sender.start()
    try:
        taken = take_over(theirs)
        assert taken is not None
        settings, files = taken
        assert settings == SETTINGS
        assert [os.fstat(file).st_ino for file in files] == [os.fstat(number).st_ino for number in sent]
        assert not any(map(os.get_inheritable, files))
        for file in files:
            os.close(file)
    finally:
        sender.join()
        for number in sent:
            os.close(number)


def test_a_supervisor_that_ends_before_or_in_between(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    ours.sendall(b"3 " + SETTINGS.to_json().encode() + b"\n")
    socket.send_fds(ours, [b"."], [0])
    ours.close()
    assert take_over(theirs) is None
    assert take_over(theirs) is None


def forked(code: int | None) -> ForkedProcess:
    """Return a process that exits with this code, None: when it is killed."""
    program = ["sh", "-c", f"exit {code}" if code is not None else "exec sleep 60"]
    pid = os.posix_spawnp("sh", program, os.environ)
    ours, theirs = socket.socketpair()
    theirs.close()
    return ForkedProcess(pid, ours)


def test_how_a_forked_process_has_ended() -> None:
    process = forked(7)
    assert process.wait(30) == process.poll() == process.returncode == 7
    process.send_signal(signal.SIGKILL)  # to nobody: another process may have the pid
    process.end()


def test_a_forked_process_that_runs_is_waited_for_and_killed() -> None:
    process = forked(None)
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    process.end()
    assert process.returncode == -signal.SIGKILL
    process.end()


def test_a_forked_process_that_others_have_collected() -> None:
    process = forked(0)
    assert eventually(lambda: os.waitpid(process.pid, 0))
    assert process.poll() == 0
    process.end()
