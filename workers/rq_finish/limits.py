"""Time limits of the user's code that RQ's own finish runs.

    callbacks               each under the limit that it was given, as in RQ (``penalty``)
    exception handlers      the failure callback's limit, but no longer than a stretch (``longest``)
    all else                job classes, serializers, ``__setstate__``, ``__str__``: a limit on each stretch between two
                            requests to the store (``stretch``). While the store is waited for, none runs (``paused``)

When the thread that was stuck in one comes back after all, and another has its place, ``WrittenOff`` is raised in it
at the next of these borders, before it can send anything.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rq.timeouts import BaseDeathPenalty

from jobqueue.workers.running.limits import Interruptible, WrittenOff
from jobqueue.workers.shared.endings import JOB, RECORDING, SUCCESS

LEAST, MOST = 10.0, 60.0  # seconds of a stretch, the job's own limit in between; RQ gives callbacks the latter

_targets = itertools.count(1)  # negative ones, so that none is a claim number


class FinishLimits:
    """What is limited in one slot's finishes, one at a time. ``of`` says what the next callback is. Without a slot
    nobody watches: it limits nothing."""

    def __init__(
        self, slot: Interruptible | None, show: Callable[[int, float], None] = lambda what, limit: None
    ) -> None:
        """show: tell the supervisor what runs, and its limit in seconds; 0: nothing does."""
        self._show = show
        self._slot = slot or Interruptible()
        self._watched = slot is not None
        self._stretch = 0.0  # seconds; 0: none is open
        self.of = SUCCESS

    def penalty(self) -> type[BaseDeathPenalty]:
        """RQ's death penalty over the slot's deadline."""
        limits = self

        class SlotPenalty(BaseDeathPenalty):
            def setup_death_penalty(self) -> None:
                self._began = time.monotonic()
                limits._enter(limits.of, self._timeout)

            def cancel_death_penalty(self) -> None:
                limits.leave()
                if limits._slot.was_aimed_at:  # what a job has started ends with it, and so for its callbacks
                    limits._slot.end_processes(self._began)
                limits._resume()

        return SlotPenalty

    @property
    def longest(self) -> float:
        """Seconds that a stretch of this finish may take."""
        return self._stretch or MOST

    @contextmanager
    def stretch(self, limit: float) -> Iterator[None]:
        """Watch all that is done inside; ``limit`` is the job's own, in seconds, 0 or less: none."""
        self._stretch = min(MOST, max(LEAST, limit)) if limit > 0 else MOST
        try:
            self._resume()
            yield
        finally:
            self.close()

    def close(self) -> None:
        """The outcome is in the store: what follows is RQ's own."""
        self._stretch = 0.0
        self.leave()
        self._slot.what = JOB

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The store is waited for; inside of a callback that counts."""
        if not self._stretch or self._slot.what != RECORDING or not self._slot.target:
            yield
            return
        self.leave()
        try:
            yield
        finally:
            self._resume()

    def leave(self) -> None:
        try:
            self._slot.leave()
        finally:
            self._slot.leave()  # again: an exception may have arrived in the first
        if self._slot.written_off:
            raise WrittenOff
        self._show(RECORDING, 0.0)

    def _resume(self) -> None:
        if self._stretch and self._watched:
            self._enter(RECORDING, self._stretch)

    def _enter(self, what: int, limit: float) -> None:
        self._slot.what = what
        self._show(what, max(0.0, limit))
        self._slot.enter(-next(_targets), limit)
