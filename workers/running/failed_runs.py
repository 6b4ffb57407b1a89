"""Count how runs ended that did not return, by cause, until the next CYCLE takes the counts to the store.

    failed:ValueError     the class of what the job raised; failed:time_limit where that was our time limit's exception,
                          or the job did not react to it; failed:interrupted at the end of a grace, with --on-crash fail
    stopped:stopped       somebody asked to stop it

Runs whose process died are counted by RESCUE (scripts/rescue.lua).
"""

from __future__ import annotations

import re
from collections import Counter, deque

TIME_LIMIT, INTERRUPTED, STOPPED = "failed:time_limit", "failed:interrupted", "stopped:stopped"
LONGEST = 100  # characters of a class's name
_OF_LIMITS = frozenset({"TimeLimitExceeded", "JobTimeoutException"})  # ours, and that of RQ's own death penalty


class FailedRuns:
    """The counts of one child. Any thread may call it."""

    def __init__(self, on: bool = True) -> None:
        self._on = on
        self._ends: deque[str] = deque()  # appending to it or removing from its front needs no lock

    def add(self, end: str) -> None:
        """Count a run that ended so."""
        if self._on:
            self._ends.append(end)

    def raised(self, words: str) -> None:
        """Count a run that raised an exception. ``words``: the exception in one line, which begins with its class."""
        found = re.match(r"\w+", words)
        name = found[0][:LONGEST] if found else "other"
        self.add(TIME_LIMIT if name in _OF_LIMITS else f"failed:{name}")

    @property
    def pending(self) -> bool:
        """Whether there is anything to send."""
        return bool(self._ends)

    def take(self) -> dict[str, int]:
        """Remove and return the counts."""
        if not self._ends:
            return {}
        counts: Counter[str] = Counter()
        try:
            while True:
                counts[self._ends.popleft()] += 1
        except IndexError:
            return counts
