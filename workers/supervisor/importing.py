"""Says so when the import of the served modules takes long, for until it ends no job starts: a module that connects to
something that does not answer, that computes, or that runs a server at its import.
"""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)

LONG = 10.0  # seconds after which it is said for the first time; then again when it has taken twice as long


class Importing:
    """Owned by the supervisor's main loop; the fork server tells which module is next."""

    def __init__(self) -> None:
        self._began: float | None = None  # monotonic seconds; None: nothing is being imported
        self._module = ""
        self._since = 0.0
        self._say_at = LONG

    def begin(self) -> None:
        """A fork server was started."""
        self._began = time.monotonic()
        self._module, self._say_at = "", LONG

    def next(self, module: str) -> None:
        self._module, self._since = module, time.monotonic()

    def end(self) -> None:
        """All is imported, or the fork server is gone. Twice is once."""
        self._began = None

    @property
    def module(self) -> str:
        """What is being imported; "" when nothing is."""
        return self._module if self._began is not None else ""

    def step(self, now: float) -> bool:
        """Warn when it is time to; return whether it was."""
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
        """What a worker does that is starting, for its health."""
        if self._began is None or not self._module:
            return "it is starting"
        return f"it is starting: importing {self._module} for {time.monotonic() - self._since:.0f} s"
