"""A child handle, its processes, and the death report of what ran in them."""

from __future__ import annotations

import os
import signal
import socket
import time
import zlib
from base64 import b64decode
from collections.abc import Iterator

import pytest
from fake_children import Because

from jobqueue.protocol.claims import Token
from jobqueue.protocol.outcomes import RETURNED, JobOutcome
from jobqueue.protocol.rescue import Verdict
from jobqueue.workers.shared.journal import DONE, SharedPage, make_file
from jobqueue.workers.shared.messages import (
    Dropped,
    FromChild,
    OutOfWork,
    Ping,
    Quiet,
    Retire,
    Wake,
    encode,
)
from jobqueue.workers.supervisor.child_handle import ChildHandle, HandleState
from jobqueue.workers.supervisor.child_process import Condemned, ControlSocket
from jobqueue.workers.supervisor.death_report import death_report

SEGV = int(signal.SIGSEGV)
SLOTS = 3
NOW = 1000.0  # monotonic seconds, where the clock stands still


@pytest.fixture
def handle() -> ChildHandle:
    """Return a handle whose clock stands still, so that all lives are equally long, however busy the machine is."""
    return ChildHandle(4, SharedPage(make_file(5, SLOTS), 4, SLOTS), clock=lambda: NOW)


@pytest.fixture
def child(handle: ChildHandle) -> Iterator[socket.socket]:
    """Return the child's end of the socket of a handle that is in use."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    handle.next_owner("w")
    handle.attach(ours)
    handle.process.pid = 77
    yield theirs
    theirs.close()
    if control := handle.process.control:
        control.socket.close()


def control_of(handle: ChildHandle) -> ControlSocket:
    assert handle.process.control is not None
    return handle.process.control


def run(handle: ChildHandle, *claims: int) -> None:
    for slot, claim in enumerate(claims):
        handle.page.begin(slot, claim, 1.0, 0.0)
        handle.page.bind(slot, 0x1000 + slot)


def rulings(handle: ChildHandle, status: int | None, stopping: bool = False) -> dict[int, tuple[str, str]]:
    report = death_report(handle, status, stopping)
    return {v.claim: (v.verdict, zlib.decompress(b64decode(v.cause)).decode()) for v in report.running}


def kinds(handle: ChildHandle, status: int | None, stopping: bool = False) -> dict[int, str]:
    return {claim: kind for claim, (kind, _) in rulings(handle, status, stopping).items()}


# -- names and words -------------------------------------------------------------------------------------------------


def test_each_incarnation_has_a_name_of_its_own(handle: ChildHandle) -> None:
    assert [handle.next_owner("host-1") for _ in range(3)] == ["host-1:4.1", "host-1:4.2", "host-1:4.3"]
    assert handle.state is HandleState.STARTING


def test_messages_of_a_child_are_read_however_they_are_cut(handle: ChildHandle, child: socket.socket) -> None:
    """Messages are read in any order, wherever the data is cut."""
    tokens = (Token("w:4.1", "hr{}\n", 5, "default"),)
    said: list[FromChild] = [OutOfWork(), Retire(), OutOfWork(), Dropped(tokens), Retire(), Dropped(()), OutOfWork()]
    sent = b"".join(map(encode, said))
    heard: list[FromChild] = []
    control = control_of(handle)
    for at in range(0, len(sent), 7):
        child.sendall(sent[at : at + 7])
        heard += control.receive() or []
    assert heard == said
    child.close()
    assert control.receive() is None


def test_bytes_that_are_no_message_close_the_connection(handle: ChildHandle, child: socket.socket) -> None:
    child.sendall(b"h\n")
    assert control_of(handle).receive() is None


def test_quiet_is_sent_once(handle: ChildHandle, child: socket.socket) -> None:
    handle.quiet()
    handle.quiet()
    handle.tell(Ping())
    assert child.recv(100) == encode(Quiet()) + encode(Ping())


def test_messages_to_a_dead_or_missing_process_are_dropped(handle: ChildHandle, child: socket.socket) -> None:
    child.close()
    handle.tell(Wake())
    handle.tell(Wake())
    handle.release()
    handle.tell(Wake())
    handle.kill()
    assert (handle.state, handle.pid, handle.process.control) == (HandleState.EMPTY, 0, None)


# -- rulings on what ran --------------------------------------------------------------------------------------------


def test_a_job_that_ran_alone_gets_the_blame_for_the_crash(handle: ChildHandle, child: socket.socket) -> None:
    run(handle, 11)
    kind, cause = rulings(handle, 9)[11]
    assert kind == "crash"
    assert cause == "ChildKilled: The process that ran this job (pid 77) was killed by SIGKILL."


def test_several_running_jobs_become_suspects(handle: ChildHandle, child: socket.socket) -> None:
    run(handle, 11, 12)
    assert kinds(handle, 9) == {11: "suspect", 12: "suspect"}


def test_faulthandlers_report_names_the_job_that_crashed(handle: ChildHandle, child: socket.socket) -> None:
    run(handle, 11, 12, 13)
    report(handle, 0x1001)
    assert kinds(handle, SEGV) == {11: "interrupt", 12: "crash", 13: "interrupt"}


def test_a_crash_outside_of_all_jobs_makes_them_suspects(handle: ChildHandle, child: socket.socket) -> None:
    """A crash in another thread of the process: any of the jobs may have started it."""
    run(handle, 11, 12)
    report(handle, 0x9999)
    assert kinds(handle, SEGV) == {11: "suspect", 12: "suspect"}


def report(handle: ChildHandle, thread: int) -> None:
    os.write(
        handle.faults.fd, f"Fatal Python error\n\nCurrent thread 0x{thread:016x} (most recent call first):\n".encode()
    )


def test_a_kill_for_one_job_counts_nothing_for_the_others(handle: ChildHandle, child: socket.socket) -> None:
    run(handle, 11, 12)
    handle.process.condemned[11] = Condemned(Verdict.STOP, Because("as you wished"), 0.0)
    handle.process.killed = True
    found = rulings(handle, 9)
    assert found[11] == ("stop", "as you wished")
    assert found[12][0] == "interrupt"
    assert "because of another job" in found[12][1]


def test_a_condemned_job_keeps_its_ruling_if_the_process_dies_by_itself(
    handle: ChildHandle, child: socket.socket
) -> None:
    """The job for which the process was to be killed ends as planned; the others are judged as after any crash."""
    run(handle, 11, 12)
    handle.process.condemned[11] = Condemned(Verdict.FAIL, Because("too long"), 0.0)
    assert kinds(handle, 9) == {11: "fail", 12: "suspect"}


def test_a_stop_counts_nothing(handle: ChildHandle, child: socket.socket) -> None:
    run(handle, 11, 12)
    found = rulings(handle, 9, stopping=True)
    assert {kind for kind, _ in found.values()} == {"interrupt"}
    assert {cause for _, cause in found.values()} == {"ShutdownInterrupt: The worker shut down while this job ran."}


@pytest.mark.parametrize(
    ("status", "stopping", "counted"), [(9, False, "SIGKILL"), (256, False, "exit"), (0, False, ""), (9, True, "")]
)
def test_how_a_death_is_counted(
    handle: ChildHandle, child: socket.socket, status: int, stopping: bool, counted: str
) -> None:
    assert death_report(handle, status, stopping).death == counted


@pytest.mark.parametrize(
    ("verdict", "counted"), [(Verdict.FAIL, "time_limit"), (Verdict.STOP, "stopped"), (None, "replaced")]
)
def test_how_a_death_is_counted_that_the_supervisor_caused(
    handle: ChildHandle, child: socket.socket, verdict: Verdict | None, counted: str
) -> None:
    handle.process.killed = True
    if verdict:
        handle.process.condemned[11] = Condemned(verdict, Because("it was so"), 0.0)
    assert death_report(handle, 9, False).death == counted


def test_finished_jobs_are_read_from_the_journal(handle: ChildHandle, child: socket.socket) -> None:
    outcome = JobOutcome("a", 10, "default", RETURNED, 500, b"", "", "", 0.0, 1.0)
    assert handle.page.journal.append(outcome)
    report = death_report(handle, 9, False)
    assert (report.owner, report.finished, report.running) == (handle.owner, [outcome], [])


# -- successors ------------------------------------------------------------------------------------------------------


def wait_after(handle: ChildHandle, lives: int, done: int = 0) -> float:
    """Return for how many seconds the next process is delayed after this number of short lives."""
    for _ in range(lives):
        ours, theirs = socket.socketpair()
        with theirs:
            handle.page.wipe()
            handle.attach(ours)
            handle.page.set(DONE, done)
            handle.release()
    return max(0.0, handle.not_before - NOW)


def test_after_three_short_lives_the_next_start_is_delayed(handle: ChildHandle) -> None:
    assert wait_after(handle, 2) == 0
    assert wait_after(handle, 1) == pytest.approx(0.8)
    assert wait_after(handle, 1) == pytest.approx(1.6)
    assert wait_after(handle, 10) == pytest.approx(5.0)
    assert wait_after(handle, 10_000) == pytest.approx(5.0)


def test_a_process_that_did_a_job_does_not_count_as_a_short_life(handle: ChildHandle) -> None:
    assert wait_after(handle, 20, done=1) == 0


def test_a_process_that_died_of_a_job_does_not_count_as_a_short_life(handle: ChildHandle) -> None:
    for _ in range(10):
        ours, theirs = socket.socketpair()
        with theirs:
            handle.page.wipe()
            handle.attach(ours)
            run(handle, 11)
            handle.release()
    assert handle.not_before <= NOW


def test_the_next_process_of_a_handle_starts_with_fresh_state(handle: ChildHandle, child: socket.socket) -> None:
    handle.process.condemned[1] = Condemned(Verdict.STOP, Because("x"), 0.0)
    handle.process.killed = handle.process.retiring = handle.process.has_dropped = True
    handle.quiet()
    handle.release()
    ours, theirs = socket.socketpair()
    with theirs:
        handle.attach(ours)
        new = handle.process
        assert not any((new.condemned, new.killed, new.retiring, new.quiet_sent, new.has_dropped))


def test_awaiting_a_death_reads_the_socket_to_its_end(handle: ChildHandle, child: socket.socket) -> None:
    """The rest of the socket's data is read, for a limited time."""
    child.sendall(encode(OutOfWork()) * 500)
    began, control = time.monotonic(), control_of(handle)
    control.await_end(0.2)
    assert time.monotonic() - began >= 0.2
    child.close()
    control.await_end(60)
    assert time.monotonic() - began < 30
