"""Limit the time of the user's code that RQ's own finish runs.

    callbacks               each has the limit that it was given, as in RQ (``penalty``)
    exception handlers      have the failure callback's limit, and at most that of a stretch (``longest``)
    other code              (job classes, serializers, ``__setstate__``, ``__str__``) has a limit for each stretch from
                            one request to the store to the next (``stretch``); a wait for the store does not count
                            (``paused``)

A thread that was stuck and given up may come back later. ``WrittenOff`` is raised in it where the next limit begins or
ends, before it can send anything to the store.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rq.timeouts import BaseDeathPenalty

from jobqueue.clock import monotonic
from jobqueue.workers.running.limits import Interruptible, WrittenOff
from jobqueue.workers.shared.endings import JOB, RECORDING, SUCCESS

LEAST, MOST = 10.0, 60.0  # seconds: a stretch has the job's own limit within these; 60 is RQ's default for callbacks

_targets = itertools.count(1)  # used as negative numbers, as claim numbers are positive


class FinishLimits:
    """The time limits in one slot's finishes. ``of`` says what the next callback is. Without a slot there is no
    watchdog, and only ``penalty`` limits anything."""

    def __init__(
        self, slot: Interruptible | None, show: Callable[[int, float], None] = lambda what, limit: None
    ) -> None:
        """show: called with what runs and its limit in seconds, for the supervisor; 0: no limited code runs."""
        self._show = show
        self._slot = slot or Interruptible()
        self._watched = slot is not None
        self._stretch = 0.0  # seconds; 0: none is open
        self.of = SUCCESS

    def penalty(self) -> type[BaseDeathPenalty]:
        """Return a death penalty class for RQ, which sets the slot's deadline."""
        limits = self

        class SlotPenalty(BaseDeathPenalty):
            def setup_death_penalty(self) -> None:
                self._began = monotonic()
                limits._enter(limits.of, self._timeout)

            def cancel_death_penalty(self) -> None:
                limits.leave()
                if limits._slot.was_aimed_at:  # as after a job's time limit, the processes that it started are ended
                    limits._slot.end_processes(self._began)
                limits._resume()

        return SlotPenalty

    @property
    def longest(self) -> float:
        """The limit of a stretch of this finish, in seconds."""
        return self._stretch or MOST

    @contextmanager
    def stretch(self, limit: float) -> Iterator[None]:
        """Limit the code inside. ``limit``: the job's own, in seconds; 0 or less: none."""
        self._stretch = min(MOST, max(LEAST, limit)) if limit > 0 else MOST
        try:
            self._resume()
            yield
        finally:
            self.close()

    @contextmanager
    def limited(self, what: int, limit: float) -> Iterator[None]:
        """Limit the code inside, which belongs to no finish. ``what``: what it is, as in ``endings``."""
        try:
            if self._watched:
                self._enter(what, limit)
            yield
        finally:
            self.leave()
            self._slot.what = JOB

    def close(self) -> None:
        """End the limit of the stretch: the outcome is in the store, and only RQ's own code follows."""
        self._stretch = 0.0
        self.leave()
        self._slot.what = JOB

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Suspend the limit of the stretch during a request to the store. A callback's limit is not suspended."""
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
            self._slot.leave()  # again: the interrupt's exception may have been raised inside the first call
        if self._slot.written_off:
            raise WrittenOff
        self._show(RECORDING, 0.0)

    def beat(self) -> None:
        """Show that the finish goes on, while no limited code runs."""
        self._show(RECORDING, 0.0)

    def _resume(self) -> None:
        if self._stretch and self._watched:
            self._enter(RECORDING, self._stretch)

    def _enter(self, what: int, limit: float) -> None:
        self._slot.what = what
        self._show(what, max(0.0, limit))
        self._slot.enter(-next(_targets), limit)
