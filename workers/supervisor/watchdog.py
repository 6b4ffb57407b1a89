"""The supervisor's eye on its children's slot pages: the second ticker, and the hand that ends what nothing else ends.

    a child's pulse holds still (C code holds the GIL)     mark what runs, give back what waits behind it
    a job is HARD seconds past its limit, or past the      SIGSTOP, look again, SIGKILL; in a child with several slots
    request to stop it                                     only when the whole process holds still: its steward writes
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
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.supervisor.child_handle import Condemned, Seat

log = logging.getLogger(__name__)

EVERY = 0.05  # seconds between two looks while something runs
STILL = 0.05  # seconds after which a pulse that does not answer is called still
DEAD_STILL = 0.25  # seconds of that after which a process with several slots is killed: a busy machine takes its time
FRESH = 1.0  # seconds after it was first seen in which a job's mark is looked after; while idle we look seldom
BETWEEN = 0.25  # seconds between two jobs after which a child is asked whether it reacts
ASK_EVERY = 1.0  # seconds until one that runs nothing and has answered is asked again
MEASURE_EVERY = 1.0


class Guard:
    """Looks at all seats; ``stand_in`` and ``retire`` are the supervisor's."""

    def __init__(
        self, settings: Settings, stand_in: Callable[[Seat], None], retire: Callable[[Seat, str], None]
    ) -> None:
        self._settings = settings
        self._stand_in = stand_in
        self._retire = retire
        self._measure_at = 0.0

    def step(self, seat: Seat, now: float) -> None:
        """Look at one child that has a process."""
        running = seat.region.running()
        if not running and seat.region.at_rest:
            seat.still_since = 0.0
            return
        still_for = self._still_for(seat, running, now)
        if still_for >= STILL and not seat.stood_in:
            seat.stood_in = True
            self._stand_in(seat)
        for job in running:
            if (end := self._overdue(seat, job, now)) and (self._settings.slots == 1 or still_for >= DEAD_STILL):
                self._end(seat, job, end)
                return

    def weigh(self, seats: list[Seat], now: float) -> None:
        """Retire what has grown too large."""
        if not self._settings.max_memory or now < self._measure_at:
            return
        self._measure_at = now + MEASURE_EVERY
        for seat in seats:
            if seat.pid and not seat.retiring and (size := memory_mb(seat.pid)) > self._settings.max_memory:
                self._retire(seat, f"it uses {size} MB, more than --max-memory {self._settings.max_memory}")

    def _still_for(self, seat: Seat, running: list[Running], now: float) -> float:
        """Since when (seconds) the steward has not answered a ping. It is asked only when something depends on it."""
        pulse = seat.region.get(PULSE)
        if pulse != seat.pulse:
            seat.pulse, seat.still_since, seat.stood_in = pulse, 0.0, False
            seat.ask_at = now + ASK_EVERY
        seat.seen = {job.claim: seat.seen.get(job.claim, now) for job in running}
        at_stake = (
            seat.region.get(BUFFERED)
            or any(now - seat.seen[job.claim] < FRESH or self._overdue(seat, job, now) for job in running)
            if running
            else self._is_between_jobs(seat, now)
        )
        if not at_stake and not seat.still_since:  # who was asked has to answer
            return 0.0
        if not seat.still_since:
            seat.still_since = now
            seat.tell(b"p\n")
        return now - seat.still_since

    def _is_between_jobs(self, seat: Seat, now: float) -> bool:
        """For longer than a turn takes: what it has claimed, or is about to claim, must not wait for it. While the
        store is away that is so of every child: it is asked once a second."""
        done = seat.region.get(DONE)
        if done != seat.done:
            seat.done, seat.ask_at = done, now + BETWEEN
        return seat.has_begun and now >= seat.ask_at

    def _overdue(self, seat: Seat, job: Running, now: float) -> Condemned | None:
        condemned = seat.condemned.get(job.claim)
        if condemned and job.what == JOB and now >= condemned.since + HARD:  # else it has reacted
            return condemned
        if job.limit and now >= job.since + job.limit + HARD:
            if condemned and condemned.verdict == "stop":
                return condemned._replace(what=job.what)
            text = time_limit_text(job.limit, SUBJECTS[job.what])
            text = f"TimeLimitExceeded: {text} It did not react: its process was killed."
            return Condemned("fail", text, now, job.what)
        return None

    def _end(self, seat: Seat, job: Running, end: Condemned) -> None:
        if not seat.pid:
            return
        try:
            os.kill(seat.pid, signal.SIGSTOP)
            if any(other.claim == job.claim for other in seat.region.running()):
                seat.condemned[job.claim] = end
                seat.killed = True
                os.kill(seat.pid, signal.SIGKILL)
            else:
                os.kill(seat.pid, signal.SIGCONT)
        except ProcessLookupError:  # it is gone already; the fork server says how
            pass


def memory_mb(pid: int) -> int:
    """What the process does not share (USS), in MB; 0 when it is gone."""
    try:
        return int(psutil.Process(pid).memory_full_info().uss // 2**20)
    except psutil.Error:
        return 0
