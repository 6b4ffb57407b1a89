"""What CYCLE is told and what it answers; scripts/cycle.lua has the meanings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from jobqueue.protocol import bounds, keys
from jobqueue.protocol.arguments import Field, text_of
from jobqueue.protocol.claims import Claimed, features_of
from jobqueue.protocol.outcomes import ACKS, Ack, JobOutcome


class Spent(NamedTuple):
    """What the runs of one task took since the last CYCLE; jobqueue/insight/usage.py has the fields."""

    task: str
    slots: int  # of the process that ran them
    peak_kb: int | None
    sums: tuple[str | int, ...]  # field, amount, field, amount...


class CycleState(StrEnum):
    """What CYCLE says of the queues, or of who asks."""

    CLAIMED = "claimed"
    EMPTY = "empty"
    SUSPENDED = "suspended"  # all workers, by RQ's `rq suspend`
    PAUSED = "paused"
    FENCED = "fenced"  # the name of who asks was struck off: nothing was done


STATES = {state.value.encode(): state for state in CycleState}


class Cycle(NamedTuple):
    """What CYCLE answered: a state, an ack per outcome, and the jobs that were claimed."""

    state: CycleState
    acks: list[Ack]
    jobs: list[Claimed]


def cycle_args(
    owner: str,
    worker: str,
    queues: Sequence[str],
    outcomes: Iterable[JobOutcome],
    want: int,
    idle: int,
    usage: Sequence[Spent] = (),
) -> list[Field]:
    """The arguments of CYCLE behind the script: number of keys, key, ARGV."""
    settled = list(outcomes)
    args: list[Field] = [1, keys.own(owner), owner, worker, want, idle, len(queues), *queues, len(settled)]
    for o in settled:
        args += (o.id, o.claim, o.queue, o.kind, o.ttl, o.payload, o.started_at, o.ended_at, o.started, o.ended)
    args.append(len(usage))
    for spent in usage:
        peak = "" if spent.peak_kb is None else spent.peak_kb
        args += (spent.task, spent.slots, peak, len(spent.sums) // 2, *spent.sums)
    return args


def parse_cycle(reply: Any) -> Cycle:
    state, acks, flat = reply
    jobs = [
        Claimed(
            text_of(flat[i]),
            int(flat[i + 1]),
            text_of(flat[i + 2]),
            flat[i + 3],
            bounds.clamped(flat[i + 4]),
            _whole(flat[i + 5]),
            _whole(flat[i + 6]),
            _whole(flat[i + 7]) or 0,
            features_of(flat[i + 8]),
        )
        for i in range(0, len(flat), 9)
    ]
    return Cycle(STATES[state], [ACKS[ack] for ack in acks], jobs)


def _whole(value: bytes) -> int | None:
    number = bounds.clamped(value)
    return None if number is None else int(number)
