"""Decide when a burst is over.

It is over when no child holds a job, nothing waits in the queues, no rescue of another tree's jobs may still put
something there, and no job was done while all that was looked up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import redis

from jobqueue.protocol import keys
from jobqueue.workers.shared.journal import DONE
from jobqueue.workers.supervisor.child_handle import ChildHandle
from jobqueue.workers.supervisor.other_trees import OtherTrees


class Burst:
    """Stepped by the supervisor's main loop in each turn; looks into the store by a request to the roles thread."""

    def __init__(
        self,
        handles: Sequence[ChildHandle],
        queues: Sequence[str],
        client: redis.Redis,
        ask: Callable[[Callable[[], None]], None],
        post: Callable[[Callable[[], None]], None],
        full: Callable[[], bool],
        on_over: Callable[[], None],
        others: OtherTrees,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """ask: hands to the roles thread; post: back to the main loop; full: returns whether all children are there and
        nothing of a dead one is under way; on_over: called in the main loop when the burst is over."""
        self._handles = handles
        self._queues = queues
        self._client = client
        self._ask = ask
        self._post = post
        self._full = full
        self._on_over = on_over
        self._others = others
        self._clock = clock
        self._looking = False

    def step(self) -> None:
        """Have the roles thread look into the store if no child has a job and no look is under way."""
        if self._looking or not self._at_rest():
            return
        self._looking = True
        before = self._progress()

        def look() -> None:
            empty = self._nothing_waits()
            self._post(lambda: self._looked(empty, before))

        self._ask(look)

    def _looked(self, empty: bool, before: list[int]) -> None:
        self._looking = False
        if empty and self._at_rest() and before == self._progress():
            self._on_over()

    def _at_rest(self) -> bool:
        return self._full() and all(handle.page.at_rest for handle in self._handles if handle.is_used)

    def _progress(self) -> list[int]:
        return [handle.page.get(DONE) for handle in self._handles]

    def _nothing_waits(self) -> bool:
        """Look into the store; return whether no job waits. Runs in the roles thread. Suspended and paused queues count
        as empty, as in RQ: no worker takes from them."""
        paused = self._client.smembers(keys.PAUSED)
        with self._client.pipeline(transaction=False) as pipe:
            pipe.exists(keys.SUSPENDED)
            for handle in self._handles:
                pipe.exists(keys.own(handle.owner or "nobody"))
            for name in self._queues:
                if name.encode() not in paused:
                    pipe.llen(keys.queue(name))
            suspended, *counts = pipe.execute()
        held, waiting = counts[: len(self._handles)], counts[len(self._handles) :]
        if any(held) or (any(waiting) and not suspended):
            return False
        ours = [name for name in self._queues if name.encode() not in paused]
        return bool(suspended) or not self._others.may_lose(ours, self._clock())
