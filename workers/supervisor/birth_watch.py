"""Watch children that were started and do not run jobs yet: a function that a served module registered with
``os.register_at_fork`` may never return, nor a plugin's ``process_start``.

A forked child has nothing else to do there: log one that takes longer than 10 s, and kill one that takes longer than
30 s, which counts as a failed attempt. A spawned child imports the served modules and may take as long as that takes.
"""

from __future__ import annotations

import logging

from jobqueue.workers.supervisor.child_handle import ChildHandle

log = logging.getLogger(__name__)

SAID = 10.0  # seconds
KILLED = 30.0  # seconds


def in_plugin(name: str) -> str:
    """Return what a child does that has not begun to run jobs, for the log."""
    return f"process_start of the plugin {name}"


class BirthWatch:
    """Stepped by the supervisor's main loop, for each child that has a process."""

    def __init__(self) -> None:
        self.spawned = False  # True: children are spawned, and import the served modules
        self._said: set[str] = set()  # owner names of the children that were logged

    def step(self, handle: ChildHandle, now: float) -> None:
        """Look at the child of this handle."""
        if handle.has_begun or not handle.pid:
            self._said.discard(handle.owner)
            return
        process = handle.process
        age = now - (process.plugin_since or process.born)  # each plugin has its own time
        if age >= SAID and handle.owner not in self._said:
            self._said.add(handle.owner)
            log.warning(
                "child %s (pid %d) was started %.0f s ago and does not run yet: %s",
                handle.owner,
                handle.pid,
                now - process.born,
                self._why(process.plugin),
            )
        if age >= KILLED and (process.plugin or not self.spawned) and not process.failure:
            where = f": {in_plugin(process.plugin)} has not ended" if process.plugin else ""
            process.failure = f"was not ready to run jobs within {KILLED:.0f} s and was killed{where}"
            handle.kill()

    def _why(self, plugin: str) -> str:
        if plugin:
            return f"{in_plugin(plugin)} has not ended"
        if self.spawned:
            return "it imports the served modules for itself. Does one of them connect to something, or run something?"
        return "does a served module do something at a fork (os.register_at_fork) that does not end?"
