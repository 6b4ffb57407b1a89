"""A seat: names, what its child says, and what is said of the jobs that a dead child ran."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import zlib
from base64 import b64decode
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from jobqueue.protocol.protocol import RETURNED, Outcome
from jobqueue.workers.shared.journal import DONE, Region, make_file
from jobqueue.workers.supervisor import child_handle as seats
from jobqueue.workers.supervisor.child_handle import Condemned, Seat, Use

SEGV = int(signal.SIGSEGV)
SLOTS = 3
NOW = 1000.0  # monotonic seconds, where the clock stands still


@pytest.fixture
def seat() -> Seat:
    return Seat(4, Region(make_file(5, SLOTS), 4, SLOTS))


@pytest.fixture
def child(seat: Seat) -> Iterator[socket.socket]:
    """The child's end of the socket of a seat that is taken."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    seat.next_owner("w")
    seat.seat(ours)
    seat.pid = 77
    yield theirs
    theirs.close()
    if seat.control:
        seat.control.close()


def run(seat: Seat, *claims: int) -> None:
    for slot, claim in enumerate(claims):
        seat.region.begin(slot, claim, 1.0, 0.0)
        seat.region.bind(slot, 0x1000 + slot)


def verdicts(seat: Seat, status: int | None, stopping: bool = False) -> dict[int, tuple[str, str]]:
    remains = seat.remains(status, stopping)
    return {v.claim: (v.verdict, zlib.decompress(b64decode(v.cause)).decode()) for v in remains.running}


def kinds(seat: Seat, status: int | None, stopping: bool = False) -> dict[int, str]:
    return {claim: kind for claim, (kind, _) in verdicts(seat, status, stopping).items()}


# -- names and words -------------------------------------------------------------------------------------------------


def test_each_incarnation_has_a_name_of_its_own(seat: Seat) -> None:
    assert [seat.next_owner("host-1") for _ in range(3)] == ["host-1:4.1", "host-1:4.2", "host-1:4.3"]
    assert seat.use is Use.FILLING


def test_what_a_child_says(seat: Seat, child: socket.socket) -> None:
    """Words and lists in any order, cut anywhere."""
    tokens = [["w:4.1", "hr{}", 5, "default"]]
    said = b"hrh" + b"d" + json.dumps(tokens).encode() + b"\n" + b"rd[]\nh"
    heard = []
    for at in range(0, len(said), 7):
        child.sendall(said[at : at + 7])
        heard += seat.hear() or []
    assert heard == ["hungry", "worn", "hungry", tokens, "worn", [], "hungry"]
    child.close()
    assert seat.hear() is None


def test_quiet_is_said_once(seat: Seat, child: socket.socket) -> None:
    seat.quiet()
    seat.quiet()
    seat.tell(b"x\n")
    assert child.recv(100) == b"q\nx\n"


def test_telling_the_dead_or_nobody(seat: Seat, child: socket.socket) -> None:
    child.close()
    seat.tell(b"w\n")
    seat.tell(b"w\n")
    seat.vacate()
    seat.tell(b"w\n")
    seat.kill()
    assert (seat.use, seat.pid, seat.control) == (Use.EMPTY, 0, None)


# -- verdicts on what ran --------------------------------------------------------------------------------------------


def test_alone_it_is_the_culprit(seat: Seat, child: socket.socket) -> None:
    run(seat, 11)
    kind, cause = verdicts(seat, 9)[11]
    assert kind == "crash"
    assert cause == "ChildKilled: The process that ran this job (pid 77) was killed by SIGKILL."


def test_several_are_suspects(seat: Seat, child: socket.socket) -> None:
    run(seat, 11, 12)
    assert kinds(seat, 9) == {11: "suspect", 12: "suspect"}


def test_the_report_names_the_culprit(seat: Seat, child: socket.socket) -> None:
    run(seat, 11, 12, 13)
    report(seat, 0x1001)
    assert kinds(seat, SEGV) == {11: "interrupt", 12: "crash", 13: "interrupt"}


def test_a_crash_in_no_job(seat: Seat, child: socket.socket) -> None:
    """Some other thread of the process: nobody knows on whose behalf."""
    run(seat, 11, 12)
    report(seat, 0x9999)
    assert kinds(seat, SEGV) == {11: "suspect", 12: "suspect"}


def report(seat: Seat, thread: int) -> None:
    os.write(
        seat.faults.fd, f"Fatal Python error\n\nCurrent thread 0x{thread:016x} (most recent call first):\n".encode()
    )


def test_who_was_killed_for_one_job(seat: Seat, child: socket.socket) -> None:
    run(seat, 11, 12)
    seat.condemned[11] = Condemned("stop", "as you wished", 0.0)
    seat.killed = True
    found = verdicts(seat, 9)
    assert found[11] == ("stop", "as you wished")
    assert found[12][0] == "interrupt"
    assert "because of another job" in found[12][1]


def test_who_was_to_end_and_died_by_itself(seat: Seat, child: socket.socket) -> None:
    """We had not killed it yet: what was to end ends so, the others are judged as ever."""
    run(seat, 11, 12)
    seat.condemned[11] = Condemned("fail", "too long", 0.0)
    assert kinds(seat, 9) == {11: "fail", 12: "suspect"}


def test_a_stop_counts_nothing(seat: Seat, child: socket.socket) -> None:
    run(seat, 11, 12)
    found = verdicts(seat, 9, stopping=True)
    assert {kind for kind, _ in found.values()} == {"interrupt"}
    assert {cause for _, cause in found.values()} == {"ShutdownInterrupt: The worker shut down while this job ran."}


def test_what_was_finished(seat: Seat, child: socket.socket) -> None:
    outcome = Outcome("a", 10, "default", RETURNED, 500, b"", "", "", 0.0, 1.0)
    assert seat.region.journal.append(outcome)
    remains = seat.remains(9, False)
    assert (remains.owner, remains.finished, remains.running) == (seat.owner, [outcome], [])


# -- successors ------------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """No life here is longer than another, whatever else the machine does."""
    monkeypatch.setattr(seats, "time", SimpleNamespace(monotonic=lambda: NOW))


def wait_after(seat: Seat, lives: int, done: int = 0) -> float:
    """Seconds that the next child waits after so many short lives."""
    for _ in range(lives):
        ours, theirs = socket.socketpair()
        with theirs:
            seat.region.wipe()
            seat.seat(ours)
            seat.region.set(DONE, done)
            seat.vacate()
    return max(0.0, seat.not_before - NOW)


@pytest.mark.usefixtures("stopped_clock")
def test_who_keeps_dying_young_waits(seat: Seat) -> None:
    assert wait_after(seat, 2) == 0
    assert wait_after(seat, 1) == pytest.approx(0.8)
    assert wait_after(seat, 1) == pytest.approx(1.6)
    assert wait_after(seat, 10) == pytest.approx(5.0)
    assert wait_after(seat, 10_000) == pytest.approx(5.0)


@pytest.mark.usefixtures("stopped_clock")
def test_who_did_something_did_start(seat: Seat) -> None:
    assert wait_after(seat, 20, done=1) == 0


def test_who_died_of_a_job_did_start(seat: Seat) -> None:
    for _ in range(10):
        ours, theirs = socket.socketpair()
        with theirs:
            seat.region.wipe()
            seat.seat(ours)
            run(seat, 11)
            seat.vacate()
    assert seat.not_before <= time.monotonic()


def test_a_new_child_begins_afresh(seat: Seat, child: socket.socket) -> None:
    seat.condemned[1] = Condemned("stop", "x", 0.0)
    seat.killed = seat.retiring = seat.stood_in = True
    seat.quiet()
    seat.vacate()
    ours, theirs = socket.socketpair()
    with theirs:
        seat.seat(ours)
        assert not any((seat.condemned, seat.killed, seat.retiring, seat.told_quiet, seat.stood_in))
        assert seat.dropped is None


def test_awaiting_a_death(seat: Seat, child: socket.socket) -> None:
    """It reads whatever is left until the end, and not for ever."""
    child.sendall(b"h" * 1000)
    began = time.monotonic()
    seat.await_death(0.2)
    assert time.monotonic() - began >= 0.2
    child.close()
    seat.await_death(60)
    assert time.monotonic() - began < 30
