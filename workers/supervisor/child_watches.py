"""Look at the children in each turn of the main loop, and keep the findings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.supervisor.birth_watch import BirthWatch
from jobqueue.workers.supervisor.child_handle import ChildHandle
from jobqueue.workers.supervisor.children import Children
from jobqueue.workers.supervisor.idle_watch import IdleWatch
from jobqueue.workers.supervisor.watchdog import EVERY, Watchdog

SOON = 0.05  # seconds between two looks while something is awaited that sends no event
IDLE = 1.0  # seconds between two looks when nothing is
UNANSWERED = 5.0  # seconds without an answer from the store after which a child does not count as able to claim


class ChildWatches:
    """The watches over all children. The supervisor's main loop owns them."""

    def __init__(
        self,
        settings: Settings,
        handles: Sequence[ChildHandle],
        children: Children,
        stand_in: Callable[[ChildHandle, int], None],
    ) -> None:
        self._children = children
        self._watchdog = Watchdog(settings, stand_in, children.retire)
        self._idle_watches = [IdleWatch(handle, children.retire) for handle in handles]
        self.birth_watch = BirthWatch()

    def step(self, now: float) -> None:
        """Look at each child that has a process."""
        used = self._children.used
        for handle in used:
            self._watchdog.step(handle, now)
            self._idle_watches[handle.number].step(now, not handle.page.running())
            self.birth_watch.step(handle, now)
            if handle.look_whether_it_works():
                self._children.one_works()
        self._watchdog.weigh(used, now)

    @property
    def poll_timeout(self) -> float:
        """Seconds until the next look, if nothing happens before."""
        used = self._children.used
        if self._children.missing or any(not handle.has_begun for handle in used):
            return SOON
        return EVERY if any(not handle.page.at_rest for handle in used) else IDLE

    @property
    def dead_since(self) -> float:
        """Since when a child has been dead without a report of its death (monotonic seconds); 0: there is none."""
        watches = [self._idle_watches[handle.number] for handle in self._children.used]
        return min((watch.dead for watch in watches if watch.dead), default=0.0)

    def why_no_child(self, now: float) -> str:
        """Return why no process could claim a job, now or after the jobs that it runs; "" if one could."""
        there = [handle for handle in self._children.used if handle.pid and handle.has_begun]
        unanswered = False
        for handle in there:
            process, watch = handle.process, self._idle_watches[handle.number]
            if watch.reacts and not process.closed_since and not process.quiet_sent:
                since = handle.page.unanswered_since
                if not since or now - since < UNANSWERED:
                    return ""
                unanswered = True
        if unanswered:
            return "the store does not answer its processes, or refuses what they ask: see the log"
        return "its processes do not react" if there else "it has no child"
