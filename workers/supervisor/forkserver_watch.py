"""Looks at the fork server: stopped or stuck it starts no child and tells of no death.

It is asked every 15 s. One that does not react is continued (SIGCONT), in case that somebody has stopped it; one that
still does not react is replaced. Its children die with it, so that waits while they run jobs, unless it is needed: a
child is missing, or has ended and nobody says how. One that reacts and tells of no death is replaced too: user code in
it may have seen to that.
"""

from __future__ import annotations

import logging
import os
import signal

from jobqueue.workers.shared.process_state import is_stopped

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0  # seconds
ASK_EVERY = 15.0  # seconds
STOPPED = 2.0  # seconds until it is continued, or replaced
SILENT = 10.0  # seconds
NEEDED = 5.0  # seconds that somebody waits for it
UNTOLD = 5.0  # seconds that a child has been dead
UNWATCHED = 3.0  # seconds between two looks after which the watch begins again


class ForkServerWatch:
    """Of one fork server that is ready. Runs in the supervisor's main loop."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._looked = 0.0  # monotonic seconds, all of them; 0: never, or it is not so
        self._ask_at = 0.0
        self._asked = 0.0
        self._stopped = 0.0
        self._needed = 0.0
        self._continued = False

    def heard(self) -> None:
        """It has said something."""
        self._asked, self._ask_at, self._continued = 0.0, self._looked + ASK_EVERY, False
        self._stopped = 0.0  # not all the time, that is

    def asks(self, now: float) -> bool:
        """Tell whether it is time to ask it for a sign of life."""
        if self._asked or now < self._ask_at:
            return False
        self._asked = now
        return True

    def step(self, now: float, busy: bool, needed: bool, dead: float = 0.0) -> str:
        """Look at it; return why it is to be replaced, "" when it is not. ``busy``: its children run jobs; ``needed``:
        somebody waits for it; ``dead``: since when a child has been, of which it says nothing, 0: none."""
        if now < self._looked + LOOK_EVERY:
            return ""
        if now > self._looked + UNWATCHED:
            self._asked = self._stopped = self._needed = 0.0
            self._ask_at = now + ASK_EVERY
        self._looked = now
        stopped = is_stopped(self._pid)
        if stopped and not self._stopped and not self._asked:
            self._ask_at = now  # what it answers says that it has run in between
        self._stopped = (self._stopped or now) if stopped else 0.0
        self._needed = (self._needed or now) if needed else 0.0
        if dead and now - dead >= UNTOLD:
            return "does not say that a child has died"
        why = self._why_useless(now)
        if not why:
            return ""
        if busy and not self._continued:
            self._continued = True
            log.warning("the fork server (pid %d) %s: it is continued", self._pid, why)
            os.kill(self._pid, signal.SIGCONT)  # we have not collected it: the pid is still its own
            return ""
        return why if not busy or (self._needed and now - self._needed >= NEEDED) else ""

    def _why_useless(self, now: float) -> str:
        if self._stopped and now - self._stopped >= STOPPED:
            return "is stopped"
        if self._asked and now - self._asked >= SILENT:
            return "does not react"
        return ""
