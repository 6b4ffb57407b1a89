"""What is known of a death: the words for its cause, what the dead left behind, what is still to be done for it."""

from __future__ import annotations

import os
import signal
from typing import NamedTuple

from jobqueue.protocol import ForRQ, Outcome, Verdict

EXECUTION_TTL = 90  # seconds that RQ's readers believe a start mark: RQ's job_monitoring_interval + 60


class Remains(NamedTuple):
    """What a dead child of ours left in shared memory, and what we say of the jobs that ran."""

    owner: str
    finished: list[Outcome]
    running: list[Verdict]


class Left(NamedTuple):
    """Jobs of a dead owner that RQ's own finish must end; a second, final rescue closes the case."""

    owner: str
    worker: str
    jobs: list[ForRQ]
    dead: str = ""  # the lease of a whole tree that died; "": of a child of a tree that lives


def cause_of_death(pid: int, status: int | None, out_of_memory: bool = False) -> str:
    """A full sentence from a wait status; ``out_of_memory``: the kernel killed somebody for that meanwhile."""
    if out_of_memory and status is not None and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return (
            f"OutOfMemory: The process that ran this job (pid {pid}) was killed by SIGKILL, while the kernel killed "
            f"for want of memory."
        )
    who = f"ChildKilled: The process that ran this job (pid {pid})"
    if status is None:
        return f"{who} is gone."
    if os.WIFSIGNALED(status):
        return f"{who} was killed by {signal.Signals(os.WTERMSIG(status)).name}."
    return f"{who} exited with status {os.waitstatus_to_exitcode(status)}."


def claim_in(execution_id: str) -> int | None:
    """The claim number in one of our execution ids."""
    try:
        return int(execution_id, 16)
    except ValueError:
        return None
