"""What RESCUE is told and what it answers; scripts/rescue.lua has the meanings."""

from __future__ import annotations

from typing import NamedTuple


class Ruling(NamedTuple):
    """What a rescuer says of a job that ran when its process died; rescue.lua has the meanings."""

    claim: int
    kind: str  # crash | suspect | interrupt | fail | stop
    cause: bytes  # as RQ's Result.serialize writes exc_string


class ForRQ(NamedTuple):
    """A job that a rescue left to RQ's own finish, still under its dead owner's token."""

    id: str
    claim: int
    queue: str
    kind: str  # fail, dead (fail, RQ's retries do not apply), stop; returned: a record that found dependents
    cause: bytes


class Rescue(NamedTuple):
    """What became of a dead owner's jobs."""

    given_back: int
    run_again: int
    failed: int
    of_unknown_start: int
    for_rq: tuple[ForRQ, ...] = ()
