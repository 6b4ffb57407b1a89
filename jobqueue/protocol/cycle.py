"""Define CYCLE's request and reply; scripts/cycle.lua has the meanings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

from jobqueue.protocol import bounds, keys, resp
from jobqueue.protocol.arguments import Field, bytes_of, text_of
from jobqueue.protocol.claims import Claimed, features_of
from jobqueue.protocol.outcomes import ACKS, Ack, JobOutcome


class Spent(NamedTuple):
    """What the runs of one task took since the last CYCLE; jobqueue/insight/usage.py has the fields."""

    task: str
    slots: int  # of the process that ran them
    peak_kb: int | None
    sums: tuple[str | int, ...]  # field, amount, field, amount...


class CycleState(StrEnum):
    """What CYCLE reports about the queues, or about the owner that asks."""

    CLAIMED = "claimed"
    EMPTY = "empty"
    SUSPENDED = "suspended"  # all workers, by RQ's `rq suspend`
    PAUSED = "paused"
    FENCED = "fenced"  # the owner's name was struck off: nothing was done


STATES = {state.value.encode(): state for state in CycleState}


class Cycle(NamedTuple):
    """The reply to CYCLE: a state, an ack per outcome, and the claimed jobs."""

    state: CycleState
    acks: list[Ack]
    jobs: list[Claimed]


class CycleRequest(NamedTuple):
    """A CYCLE request."""

    owner: str
    worker: str
    queues: Sequence[str]
    outcomes: Sequence[JobOutcome]
    want: int  # jobs at most
    idle: int  # slots with nothing to do
    usage: Sequence[Spent] = ()
    failed: Mapping[str, int] = {}  # how many runs did not return, by how they ended; workers/running/failed_runs.py

    def args(self) -> list[Field]:
        """Return the arguments after the script: number of keys, key, ARGV."""
        args = self._head()
        for o in self.outcomes:
            args += (o.id, o.claim, o.queue, o.kind, o.ttl, o.payload, o.started_at, o.ended_at, o.started, o.ended)
        return args + self._tail()

    def packed(self) -> tuple[int, bytes]:
        """Return how many arguments ``args`` has, and these packed: per outcome a third of the time of redis-py."""
        head, tail = self._head(), self._tail()
        parts = [_packed(head)]
        parts += map(_packed_outcome, self.outcomes)
        parts.append(_packed(tail))
        return len(head) + 10 * len(self.outcomes) + len(tail), b"".join(parts)

    def _head(self) -> list[Field]:
        queues = self.queues
        head: list[Field] = [1, keys.own(self.owner), self.owner, self.worker, self.want, self.idle, len(queues)]
        return [*head, *queues, len(self.outcomes)]

    def _tail(self) -> list[Field]:
        tail: list[Field] = [len(self.usage)]
        for spent in self.usage:
            peak = "" if spent.peak_kb is None else spent.peak_kb
            tail += (spent.task, spent.slots, peak, len(spent.sums) // 2, *spent.sums)
        tail.append(len(self.failed))
        for end, count in self.failed.items():
            tail += (end, count)
        return tail


def _packed(fields: Iterable[Field]) -> bytes:
    return resp.strings(field if isinstance(field, bytes) else bytes_of(str(field)) for field in fields)


def _packed_outcome(o: JobOutcome) -> bytes:
    job, claim, queue, ttl = bytes_of(o.id), b"%d" % o.claim, bytes_of(o.queue), b"%d" % o.ttl
    started_at, ended_at = o.started_at.encode(), o.ended_at.encode()
    started, ended = repr(o.started).encode(), repr(o.ended).encode()
    return (
        b"$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$1\r\n%d\r\n$%d\r\n%b\r\n"
        b"$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
    ) % (
        *(len(job), job, len(claim), claim, len(queue), queue, o.kind, len(ttl), ttl, len(o.payload), o.payload),
        *(len(started_at), started_at, len(ended_at), ended_at, len(started), started, len(ended), ended),
    )


def parse_cycle(reply: Any) -> Cycle:
    state, acks, flat = reply
    jobs = [
        Claimed(
            text_of(flat[i]),
            int(flat[i + 1]),
            _name(flat[i + 2]),
            flat[i + 3],
            _seconds(flat[i + 4]),
            _whole(flat[i + 5]),
            _whole(flat[i + 6]),
            _whole(flat[i + 7]) or 0,
            features_of(flat[i + 8]),
            _moment(flat[i + 9]),
        )
        for i in range(0, len(flat), 10)
    ]
    return Cycle(STATES[state], [ACKS[ack] for ack in acks], jobs)


# Most jobs of a queue have the same of these.
_name = lru_cache(1000)(text_of)
_seconds = lru_cache(1000)(bounds.clamped)


@lru_cache(100)  # jobs that were sent together have the same
def _moment(stamp: bytes) -> float:
    """Return a time that RQ or jobq has written, in seconds since the epoch; 0: there is none that can be read."""
    try:
        at = datetime.fromisoformat(stamp.decode())
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return 0.0


@lru_cache(1000)
def _whole(value: bytes) -> int | None:
    number = bounds.clamped(value)
    return None if number is None else int(number)
