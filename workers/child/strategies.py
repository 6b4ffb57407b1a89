"""Order the queues by RQ's dequeue strategies before each claim."""

from __future__ import annotations

from collections.abc import Callable

from jobqueue.own_random import own_random

Queues = tuple[str, ...]


def behind(queues: Queues, taken: str) -> Queues:
    """round_robin: put the queue that gave a job last, and those behind it first."""
    at = queues.index(taken) + 1
    return queues[at:] + queues[:at]


def at(queues: Queues, given_back: str) -> Queues:
    """round_robin: put the queue first whose job was given back."""
    first = queues.index(given_back)
    return queues[first:] + queues[:first]


def shuffled(queues: Queues, _taken: str) -> Queues:
    """random: return the queues in any order, a new one after each job."""
    return tuple(own_random.sample(queues, len(queues)))


# "ordered", RQ's default, leaves the order alone.
REORDER: dict[str, Callable[[Queues, str], Queues]] = {"round_robin": behind, "random": shuffled}
TURN_BACK: dict[str, Callable[[Queues, str], Queues]] = {"round_robin": at}


class QueueOrder:
    """The order in which a consumer asks its queues. The consumer's lock guards it."""

    def __init__(self, queues: Queues, strategy: str) -> None:
        self.queues = queues
        self._reorder = REORDER.get(strategy)
        self._turn_back = TURN_BACK.get(strategy)

    @property
    def changes(self) -> bool:
        """Whether each job changes the order: then no two may be claimed at once."""
        return self._reorder is not None

    def took(self, queue: str) -> None:
        """Note that this queue gave a job."""
        if self._reorder:
            self.queues = self._reorder(self.queues, queue)

    def gave_back(self, queue: str) -> None:
        """Note that a job went back to this queue, unstarted."""
        if self._turn_back:
            self.queues = self._turn_back(self.queues, queue)
