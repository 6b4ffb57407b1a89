"""Stop a worker, in three phases. Each is entered once and has a deadline, so that a stop always ends.

    quiet       children claim nothing more; what nobody started goes back at once and in order; running jobs may finish
    interrupt   the grace is over: an exception is raised in every running job
    kill        the children that are still there 2 s later are killed

A child that runs nothing and has nothing to record or give back needs no grace: one that does not leave is killed
before it is over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from enum import IntEnum

from jobqueue.errors import BootFailed
from jobqueue.protocol.claims import Token
from jobqueue.workers.shared.journal import BUFFERED, UNSETTLED
from jobqueue.workers.shared.messages import Interrupt
from jobqueue.workers.supervisor.child_handle import ChildHandle

log = logging.getLogger(__name__)

INTERRUPTED_FOR = 2.0  # seconds between the interrupt and the kill
BIRTH_WAIT = 2.0  # seconds for a child that is not ready to read that it has to leave
IDLE_WAIT = 8.0  # seconds for a child that runs nothing to leave; exit handlers of its jobs may take 7 of them
KILL_WAIT = 5.0  # seconds within which the deaths of killed children are reported
QUIET_WAIT = 0.5  # seconds for all children to report what they dropped, so that it is given back in one step


class Phase(IntEnum):
    """The phases of a stop, in the order in which they come."""

    RUNNING = 0
    QUIET = 1
    INTERRUPT = 2
    KILL = 3


class Shutdown:
    """The stop of a worker. The supervisor's main loop owns it and steps it from ``begin`` on. ``give_back`` takes
    tokens of jobs that have not started; ``is_away`` returns whether the store does not answer; ``clock`` returns the
    time where it is not passed in."""

    def __init__(
        self,
        handles: Sequence[ChildHandle],
        grace: float,
        give_back: Callable[[Sequence[Token]], None],
        is_away: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handles = handles
        self._grace = grace
        self._give_back = give_back
        self._is_away = is_away
        self._clock = clock
        self.phase = Phase.RUNNING
        self.cause: BootFailed | None = None  # why the worker could not start, if it stops because of that
        self._began = 0.0  # monotonic seconds
        self._next_phase = 0.0  # monotonic seconds
        self._killed_at = 0.0  # monotonic seconds
        self._idle_since: dict[str, float] = {}  # by owner, monotonic seconds
        self._dropped: dict[int, tuple[Token, ...]] = {}  # by child: jobs that are to be given back in one step
        self._given_back = False
        self._no_children_since = 0.0  # monotonic seconds, 0: there are children

    def begin(self, why: str) -> None:
        """Enter the first phase. May be called again, without an effect."""
        if self.phase:
            return
        log.info("%s", why)
        self.phase = Phase.QUIET
        self._began = self._clock()
        self._next_phase = self._began + self._grace
        for handle in self._handles:
            handle.quiet()

    def fail(self, cause: BootFailed) -> None:
        """Stop a worker that cannot start like any other, as there may be dead children to clean up after. The first
        cause is kept."""
        self.cause = self.cause or cause
        self.begin("the worker cannot start")

    def asked(self, by: str, at_once: bool = False) -> None:
        """Start the stop that a signal or a command asks for. The second one ends the grace, and so does one with
        ``at_once``."""
        if at_once:
            self.begin(f"{by}: taking no more jobs")
        if not self.phase:
            self.begin(f"{by}: taking no more jobs; {self._what_has_time()}")
        elif self.phase is Phase.QUIET:
            again = "" if at_once else " again"
            log.info("%s%s: running jobs are interrupted and go back to their queues", by, again)
            self._next_phase = self._clock()

    def _what_has_time(self) -> str:
        """Return, for the log, what the grace is for."""
        pages = [handle.page for handle in self._handles if handle.is_used]
        if any(page.get(UNSETTLED) for page in pages) and not any(page.running() for page in pages):
            return f"finished jobs have {self._grace:g} s to be recorded"
        return f"running jobs have {self._grace:g} s to finish"

    def dropped(self, handle: ChildHandle, tokens: tuple[Token, ...]) -> None:
        """Give back the jobs that a child has reported as dropped, together with those of the other children if there
        is still time to wait for them."""
        handle.process.has_dropped = True
        if self.phase and not self._given_back:
            self._dropped[handle.number] = tokens
            return
        if self._given_back:
            log.info("child %s answers late: %d buffered jobs go back", handle.owner, len(tokens))
        if tokens:  # late, or from a child that retires while the worker continues
            self._give_back(tokens)

    def step(self, now: float) -> None:
        """Look at what the stop waits for, and enter the next phase when that is due."""
        silent = [handle for handle in self._handles if handle.is_used and not handle.process.has_dropped]
        if not self._given_back and (not silent or now >= self._began + QUIET_WAIT):
            self._given_back = True
            tokens = [token for _, some in sorted(self._dropped.items()) for token in some]
            if tokens:
                self._give_back(tokens)
            level = logging.INFO if tokens or silent else logging.DEBUG  # a normal stop logs nothing
            log.log(level, "quiet: %d buffered jobs go back, %d children have not answered", len(tokens), len(silent))
        if self.phase is Phase.QUIET and now >= self._began + BIRTH_WAIT:
            for handle in self._handles:
                if handle.is_used and not handle.has_begun:  # it runs no job that could end
                    handle.kill()
        if self.phase is Phase.QUIET:
            self._end_idle(now)
        if now >= self._next_phase:
            self._advance(now)
        if any(handle.is_used for handle in self._handles):
            self._no_children_since = 0.0
        else:
            self._no_children_since = self._no_children_since or now

    def without_children_for(self, now: float) -> float:
        """Return the seconds since the last child left; 0 while there is one, or while no stop has begun."""
        return now - self._no_children_since if self._no_children_since else 0.0

    def takes_too_long(self, now: float) -> bool:
        """Return whether all children were killed, and some deaths are not reported in time."""
        return bool(self._killed_at) and not self._no_children_since and now - self._killed_at >= KILL_WAIT

    def _end_idle(self, now: float) -> None:
        """Kill children that run no job and do not leave. A child that has outcomes to record or jobs to give back
        keeps the whole grace, and so do all while the store does not answer."""
        for handle in self._handles:
            page = handle.page
            owes = page.get(UNSETTLED) or page.get(BUFFERED) or page.running() or self._is_away()
            if not handle.is_used or owes:
                self._idle_since.pop(handle.owner, None)
            elif now - self._idle_since.setdefault(handle.owner, now) >= IDLE_WAIT:
                log.warning("child %s (pid %d) runs no job and does not leave: it is killed", handle.owner, handle.pid)
                self._idle_since[handle.owner] = now
                handle.kill()

    def _advance(self, now: float) -> None:
        """Enter the next phase. In the last one, kill again the children that are left."""
        self._next_phase = now + INTERRUPTED_FOR
        if self.phase is Phase.QUIET:
            self.phase = Phase.INTERRUPT
            for handle in self._handles:
                handle.tell(Interrupt())
        else:
            self.phase = Phase.KILL
            self._killed_at = self._killed_at or now
            for handle in self._handles:
                handle.kill()
