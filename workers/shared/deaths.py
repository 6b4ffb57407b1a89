"""Describe a dead process: its cause of death, what it left on its page, and its jobs that RQ's code must end."""

from __future__ import annotations

import os
import signal
from typing import NamedTuple

from jobqueue.errors import CauseOfDeath, EndOfJobProcess, KilledBySignal, KilledForMemory, ProcessExited
from jobqueue.protocol.outcomes import JobOutcome
from jobqueue.protocol.rescue import ForRQ, Ruling, Verdict
from jobqueue.workers.shared.endings import encode_text

FAILED = 1  # the exit code of a child that an exception ended, outside a job
FENCED = 3  # the exit code of a child whose owner name was struck off
CLOSED = 7  # the exit code of a fork server when an import has closed its descriptors
EXECUTION_TTL = 90  # seconds for which RQ's readers trust a start mark: RQ's job_monitoring_interval + 60


class DeathReport(NamedTuple):
    """What a dead child of ours left on its page, and the rulings on the jobs that ran."""

    owner: str
    finished: list[JobOutcome]
    running: list[Ruling]
    plain: frozenset[int] = frozenset()  # claims of jobs to be recorded without any code of the user's
    death: str = ""  # the cause as it is counted for the metrics; "": it left in order, or the worker stops


class LeftForRQ(NamedTuple):
    """Jobs of a dead owner that RQ's own finish must end; a second, final rescue follows."""

    owner: str
    worker: str
    jobs: list[ForRQ]
    plain: frozenset[int] = frozenset()  # as in DeathReport
    dead: str = ""  # the lease of the dead tree; "": the tree lives, and only a child has died


def cause_of_death(pid: int, status: int | None, out_of_memory: bool = False) -> EndOfJobProcess:
    """Return the cause of death that a wait status shows; ``status`` None: it is unknown. ``out_of_memory``: the kernel
    has killed a process for lack of memory meanwhile."""
    if status is None:
        return EndOfJobProcess(pid)
    if out_of_memory and by_sigkill(status):
        return KilledForMemory(pid)
    if os.WIFSIGNALED(status):
        return KilledBySignal(pid, os.WTERMSIG(status))
    return ProcessExited(pid, os.waitstatus_to_exitcode(status))


def end_of_process(status: int | None, out_of_memory: bool = False, ran: bool = True) -> str:
    """Return how a process ended, in words that follow its name. ``ran``: a job ran in it, which may have ended it."""
    if not ran and status is not None and os.WIFEXITED(status) and os.WEXITSTATUS(status) == FENCED:
        return "left: it counted as dead, or the store was emptied"
    return cause_of_death(0, status, out_of_memory).how


def ruling(claim: int, verdict: Verdict, cause: CauseOfDeath) -> Ruling:
    """Return a ruling whose cause is written as RQ writes a traceback."""
    return Ruling(claim, verdict, encode_text(cause.recorded))


def by_sigkill(status: int | None) -> bool:
    return status is not None and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def claim_in(execution_id: str) -> int | None:
    """Return the claim number in one of our execution ids; None: it is no such id."""
    try:
        return int(execution_id, 16)
    except ValueError:
        return None
