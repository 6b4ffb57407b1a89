"""Clean up after dead children: the roles thread rescues their jobs, a finish process ends those that need RQ's code.

    a child dies ──► reap ──► (roles thread) rescue ──► nothing is left: done
                                                 └─► left for RQ: finish process ──► (roles thread) final rescue

Owned by the supervisor's main loop. A stop waits until the reaper is not busy any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from jobqueue.words import count
from jobqueue.workers.roles.rescuer import Rescuer
from jobqueue.workers.shared.deaths import DeathReport, LeftForRQ

log = logging.getLogger(__name__)
T = TypeVar("T")
Event = Callable[[], None]

MOST_AT_FAULT = 3  # jobs of one owner that may end a finish process, before all run without the user's code


class Finishers(Protocol):
    """Starts finish processes. Only the main loop calls it."""

    def fork(self, left: LeftForRQ) -> bool:
        """Have a finish process started; return False if it cannot be started now."""

    def forked(self, owner: str, pid: int) -> None:
        """Note that the process runs."""

    def ended(self, owner: str) -> int:
        """Note that the process is gone; return the claim of the job that it was at, 0 if that is not known."""


class FinishAttempt(NamedTuple):
    """The jobs for a finish process, and how many such processes have died of them before."""

    left: LeftForRQ
    deaths: int = 0

    def after_death(self, claim: int) -> FinishAttempt | None:
        """Return the attempt for the next process: it continues with the job of this claim, at which the last one died,
        without code of the user's for that job. None: there is no code of the user's that could be left out."""
        left, deaths = self.left, self.deaths + 1
        claims = [job.claim for job in left.jobs]
        if left.plain.issuperset(claims):
            return None
        is_known = claim in claims and claim not in left.plain and deaths < MOST_AT_FAULT
        jobs = left.jobs[claims.index(claim) :] if claim in claims else left.jobs  # the jobs before it are recorded
        return FinishAttempt(left._replace(jobs=jobs, plain=left.plain | ({claim} if is_known else {*claims})), deaths)


class Reaper:
    """Reaps dead children. As a Requester of the fork server it is told of births and deaths of finish processes."""

    def __init__(
        self,
        rescuer: Rescuer,
        do: Callable[[Event], None],
        post: Callable[[Event], None],
        finishers: Finishers,
    ) -> None:
        """do: passes a request to the roles thread; post: passes an event to the main loop."""
        self._rescuer = rescuer
        self._do = do
        self._post = post
        self._finishers = finishers
        self._under_way = 0  # requests to the roles thread
        self._finishing: dict[str, FinishAttempt] = {}  # by owner
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
        """Start a finish process for the jobs that a rescue left: RQ's own code, which ends them, calls user code. Do
        nothing if no job is left, or if a process for them is under way."""
        if left is None or not left.jobs or left.owner in self._finishing:
            return
        self._finishing[left.owner] = FinishAttempt(left)
        # without a fork server, which may never come back, do the final rescue without RQ's code
        if not self._finishers.fork(left):
            self._close(left.owner, None)

    def forked(self, owner: str, pid: int) -> bool:
        """Note the pid of a process that runs, if it is a finish process."""
        if owner in self._finishing:
            self._pids[pid] = owner
            self._finishers.forked(owner, pid)
            return True
        return False

    def unborn(self, owner: str, why: str) -> bool:
        """Do the final rescue without a finish process that could not be started."""
        if owner not in self._finishing:
            return False
        self._close(owner, None)
        return True

    def died(self, pid: int, status: int) -> bool:
        """Do the final rescue after a finish process that has ended. After one that failed, first start another one,
        which calls nothing of the user's code for the job at which the first one failed."""
        owner = self._pids.pop(pid, None)
        if owner is None:
            return False
        again = self._finishing[owner].after_death(self._finishers.ended(owner)) if status != 0 else None
        if again is not None:
            plain = sum(job.claim in again.left.plain for job in again.left.jobs)
            log.warning(
                "finishing the jobs of %s failed; %s recorded without own code",
                owner,
                count(plain, "job is", "jobs are"),
            )
            self._finishing[owner] = again
            if self._finishers.fork(again.left):
                return True
        self._close(owner, status)
        return True

    def all_died(self) -> None:
        """Do the final rescues, as all finish processes are gone with the fork server."""
        self._pids.clear()
        for owner in list(self._finishing):
            self._close(owner, None)

    def _close(self, owner: str, status: int | None) -> None:
        """Do the final rescue. status: of the finish process; None: it did not end by itself, or did not start."""
        if status != 0:
            log.warning("finishing the jobs of %s failed; they are recorded without callbacks and retries", owner)
        self._finishers.ended(owner)
        left = self._finishing.pop(owner).left
        self.ask(lambda: self._rescuer.close(left), lambda _: None)
