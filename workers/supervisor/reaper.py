"""Clean up after dead children: the roles thread rescues their jobs, a finish process ends those that need RQ's code.

    a child dies ──► reap ──► (roles thread) rescue ──► nothing is left: done
                                                 └─► left for RQ: finish process ──► (roles thread) final rescue

Owned by the supervisor's main loop. A stop waits until the reaper is not busy any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from jobqueue.workers.roles.rescuer import Rescuer
from jobqueue.workers.shared.deaths import DeathReport, LeftForRQ

log = logging.getLogger(__name__)
T = TypeVar("T")
Event = Callable[[], None]


class Reaper:
    """A Requester of the fork server's: it reports births and deaths of finish processes here."""

    def __init__(
        self,
        rescuer: Rescuer,
        do: Callable[[Event], None],
        post: Callable[[Event], None],
        fork: Callable[[LeftForRQ], bool],
    ) -> None:
        """do: hands to the roles thread; post: back to the main loop; fork: starts a finish process, False: it cannot
        be started now."""
        self._rescuer = rescuer
        self._do = do
        self._post = post
        self._fork = fork
        self._under_way = 0  # requests to the roles thread
        self._finishing: dict[str, LeftForRQ] = {}  # by owner
        self._pids: dict[int, str] = {}  # of finish processes

    @property
    def busy(self) -> bool:
        """Whether a request or a finish process is under way."""
        return bool(self._under_way or self._finishing)

    def ask(self, request: Callable[[], T], then: Callable[[T], None]) -> None:
        """Have the roles thread call ``request``, and then the main loop ``then`` with what it returned."""
        self._under_way += 1

        def run() -> None:
            result = request()
            self._post(lambda: done(result))

        def done(result: T) -> None:
            self._under_way -= 1
            then(result)

        self._do(run)

    def reap(self, death_report: DeathReport) -> None:
        """Have the jobs of a dead child rescued."""
        self.ask(lambda: self._rescuer.rescue_own(death_report), self.finish_by_rq)

    def finish_by_rq(self, left: LeftForRQ | None) -> None:
        """Start a finish process for the jobs that a rescue left: RQ's own code, which ends them, calls user code.
        Nothing happens if nothing is left, or if one is at it already."""
        if left is None or not left.jobs or left.owner in self._finishing:
            return
        self._finishing[left.owner] = left
        if not self._fork(
            left
        ):  # there is no fork server, and perhaps never again: do the final rescue without RQ's code
            self._close(left, None)

    def forked(self, owner: str, pid: int) -> bool:
        """Note the pid of a process that runs, if it is a finish process."""
        if owner in self._finishing:
            self._pids[pid] = owner
            return True
        return False

    def unborn(self, owner: str, why: str) -> bool:
        """Do the final rescue without a finish process that could not be started."""
        if owner not in self._finishing:
            return False
        self._close(self._finishing[owner], None)
        return True

    def died(self, pid: int, status: int) -> bool:
        """Do the final rescue after a finish process that has ended. After one that failed, first start another one
        that calls nothing of the user's code."""
        owner = self._pids.pop(pid, None)
        if owner is None:
            return False
        left = self._finishing[owner]
        claims = frozenset(job.claim for job in left.jobs)
        if status != 0 and left.plain != claims:
            log.warning("finishing the jobs of %s failed; they are recorded without their own code", owner)
            self._finishing[owner] = left._replace(plain=claims)
            if self._fork(self._finishing[owner]):
                return True
        self._close(left, status)
        return True

    def all_died(self) -> None:
        """Do the final rescues, because the fork server is gone, and with it every finish process."""
        self._pids.clear()
        for left in list(self._finishing.values()):
            self._close(left, None)

    def _close(self, left: LeftForRQ, status: int | None) -> None:
        """Do the final rescue. ``status``: of the finish process; None: it did not end by itself, or did not start."""
        if status != 0:
            log.warning("finishing the jobs of %s failed; they are recorded without callbacks and retries", left.owner)
        del self._finishing[left.owner]
        self.ask(lambda: self._rescuer.close(left), lambda _: None)
