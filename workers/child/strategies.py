"""RQ's dequeue strategies: in which order the queues are asked for the next job."""

from __future__ import annotations

import random
from collections.abc import Callable

Queues = tuple[str, ...]


def behind(queues: Queues, taken: str) -> Queues:
    """round_robin: the queue that gave a job comes last, and those behind it first."""
    at = queues.index(taken) + 1
    return queues[at:] + queues[:at]


def at(queues: Queues, given_back: str) -> Queues:
    """round_robin: the queue whose job was given back has its turn again."""
    first = queues.index(given_back)
    return queues[first:] + queues[:first]


def shuffled(queues: Queues, _taken: str) -> Queues:
    """random: any order, a new one after each job."""
    return tuple(random.sample(queues, len(queues)))


# "ordered", RQ's default, leaves the order alone.
REORDER: dict[str, Callable[[Queues, str], Queues]] = {"round_robin": behind, "random": shuffled}
TURN_BACK: dict[str, Callable[[Queues, str], Queues]] = {"round_robin": at}
