"""What CYCLE is told and what it answers; scripts/cycle.lua has the meanings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jobqueue.protocol import bounds, keys
from jobqueue.protocol.arguments import Field, text_of
from jobqueue.protocol.claims import Claimed
from jobqueue.protocol.outcomes import JobOutcome


class Spent(NamedTuple):
    """What the runs of one task took since the last CYCLE; jobqueue/insight/usage.py has the fields."""

    task: str
    slots: int  # of the process that ran them
    peak_kb: int | None
    sums: tuple[str | int, ...]  # field, amount, field, amount...


class Cycle(NamedTuple):
    """What CYCLE answered: a state, an ack per outcome, and the jobs that were claimed."""

    state: str  # claimed | empty | suspended | paused | fenced
    acks: list[int]
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
            flat[i + 8].decode(),
        )
        for i in range(0, len(flat), 9)
    ]
    return Cycle(state.decode(), acks, jobs)


def _whole(value: bytes) -> int | None:
    number = bounds.clamped(value)
    return None if number is None else int(number)
