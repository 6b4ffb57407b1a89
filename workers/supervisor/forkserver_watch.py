"""Watch the fork server: one that is stopped or stuck starts no child and reports no death.

It is sent a ping every 15 s. One that does not react is continued (SIGCONT), in case somebody has stopped it; one that
still does not react is replaced. Its children die with it, so the replacement waits while they run jobs, unless the
fork server is needed: a child is missing, or has ended without a report of how. One that reacts and does not report a
death is replaced too: user code in it may be the reason, by waiting for processes that are not its own, say.
"""

from __future__ import annotations

import logging
import os
import signal

from jobqueue.workers.shared.process_state import is_stopped

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0  # seconds
ASK_EVERY = 15.0  # seconds
STOPPED = 2.0  # seconds until one that is stopped is continued, or replaced
SILENT = 10.0  # seconds until one that does not answer a ping is continued, or replaced
NEEDED = 5.0  # seconds for which it has been needed, after which it is replaced although its children run jobs
UNTOLD = 5.0  # seconds for which a child has been dead without a report
UNWATCHED = 3.0  # seconds between two looks after which the watch starts again


class ForkServerWatch:
    """Watches one fork server that is ready. Stepped by the supervisor's main loop."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        # all in monotonic seconds; 0: never, or it is not so
        self._looked = 0.0
        self._ask_at = 0.0
        self._asked = 0.0  # when the ping was sent that has no answer
        self._stopped = 0.0  # since when
        self._needed = 0.0  # since when
        self._continued = False  # SIGCONT was sent since it last answered

    def heard(self) -> None:
        """Note that the fork server has sent a message."""
        self._asked, self._ask_at, self._continued = 0.0, self._looked + ASK_EVERY, False
        self._stopped = 0.0  # it ran in between

    def asks(self, now: float) -> bool:
        """Return whether a ping is due; the caller sends it."""
        if self._asked or now < self._ask_at:
            return False
        self._asked = now
        return True

    def step(self, now: float, busy: bool, needed: bool, dead: float = 0.0) -> str:
        """Look at the fork server; return why it has to be replaced, "" if it need not be. busy: its children run jobs;
        needed: a requester waits for it; dead: since when a child has been dead without a report of its death
        (monotonic seconds), 0: there is none."""
        if now < self._looked + LOOK_EVERY:
            return ""
        if now > self._looked + UNWATCHED:
            self._asked = self._stopped = self._needed = 0.0
            self._ask_at = now + ASK_EVERY
        self._looked = now
        stopped = is_stopped(self._pid)
        if stopped and not self._stopped and not self._asked:
            self._ask_at = now  # an answer shows that it has run in between
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
            os.kill(
                self._pid, signal.SIGCONT
            )  # the supervisor is its parent and has not waited for it: the pid is its own
            return ""
        return why if not busy or (self._needed and now - self._needed >= NEEDED) else ""

    def _why_useless(self, now: float) -> str:
        if self._stopped and now - self._stopped >= STOPPED:
            return "is stopped"
        if self._asked and now - self._asked >= SILENT:
            return "does not react"
        return ""
