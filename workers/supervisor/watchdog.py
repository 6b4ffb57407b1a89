"""Watch the children by their shared pages: it marks starts too, and ends what nothing else ends.

    a child's pulse holds still (C code holds the GIL)     mark what runs, give back what waits behind it
    a job is HARD seconds past its limit, or past the      SIGSTOP, look again, SIGKILL; in a child with several slots
    request to stop it                                     only when the whole process holds still: its watchdog writes
                                                           off a single thread by itself
    the process is larger than --max-memory                retire it

Runs in the main loop and never waits. A kill that is meant for one job never hits the next: the process is stopped
first, and its page is read again.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable

import psutil

from jobqueue.workers.shared.endings import HARD, JOB, SUBJECTS, time_limit_text
from jobqueue.workers.shared.journal import BUFFERED, DONE, PULSE, Running
from jobqueue.workers.shared.messages import Ping
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.supervisor.child_handle import ChildHandle, Condemned

log = logging.getLogger(__name__)

EVERY = 0.05  # seconds between two looks while something runs
SILENT = 0.05  # seconds without a new pulse after which a child is called silent
SILENT_FOR_GOOD = 0.25  # seconds of that after which a child of several slots is killed: a busy machine takes its time
FRESH = 1.0  # seconds after it was first seen in which a job's mark is looked after; while idle we look seldom
BETWEEN = 0.25  # seconds between two jobs after which a child is asked whether it reacts
ASK_EVERY = 1.0  # seconds until one that runs nothing and has answered is asked again
MEASURE_EVERY = 1.0


class Watchdog:
    """Looks at all handles; ``stand_in`` and ``retire`` are the supervisor's."""

    def __init__(
        self, settings: Settings, stand_in: Callable[[ChildHandle], None], retire: Callable[[ChildHandle, str], None]
    ) -> None:
        self._settings = settings
        self._stand_in = stand_in
        self._retire = retire
        self._measure_at = 0.0

    def step(self, handle: ChildHandle, now: float) -> None:
        """Look at one child that has a process."""
        running = handle.page.running()
        if not running and handle.page.at_rest:
            handle.silent_since = 0.0
            return
        silent_for = self._silent_for(handle, running, now)
        if silent_for >= SILENT and not handle.stood_in:
            handle.stood_in = True
            self._stand_in(handle)
        for job in running:
            if (end := self._overdue(handle, job, now)) and (
                self._settings.slots == 1 or silent_for >= SILENT_FOR_GOOD
            ):
                self._end(handle, job, end)
                return

    def weigh(self, handles: list[ChildHandle], now: float) -> None:
        """Retire what has grown too large."""
        if not self._settings.max_memory or now < self._measure_at:
            return
        self._measure_at = now + MEASURE_EVERY
        for handle in handles:
            if handle.pid and not handle.retiring and (size := memory_mb(handle.pid)) > self._settings.max_memory:
                self._retire(handle, f"it uses {size} MB, more than --max-memory {self._settings.max_memory}")

    def _silent_for(self, handle: ChildHandle, running: list[Running], now: float) -> float:
        """Since when (seconds) the child watchdog has not answered a ping. It is asked only when something depends on
        it."""
        pulse = handle.page.get(PULSE)
        if pulse != handle.pulse:
            handle.pulse, handle.silent_since, handle.stood_in = pulse, 0.0, False
            handle.ask_at = now + ASK_EVERY
        handle.seen = {job.claim: handle.seen.get(job.claim, now) for job in running}
        at_stake = (
            handle.page.get(BUFFERED)
            or any(now - handle.seen[job.claim] < FRESH or self._overdue(handle, job, now) for job in running)
            if running
            else self._is_between_jobs(handle, now)
        )
        if not at_stake and not handle.silent_since:  # who was asked has to answer
            return 0.0
        if not handle.silent_since:
            handle.silent_since = now
            handle.tell(Ping())
        return now - handle.silent_since

    def _is_between_jobs(self, handle: ChildHandle, now: float) -> bool:
        """For longer than a turn takes: what it has claimed, or is about to claim, must not wait for it. While the
        store is away that is so of every child: it is asked once a second."""
        done = handle.page.get(DONE)
        if done != handle.done:
            handle.done, handle.ask_at = done, now + BETWEEN
        return handle.has_begun and now >= handle.ask_at

    def _overdue(self, handle: ChildHandle, job: Running, now: float) -> Condemned | None:
        condemned = handle.condemned.get(job.claim)
        if condemned and job.what == JOB and now >= condemned.since + HARD:  # else it has reacted
            return condemned
        if job.limit and now >= job.since + job.limit + HARD:
            if condemned and condemned.kind == "stop":
                return condemned._replace(what=job.what)
            text = time_limit_text(job.limit, SUBJECTS[job.what])
            text = f"TimeLimitExceeded: {text} It did not react: its process was killed."
            return Condemned("fail", text, now, job.what)
        return None

    def _end(self, handle: ChildHandle, job: Running, end: Condemned) -> None:
        if not handle.pid:
            return
        try:
            os.kill(handle.pid, signal.SIGSTOP)
            if any(other.claim == job.claim for other in handle.page.running()):
                handle.condemned[job.claim] = end
                handle.killed = True
                os.kill(handle.pid, signal.SIGKILL)
            else:
                os.kill(handle.pid, signal.SIGCONT)
        except ProcessLookupError:  # it is gone already; the fork server says how
            pass


def memory_mb(pid: int) -> int:
    """What the process does not share (USS), in MB; 0 when it is gone."""
    try:
        return int(psutil.Process(pid).memory_full_info().uss // 2**20)
    except psutil.Error:
        return 0
