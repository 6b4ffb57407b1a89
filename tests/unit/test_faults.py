"""faulthandler's report, read by another process, names the thread in which the crash happened."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers import ROOT

from jobqueue.workers.shared.faults import Faults
from jobqueue.workers.shared.journal import Running

CRASH = """
import ctypes, os, signal, sys, threading, time
from jobqueue.workers.shared.faults import report_to

report_to(int(sys.argv[1]))

def sleep():
    time.sleep(60)

def crash():
    print(threading.get_ident(), flush=True)
    if sys.argv[2] == "SIGSEGV":
        ctypes.string_at(0)
    signal.pthread_kill(threading.get_ident(), signal.Signals[sys.argv[2]])

threading.Thread(target=sleep, daemon=True).start()
culprit = threading.Thread(target=crash)
culprit.start()
culprit.join()
"""


def crash(faults: Faults, name: str) -> int:
    """Let a thread of another process crash; return that thread's id."""
    run = subprocess.run(
        [sys.executable, "-c", CRASH, str(faults.fd), name],
        pass_fds=(faults.fd,),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        timeout=60,
    )
    assert run.returncode < 0
    return int(run.stdout)


def jobs(*threads: int) -> list[Running]:
    return [Running(slot, 100 + slot, 0.0, 0.0, thread) for slot, thread in enumerate(threads)]


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS"])
def test_the_report_names_the_slot_that_crashed(name: str) -> None:
    faults = Faults()
    thread = crash(faults, name)
    assert faults.culprit(jobs(1, thread, 2)) == 101
    assert faults.culprit(jobs(1, 2)) is None  # the crash was in no slot's thread
    assert faults.culprit([]) is None


def test_a_kill_leaves_no_report() -> None:
    faults = Faults()
    thread = crash(faults, "SIGKILL")
    assert faults.culprit(jobs(thread)) is None


def test_the_next_child_begins_with_an_empty_page() -> None:
    faults = Faults()
    old = crash(faults, "SIGSEGV")
    faults.clear()
    assert faults.culprit(jobs(old)) is None
    new = crash(faults, "SIGABRT")
    assert faults.culprit(jobs(0, new)) == 101
