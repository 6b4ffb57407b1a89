"""The watchdog with real processes, which only sleep: what it kills, what it leaves alone, when it stands in."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import zlib
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from fake_children import Because
from helpers import eventually

from jobqueue.protocol.rescue import Verdict
from jobqueue.store.connection import Address
from jobqueue.workers.shared.endings import HARD
from jobqueue.workers.shared.journal import BUFFERED, OUT_OF_WORK, PULSE, SharedPage, make_file
from jobqueue.workers.shared.messages import Ping, encode
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.supervisor.child_handle import ChildHandle
from jobqueue.workers.supervisor.child_process import Condemned
from jobqueue.workers.supervisor.death_report import death_report
from jobqueue.workers.supervisor.watchdog import BETWEEN, FRESH, SILENT, SILENT_FOR_GOOD, Watchdog, memory_mb

PAUSE = 1.1 * SILENT
T0 = 1000.0  # monotonic seconds at which the jobs here begin


class Bench:
    """A watchdog, and one handle with a process that has one or more slots."""

    def __init__(self, slots: int = 1, max_memory: int = 0) -> None:
        fields: dict[str, Any] = {"worker": "w", "queues": ("default",), "children": 1}
        settings = Settings(Address(url="redis://127.0.0.1:1/0"), slots=slots, max_memory=max_memory, **fields)
        self.stood_in = 0
        self.asked = 0
        self.retired: list[str] = []
        self.watchdog = Watchdog(settings, self._stand_in, lambda _, why: self.retired.append(why))
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self.page = SharedPage(make_file(1, slots), 0, slots)
        self.handle = ChildHandle(0, self.page)
        ours, self.child = socket.socketpair()
        self.child.setblocking(False)
        self.handle.attach(ours)
        self.handle.process.pid = self.process.pid

    def _stand_in(self, _: ChildHandle, pulse: int) -> None:
        self.stood_in += 1

    def look(self, *times: float) -> None:
        for now in times:
            self.watchdog.step(self.handle, now)

    def pings(self) -> int:
        try:
            return self.child.recv(4096).count(encode(Ping()))
        except BlockingIOError:
            return 0

    def child_was_asked(self) -> bool:
        pings = self.pings()
        self.asked += pings
        return pings > 0

    def answer(self) -> None:
        """Move the pulse, as the child watchdog does."""
        self.page.set(PULSE, self.page.get(PULSE) + 1)

    @property
    def lives(self) -> bool:
        """Return whether the process is neither dead nor stopped."""
        if self.process.poll() is not None:
            return False
        eventually(lambda: psutil.Process(self.process.pid).status() != psutil.STATUS_STOPPED, 10)
        return True

    def killed(self) -> bool:
        return self.process.wait(10) == -signal.SIGKILL

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.child.close()
        if control := self.handle.process.control:
            control.socket.close()


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(**getattr(request, "param", {}))
    yield bench
    bench.close()


THREADS = pytest.mark.parametrize("bench", [{"slots": 2}], indirect=True)


# -- who holds still -------------------------------------------------------------------------------------------------


def test_a_child_at_rest_is_left_alone(bench: Bench) -> None:
    bench.answer()
    bench.page.set(OUT_OF_WORK, 1)
    bench.look(T0, T0 + 10)
    assert (bench.pings(), bench.stood_in) == (0, 0)


def test_the_watchdog_stands_in_for_a_child_that_holds_still_between_jobs(bench: Bench) -> None:
    """The child's claimed jobs are given back: it may have been stopped before it started the next job."""
    bench.answer()
    bench.page.set(BUFFERED, 5)
    bench.look(T0, T0 + 0.9 * BETWEEN)
    assert (bench.pings(), bench.stood_in) == (0, 0)  # its next job may be about to start
    bench.look(T0 + 1.1 * BETWEEN)
    assert (bench.pings(), bench.stood_in) == (1, 0)
    bench.look(T0 + 1.1 * BETWEEN + PAUSE)
    assert (bench.pings(), bench.stood_in) == (0, 1)


def test_a_child_that_waits_for_the_store_is_sent_few_pings(bench: Bench) -> None:
    bench.answer()
    for turn in range(200):  # ten seconds
        bench.look(T0 + 0.05 * turn)
        if bench.child_was_asked():
            bench.answer()
    assert 5 <= bench.asked <= 11
    assert bench.stood_in == 0


def test_a_pulse_that_stands_still_leads_to_a_ping_and_a_stand_in(bench: Bench) -> None:
    """After one ping and a moment without an answer, the watchdog stands in, once."""
    bench.page.begin(0, 7, T0, 0.0)
    bench.look(T0 + 0.01)
    assert (bench.pings(), bench.stood_in) == (1, 0)
    bench.look(T0 + 0.01 + 0.9 * SILENT)
    assert bench.stood_in == 0
    bench.look(T0 + 0.02 + SILENT, T0 + 0.5, T0 + 0.6)
    assert (bench.pings(), bench.stood_in) == (0, 1)
    assert bench.lives


def test_a_pulse_that_moves_after_each_ping_leads_to_no_stand_in(bench: Bench) -> None:
    bench.page.begin(0, 7, T0, 0.0)
    for turn in range(10):
        bench.look(T0 + turn * PAUSE)
        bench.answer()
    assert bench.pings() == 10
    assert bench.stood_in == 0


def test_the_watchdog_stands_in_a_second_time(bench: Bench) -> None:
    bench.page.begin(0, 7, T0, 0.0)
    bench.look(T0, T0 + PAUSE)
    bench.answer()
    bench.look(T0 + 0.2, T0 + 0.2 + PAUSE)
    assert bench.stood_in == 2


def test_no_ping_is_sent_when_nothing_depends_on_it(bench: Bench) -> None:
    """No ping is sent for a long job that is alone and within its limit; one as soon as there are claimed jobs behind
    it."""
    bench.page.begin(0, 7, T0, 100.0)
    bench.look(T0)
    bench.answer()
    assert bench.pings() == 1
    bench.look(T0 + FRESH, T0 + 50)
    assert bench.pings() == 0
    bench.page.set(BUFFERED, 1)
    bench.look(T0 + 51, T0 + 51 + PAUSE)
    assert (bench.pings(), bench.stood_in) == (1, 1)


def test_a_job_that_is_seen_late_is_marked_all_the_same(bench: Bench) -> None:
    """An idle supervisor looks rarely, and only the supervisor can mark a job that holds the GIL."""
    bench.page.begin(0, 7, T0, 0.0)
    bench.look(T0 + 2 * FRESH, T0 + 4 * FRESH, T0 + 5 * FRESH)
    assert (bench.pings(), bench.stood_in) == (1, 1)


# -- who is past all limits ------------------------------------------------------------------------------------------


def test_the_process_of_a_job_past_its_limit_is_killed(bench: Bench) -> None:
    bench.page.begin(0, 7, T0, 1.0)
    bench.look(T0 + 1.0, T0 + 0.9 + HARD)
    assert bench.lives
    bench.look(T0 + 1.0 + HARD)
    assert bench.killed()
    assert bench.handle.process.killed
    end = bench.handle.process.condemned[7]
    assert end.verdict is Verdict.FAIL
    assert end.cause.recorded.startswith("TimeLimitExceeded: The job ran longer than its time limit of 1 s.")


def test_a_job_without_a_limit_is_left_alone(bench: Bench) -> None:
    bench.page.begin(0, 7, T0, 0.0)
    bench.look(T0 + 1e6)
    assert bench.lives


def test_the_process_of_a_job_that_does_not_stop_is_killed(bench: Bench) -> None:
    bench.page.begin(0, 7, T0, 0.0)
    bench.handle.process.condemned[7] = Condemned(Verdict.STOP, Because("as you wished"), T0 + 50)
    bench.look(T0 + 51)
    assert bench.lives
    bench.look(T0 + 50 + HARD)
    assert bench.killed()
    assert bench.handle.process.condemned[7].cause.recorded == "as you wished"


def test_the_process_is_not_killed_if_the_next_job_has_started(bench: Bench) -> None:
    """Between the look and the kill the job ended and another started: the process continues."""
    bench.page.begin(0, 7, T0, 1.0)
    [job] = bench.page.running()
    bench.page.begin(0, 8, T0 + 5, 1.0)
    bench.watchdog._end(bench.handle, job, Condemned(Verdict.FAIL, Because("late"), T0))
    assert bench.lives
    assert not bench.handle.process.killed
    assert bench.handle.process.condemned == {}


@THREADS
def test_while_the_process_reacts_other_jobs_are_spared(bench: Bench) -> None:
    """The child watchdog writes off a single thread by itself; only a process that holds still is killed."""
    bench.page.begin(0, 7, T0, 1.0)
    bench.page.begin(1, 8, T0, 0.0)
    for turn in range(5):
        bench.look(T0 + 10 + turn)
        bench.answer()
    assert bench.lives
    bench.look(T0 + 20, T0 + 20 + PAUSE)  # it may only wait for a core
    assert bench.lives
    bench.look(T0 + 20 + 1.1 * SILENT_FOR_GOOD)
    assert bench.killed()
    assert set(bench.handle.process.condemned) == {7}
    rulings = {
        v.claim: (v.verdict, zlib.decompress(b64decode(v.cause))) for v in death_report(bench.handle, 9, False).running
    }
    assert rulings[7][0] == "fail"
    assert rulings[8][0] == "interrupt"
    assert b"because of another job" in rulings[8][1]


def test_a_process_that_is_already_gone(bench: Bench) -> None:
    bench.page.begin(0, 7, T0, 1.0)
    bench.process.kill()
    bench.process.wait()
    bench.look(T0 + 100)
    assert not bench.handle.process.killed


# -- who has grown ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bench", "retires"), [({"max_memory": 1}, True), ({"max_memory": 4000}, False)], indirect=["bench"]
)
def test_a_child_with_too_much_memory_retires(bench: Bench, retires: bool) -> None:
    """Memory is measured about once a second; a child that retires already is not retired again."""
    eventually(lambda: memory_mb(bench.process.pid) > 1)
    bench.watchdog.weigh([bench.handle], T0)
    assert len(bench.retired) == retires
    bench.watchdog.weigh([bench.handle], T0 + 0.5)
    assert len(bench.retired) == retires
    bench.handle.process.retiring = True
    bench.watchdog.weigh([bench.handle], T0 + 2)
    assert len(bench.retired) == retires
    if retires:
        assert bench.retired[0].endswith("MB, more than --max-memory 1")


def test_without_a_maximum_no_memory_is_measured(bench: Bench) -> None:
    bench.watchdog.weigh([bench.handle], T0)
    assert bench.retired == []


def test_the_memory_of_a_dead_child_is_not_measured() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert memory_mb(process.pid) == 0
