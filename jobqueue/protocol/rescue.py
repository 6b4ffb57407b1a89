"""Define RESCUE's request and reply; scripts/rescue.lua has the meanings."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Verdict(StrEnum):
    """A verdict on a job that ran when its process died, given by a rescuer, or by RESCUE on a job that it leaves to
    RQ's own finish. scripts/rescue.lua has the meanings."""

    CRASH = "crash"  # it may have killed its process: counted, and the last one fails it
    SUSPECT = "suspect"  # one of several that may have
    INTERRUPT = "interrupt"  # we or a neighbour ended it: uncounted
    FAIL = "fail"  # its end is a failure; RQ's retries apply
    FAIL_FOR_GOOD = "dead"  # the same, and RQ's retries do not apply
    STOP = "stop"  # the job was to be stopped
    RETURNED = "returned"  # it returned, and its record found dependents


class Ruling(NamedTuple):
    """A rescuer's ruling on one job, with one of the first six verdicts."""

    claim: int
    verdict: Verdict
    cause: bytes  # as RQ's Result.serialize writes exc_string


class ForRQ(NamedTuple):
    """A job that a rescue left to RQ's own finish, under its dead owner's token, with one of the last four verdicts."""

    id: str
    claim: int
    queue: str
    verdict: Verdict
    cause: bytes


class Rescue(NamedTuple):
    """What happened to a dead owner's jobs."""

    given_back: int
    run_again: int
    failed: int
    of_unknown_start: int
    for_rq: tuple[ForRQ, ...] = ()
