"""Watch children that run no job: nothing waits for them, so one that is stuck would keep its place for ever.

    it has been stopped (SIGSTOP) for 2 s                    its process is killed, and another takes its place
    it has not answered a ping for 10 s                      likewise; a child at rest is sent one every 15 s only
    its end of the control socket has been closed for 1 s    a successor starts; killed as soon as it runs nothing
    it is dead, and the fork server does not report it       nothing here: see forkserver_watch.py

Jobs that such a child had claimed are given back when its process is reaped, and before that when the watchdog stands
in for it. After the supervisor itself held still, the watch starts again.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable

from jobqueue.workers.shared.journal import PULSE
from jobqueue.workers.shared.messages import Ping
from jobqueue.workers.shared.process_state import is_dead, is_stopped
from jobqueue.workers.supervisor.child_handle import ChildHandle

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0  # seconds between two looks into the process table
ASK_EVERY = 15.0  # seconds between two pings of a child that is at rest
STOPPED_FOR = 2.0  # seconds
SILENT = 10.0  # seconds; long, because of overloaded machines
CLOSED_FOR = 1.0  # seconds
UNWATCHED = 3.0  # seconds between two looks after which the watch starts again


class IdleWatch:
    """Watches one handle; the supervisor's main loop steps it. ``retire`` has a successor started."""

    def __init__(self, handle: ChildHandle, retire: Callable[[ChildHandle, str], None]) -> None:
        self._handle = handle
        self._retire = retire
        self._pid = 0
        self._pulse = 0  # the last process seen
        # all in monotonic seconds; 0: never, or it is not so
        self._looked = 0.0
        self._ask_at = 0.0
        self._asked = 0.0  # when the ping was sent that has no answer
        self.stopped = 0.0  # since when
        self.dead = 0.0  # since when

    def step(self, now: float, is_idle: bool) -> None:
        """Look at the handle's process, which runs no job if ``is_idle``."""
        if now < self._looked + LOOK_EVERY and self._pid == self._handle.pid:
            return
        if self._pid != self._handle.pid or now > self._looked + UNWATCHED:
            self._begin(now)
        self._looked = now
        if not self._pid:
            return
        self.dead = (self.dead or now) if is_dead(self._pid) else 0.0
        if self.dead:
            return
        self._look_whether_stopped(now)
        self._ask(now, is_idle)
        if self._handle.process.closed_since and now - self._handle.process.closed_since >= CLOSED_FOR:
            self._retire(self._handle, "it has closed its control socket")
        if is_idle and (why := self._why_useless(now)):
            self._end(why)

    @property
    def reacts(self) -> bool:
        """Whether the process reacts, as far as known."""
        return not self.stopped and not self.dead and not (self._asked and self._looked - self._asked >= 2 * LOOK_EVERY)

    def _begin(self, now: float) -> None:
        """Start the watch of a process without any earlier observations."""
        self._pid = self._handle.pid
        self._asked = self.stopped = self.dead = 0.0
        self._ask_at = now + ASK_EVERY
        self._pulse = self._handle.page.get(PULSE)

    def _look_whether_stopped(self, now: float) -> None:
        """Note since when the process has been stopped without a break: one whose pulse has moved ran in between."""
        has_run = self._handle.page.get(PULSE) != self._pulse
        if not is_stopped(self._pid):
            self.stopped = 0.0
        elif not self.stopped or has_run:
            self.stopped = now
            self._handle.tell(Ping())

    def _ask(self, now: float, is_idle: bool) -> None:
        """Send a ping if one is due, and note the answer to the last one."""
        pulse = self._handle.page.get(PULSE)
        if pulse != self._pulse or not is_idle:  # the watchdog looks at busy ones
            self._pulse, self._asked, self._ask_at = pulse, 0.0, now + ASK_EVERY
        elif pulse and not self._asked and (now >= self._ask_at or not self._handle.page.at_rest):
            self._asked = now
            self._handle.tell(Ping())

    def _why_useless(self, now: float) -> str:
        if self.stopped and now - self.stopped >= STOPPED_FOR:
            return "it is stopped"
        if self._asked and now - self._asked >= SILENT:
            return "it does not react"
        if self._handle.process.closed_since and now - self._handle.process.closed_since >= CLOSED_FOR:
            return "it has closed its control socket"
        return ""

    def _end(self, why: str) -> None:
        """Kill the process, unless it has just started a job: it is stopped first, and its page is read again."""
        handle = self._handle
        try:
            os.kill(handle.pid, signal.SIGSTOP)
            if handle.page.running():
                os.kill(handle.pid, signal.SIGCONT)
                return
            log.warning("child %s (pid %d) is replaced: %s", handle.owner, handle.pid, why)
            handle.process.killed = True
            os.kill(handle.pid, signal.SIGKILL)
        except ProcessLookupError:  # it is gone already; the fork server reports how
            pass
