"""The supervisor's finish processes: each on a page of its own, which says at which job it was when it ended."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from jobqueue.protocol.rescue import ForRQ, Verdict
from jobqueue.workers.shared.deaths import LeftForRQ
from jobqueue.workers.shared.endings import FAILURE, HARD
from jobqueue.workers.shared.finish_page import PAGES, pages_in_file
from jobqueue.workers.shared.finish_watch import SLOW
from jobqueue.workers.shared.journal import SharedPage, make_file
from jobqueue.workers.supervisor.finish_processes import FinishProcesses

CHILDREN, SLOTS = 3, 2


def left(owner: str) -> LeftForRQ:
    return LeftForRQ(owner, "w", [ForRQ("a", 7, "q", Verdict.FAIL, b"")])


class Bench:
    def __init__(self) -> None:
        self.file = make_file(CHILDREN, SLOTS)
        self.numbers: dict[str, int] = {}
        self.now = 1000.0
        self.processes = FinishProcesses(self.file, self._fork, lambda: False, lambda: self.now)

    def _fork(self, left: LeftForRQ, number: int) -> bool:
        self.numbers[left.owner] = number
        return True


def test_pages_are_apart_from_each_other_and_from_the_childrens() -> None:
    bench = Bench()
    for owner in ("w:0.1", "w:1.1"):
        bench.processes.fork(left(owner))
        pages_in_file(bench.file)[bench.numbers[owner]].begin(7 + len(bench.numbers))
    assert [bench.processes.ended(owner) for owner in ("w:0.1", "w:1.1")] == [8, 9]
    for number in range(CHILDREN):
        page = SharedPage(bench.file, number, SLOTS)
        assert not page.running()
        assert not list(page.journal.read())


def test_a_page_is_used_again_and_is_new_then() -> None:
    bench = Bench()
    bench.processes.fork(left("w:0.1"))
    pages_in_file(bench.file)[bench.numbers["w:0.1"]].begin(7)
    assert bench.processes.ended("w:0.1") == 7
    bench.processes.fork(left("w:0.1"))
    assert bench.processes.ended("w:0.1") == 0
    assert bench.processes.ended("w:0.1") == 0  # it is gone already


def test_more_than_there_are_pages() -> None:
    bench = Bench()
    for n in range(PAGES + 2):
        assert bench.processes.fork(left(f"w:{n}.1"))
    assert {*bench.numbers.values()} == set(range(PAGES))


def test_one_that_does_not_react_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.processes.fork(left("w:0.1"))
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]) as process:
        bench.processes.forked("w:0.1", process.pid)
        page = pages_in_file(bench.file)[bench.numbers["w:0.1"]]
        page.show(FAILURE, 5.0)
        deadline = page.deadline
        for bench.now in (deadline, deadline + HARD + SLOW - 1):
            bench.processes.step(bench.now)
        assert process.poll() is None
        assert not caplog.messages
        bench.processes.step(deadline + HARD + SLOW + 1)
        assert process.wait(30) == -signal.SIGKILL
    assert caplog.messages == [
        f"the process that finishes the jobs of w:0.1 (pid {process.pid}) is killed: the failure callback did not "
        "react at its time limit"
    ]
    bench.processes.step(deadline + HARD + SLOW + 1)  # the fork server has not reported its death yet
