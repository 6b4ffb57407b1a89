"""Warn when the import of the served modules takes long: no job starts before it has ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

LONG = 10.0  # seconds until the first warning; the next one comes when the import has taken twice as long


class Importing:
    """The import that is under way. The supervisor's main loop owns it; the fork server reports which module it imports
    next."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: float | None = None  # monotonic seconds; None: nothing is being imported
        self._module = ""
        self._since = 0.0
        self._say_at = LONG

    def begin(self) -> None:
        """Note that a fork server was started."""
        self._began = self._clock()
        self._module, self._say_at = "", LONG

    def next(self, module: str) -> None:
        """Note that this module is imported next."""
        self._module, self._since = module, self._clock()

    def end(self) -> None:
        """Note that all modules are imported. May be called twice."""
        self._began = None

    @property
    def module(self) -> str:
        """The name of the module that is being imported; "" when none is."""
        return self._module if self._began is not None else ""

    def step(self, now: float) -> bool:
        """Warn if that is due; return whether it was."""
        if self._began is None or not self._module or now - self._began < self._say_at:
            return False
        self._say_at *= 2
        log.warning(
            "importing %s has not ended after %.0f s: no job starts before it does. Does the module connect to "
            "something, or run something, when it is imported?",
            self._module,
            now - self._since,
        )
        return True

    def describe(self) -> str:
        """Return what a worker that starts is doing, for its health file."""
        if self._began is None or not self._module:
            return "it is starting"
        return f"it is starting: importing {self._module} for {self._clock() - self._since:.0f} s"
