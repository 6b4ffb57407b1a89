"""Watch the children by their shared pages, and do what a child cannot do itself.

    a child's pulse holds still (C code holds the GIL)     stand in: mark what runs, give back what waits behind it
    a job is HARD seconds past its limit, or past the      SIGSTOP, read the page again, SIGKILL; with several slots
    request to stop it                                     only when the whole process holds still: a single thread is
                                                           written off by the child's own watchdog
    the process is larger than --max-memory                retire it

Runs in the main loop and never waits. A kill that is meant for one job never hits the next one: the process is stopped
first, and its page is read again.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable

from jobqueue.errors import LimitIgnored
from jobqueue.protocol.rescue import Verdict
from jobqueue.workers.shared.endings import HARD, JOB, PROCESS_KILLED, SUBJECTS
from jobqueue.workers.shared.journal import BUFFERED, DONE, PULSE, Running
from jobqueue.workers.shared.messages import Ping
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.supervisor.child_handle import ChildHandle
from jobqueue.workers.supervisor.child_process import ChildProcess, Condemned

log = logging.getLogger(__name__)

EVERY = 0.05  # seconds between two looks while something runs
SILENT = 0.05  # seconds without a new pulse after which a child counts as silent
SILENT_FOR_GOOD = 0.25  # seconds of silence after which a child of several slots is killed; a busy machine is slow
FRESH = 1.0  # seconds after it was first seen within which a job may still need its start mark
BETWEEN = 0.25  # seconds between two jobs after which a ping is sent
ASK_EVERY = 1.0  # seconds until the next ping to a child that runs no job and has answered
MEASURE_EVERY = 1.0


class Observed:
    """The watchdog's observations of one process."""

    def __init__(self, process: ChildProcess) -> None:
        self.process = process
        self.seen: dict[int, float] = {}  # claim → when it was first seen running (monotonic seconds)
        self.pulse = 0  # the last one
        self.silent_since = 0.0  # monotonic seconds since a ping has no answer; 0: it has one
        self.stood_in = False  # since then
        self.done = -1  # how many jobs it had done when it was last seen between two jobs
        self.ask_at = 0.0  # monotonic seconds: when to ping it although it runs no job


class Watchdog:
    """The watchdog. It looks at one handle at a time, from the main loop, and calls ``stand_in`` for a child that holds
    still and ``retire`` for one that has grown too large."""

    def __init__(
        self,
        settings: Settings,
        stand_in: Callable[[ChildHandle, int], None],
        retire: Callable[[ChildHandle, str], None],
    ) -> None:
        self._settings = settings
        self._stand_in = stand_in
        self._retire = retire
        self._observed: dict[int, Observed] = {}  # by the number of the handle
        self._measure_at = 0.0

    def step(self, handle: ChildHandle, now: float) -> None:
        """Look at one child that has a process."""
        running, seen = handle.page.running(), self._seen_of(handle)
        if not running and handle.page.at_rest:
            seen.silent_since = 0.0
            return
        silent_for = self._silent_for(handle, seen, running, now)
        if silent_for >= SILENT and not seen.stood_in:
            seen.stood_in = True
            self._stand_in(handle, seen.pulse)
        for job in running:
            if (end := self._overdue(handle, job, now)) and (
                self._settings.slots == 1 or silent_for >= SILENT_FOR_GOOD
            ):
                self._end(handle, job, end)
                return

    def weigh(self, handles: list[ChildHandle], now: float) -> None:
        """Retire each child whose process is larger than ``--max-memory``; measure once a second."""
        if not self._settings.max_memory or now < self._measure_at:
            return
        self._measure_at = now + MEASURE_EVERY
        for handle in handles:
            if (
                handle.pid
                and not handle.process.retiring
                and (size := memory_mb(handle.pid)) > self._settings.max_memory
            ):
                self._retire(handle, f"it uses {size} MB, more than --max-memory {self._settings.max_memory}")

    def _seen_of(self, handle: ChildHandle) -> Observed:
        """Return the observations of the handle's process; none of a new one."""
        seen = self._observed.get(handle.number)
        if seen is None or seen.process is not handle.process:
            seen = self._observed[handle.number] = Observed(handle.process)
        return seen

    def _silent_for(self, handle: ChildHandle, seen: Observed, running: list[Running], now: float) -> float:
        """Return the seconds for which the child watchdog has not answered a ping; one is sent only if something
        depends on the answer."""
        pulse = handle.page.get(PULSE)
        if pulse != seen.pulse:
            seen.pulse, seen.silent_since, seen.stood_in = pulse, 0.0, False
            seen.ask_at = now + ASK_EVERY
        seen.seen = {job.claim: seen.seen.get(job.claim, now) for job in running}
        at_stake = (
            handle.page.get(BUFFERED)
            or any(now - seen.seen[job.claim] < FRESH or self._overdue(handle, job, now) for job in running)
            if running
            else self._is_between_jobs(handle, seen, now)
        )
        if not at_stake and not seen.silent_since:  # a child that was sent a ping has to answer all the same
            return 0.0
        if not seen.silent_since:
            seen.silent_since = now
            handle.tell(Ping())
        return now - seen.silent_since

    def _is_between_jobs(self, handle: ChildHandle, seen: Observed, now: float) -> bool:
        """Return whether the child has run no job for longer than a slot needs to take the next one: the jobs that it
        has claimed, or is about to claim, must not wait for a child that holds still. While the store is away every
        child is between jobs: each is asked once a second."""
        done = handle.page.get(DONE)
        if done != seen.done:
            seen.done, seen.ask_at = done, now + BETWEEN
        return handle.has_begun and now >= seen.ask_at

    def _overdue(self, handle: ChildHandle, job: Running, now: float) -> Condemned | None:
        """Return how to end a job that should have ended by itself; None: it may continue."""
        condemned = handle.process.condemned.get(job.claim)
        if condemned and job.what == JOB and now >= condemned.since + HARD:  # its callback runs: the job has reacted
            return condemned
        if job.limit and now >= job.since + job.limit + HARD:
            if condemned and condemned.verdict is Verdict.STOP:
                return condemned._replace(what=job.what)
            cause = LimitIgnored(job.limit, PROCESS_KILLED, SUBJECTS[job.what])
            return Condemned(Verdict.FAIL, cause, now, job.what)
        return None

    def _end(self, handle: ChildHandle, job: Running, end: Condemned) -> None:
        """Kill the process for this job, if it still runs when the process is stopped."""
        if not handle.pid:
            return
        try:
            os.kill(handle.pid, signal.SIGSTOP)
            if any(other.claim == job.claim for other in handle.page.running()):
                handle.process.condemned[job.claim] = end
                handle.process.killed = True
                os.kill(handle.pid, signal.SIGKILL)
            else:
                os.kill(handle.pid, signal.SIGCONT)
        except ProcessLookupError:  # it is gone already; the fork server reports how
            pass


def memory_mb(pid: int) -> int:
    """Return the memory that the process does not share (USS), in MB; 0 when it is gone."""
    import psutil  # imported here: 1.2 MB, which only --max-memory needs

    try:
        return int(psutil.Process(pid).memory_full_info().uss // 2**20)
    except psutil.Error:
        return 0
