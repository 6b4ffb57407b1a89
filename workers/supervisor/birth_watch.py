"""Looks at children that were started and have not come as far as to run jobs: a function that a served module
registered with ``os.register_at_fork`` may never return.

A forked child has nothing else to do there, so one that takes long is said, and one that takes very long is killed:
that is a failed attempt. One that imports for itself takes as long as that takes.
"""

from __future__ import annotations

import logging

from jobqueue.workers.supervisor.child_handle import ChildHandle

log = logging.getLogger(__name__)

SAID = 10.0  # seconds
KILLED = 30.0  # seconds


class BirthWatch:
    """Runs in the supervisor's main loop."""

    def __init__(self) -> None:
        self.spawned = False  # children import for themselves
        self._said: set[str] = set()  # owners

    def step(self, handle: ChildHandle, now: float) -> None:
        """Look at the child of this handle."""
        if handle.has_begun or not handle.pid:
            self._said.discard(handle.owner)
            return
        age = now - handle.process.born
        if age >= SAID and handle.owner not in self._said:
            self._said.add(handle.owner)
            log.warning(
                "child %s (pid %d) was started %.0f s ago and does not run yet: %s",
                handle.owner,
                handle.pid,
                age,
                self._why,
            )
        if age >= KILLED and not self.spawned and not handle.process.failure:
            handle.process.failure = f"did not come as far as to run jobs within {KILLED:.0f} s and was killed"
            handle.kill()

    @property
    def _why(self) -> str:
        if self.spawned:
            return "it imports the served modules for itself. Does one of them connect to something, or run something?"
        return "does a served module do something at a fork (os.register_at_fork) that does not end?"
