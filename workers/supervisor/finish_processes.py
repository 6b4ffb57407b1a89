"""Start finish processes, and kill one that holds still: its jobs would wait for ever."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

from jobqueue.workers.shared.deaths import LeftForRQ
from jobqueue.workers.shared.finish_page import PAGES, pages_in_file
from jobqueue.workers.shared.finish_watch import FinishWatch

log = logging.getLogger(__name__)


class WatchedFinish(NamedTuple):
    """A process that was requested, with its page."""

    number: int
    watch: FinishWatch


class FinishProcesses:
    """The ``Finishers`` of the supervisor's reaper, which calls all but ``step``. The main loop owns it."""

    def __init__(
        self,
        page_file: int,
        fork: Callable[[LeftForRQ, int], bool],
        is_away: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """fork: has the fork server start one, with the number of its page; is_away: the store does not answer."""
        self._pages = pages_in_file(page_file)
        self._fork = fork
        self._is_away = is_away
        self._clock = clock
        self._by_owner: dict[str, WatchedFinish] = {}
        self._pids: dict[str, int] = {}  # by owner
        self.spawned = False  # they are spawned, and import the served modules

    def fork(self, left: LeftForRQ) -> bool:
        """Start a process for these jobs; return whether it was requested. If there are more processes than pages, the
        last page is shared, so that those are watched less well."""
        taken = {it.number for it in self._by_owner.values()}
        number = next((n for n in range(PAGES) if n not in taken), PAGES - 1)
        self._pages[number].wipe()
        self._by_owner[left.owner] = WatchedFinish(
            number, FinishWatch(self._pages[number], self._clock(), imports=self.spawned)
        )
        return self._fork(left, number)

    def forked(self, owner: str, pid: int) -> None:
        """Note that the process runs."""
        self._pids[owner] = pid

    def ended(self, owner: str) -> int:
        """Note that the process is gone; return the claim of the job that it was at, 0 if that is not known."""
        self._pids.pop(owner, None)
        it = self._by_owner.pop(owner, None)
        return self._pages[it.number].claim if it else 0

    def step(self, now: float) -> None:
        """Look at each process, and kill those that hold still. The fork server reports their deaths."""
        for owner, pid in self._pids.items():
            if why := self._by_owner[owner].watch.step(pid, now, self._is_away()):
                log.warning("the process that finishes the jobs of %s (pid %d) is killed: %s", owner, pid, why)
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:  # it is gone already; the fork server reports how
                    pass
