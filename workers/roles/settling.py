"""Record outcomes for a child that cannot do so itself: it is dead, or holds still."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobqueue.protocol.outcomes import Ack, JobOutcome
from jobqueue.protocol.protocol import Protocol
from jobqueue.workers.shared.settings import Settings

AT_ONCE = 64


def settle(
    protocol: Protocol, settings: Settings, owner: str, finished: Sequence[JobOutcome]
) -> Iterator[tuple[JobOutcome, Ack]]:
    """Record these outcomes of the owner under their tokens; yield each with its ack. May be repeated."""
    for at in range(0, len(finished), AT_ONCE):
        some = finished[at : at + AT_ONCE]
        acks = protocol.cycle(owner, settings.worker, settings.queues, some, want=0).acks
        yield from zip(some, acks, strict=False)
