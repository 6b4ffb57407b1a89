"""Run the jobs of RQ's Worker in one child process that stays, where RQ forks a process ("work horse") for each job.

    parent   signals, commands, maintenance, lease; waits for the child to end, and cleans up after it at once
      └ child   the engine: claims, runs, settles (horse_child.py, engine.py)

The child writes what it runs to the shared page, so the parent knows, without asking the store, which job the child
died with. That job fails as in RQ ("Work-horse terminated unexpectedly", or a retry if any is left), the jobs in the
child's buffer go back to their queues, finished jobs are settled, and another child is started.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from redis.exceptions import RedisError
from rq.exceptions import StopRequested

from jobqueue.clock import monotonic
from jobqueue.network.backoff import Backoff
from jobqueue.workers.rq_classes.horse_child import HorseChild
from jobqueue.workers.rq_classes.horse_death import HorseDeath
from jobqueue.workers.rq_classes.horse_flags import HorseFlags
from jobqueue.workers.rq_classes.horse_watch import HorseWatch
from jobqueue.workers.rq_classes.on_engine import OnOurEngine
from jobqueue.workers.rq_classes.rq_roles import RQRoles
from jobqueue.workers.running import output
from jobqueue.workers.shared.attempts import TRIES
from jobqueue.workers.shared.journal import PULSE
from jobqueue.workers.shared.polling import readable
from jobqueue.workers.shared.process_tree import Forks

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK = 1.0  # seconds between two looks at a child that lives
POLL = 0.02  # the same, where the kernel has no pidfd
OVERDUE = 60.0  # seconds past its job's time limit after which the child is killed, as in RQ
TOO_SOON = 1.0  # seconds: after a child that ends sooner and without a job, wait this long before the next


class Horse:
    """The parent's side: keeps a child running. The main thread runs it; signal handlers call ``stir``, and RQ's thread
    for commands calls ``stop_job``."""

    def __init__(self, worker: OnOurEngine, rq_roles: RQRoles) -> None:
        self._worker = worker
        self._rq_roles = rq_roles
        self._page = rq_roles.page
        self.pid = 0  # 0: there is no child
        self.owner = ""
        self._forks = Forks()
        self._flags = HorseFlags()
        self._idle_watch = HorseWatch(self._page, self._flags)
        self._death = HorseDeath(worker, rq_roles, self._retry_request)
        self._failed_starts = Backoff(first=1.0, most=5.0)  # in a row: children that ended before their first claim
        self._stop_sent: set[int] | None = None  # claims that ran when SIGTERM was sent: a job may have caught it
        self._woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)

    @property
    def is_busy(self) -> bool:
        """Whether its child runs a job."""
        return bool(self.pid and self._page.running())

    @property
    def completed(self) -> int:
        """How many jobs were run so far."""
        return self._death.completed

    def run(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> None:
        """Keep a child running until one leaves by itself, a stop was requested, or ``max_jobs`` have run."""
        while True:
            born = monotonic()
            left = None if max_jobs is None else max_jobs - self.completed
            if burst:  # a retry, or a dependent, belongs to it too
                self._wait_for_finishes()
            self._fork(burst, left, max_idle_time)
            try:
                status, usage = self._watch()
            except BaseException:  # a cold shutdown, or a bug: the child ends before this process does
                self._end_child()
                raise
            died = self._clean_up(status, usage)
            if (status == 0 and self._flags.left) or self._worker._stop_requested or self.completed == max_jobs:
                return
            if not died and monotonic() - born < TOO_SOON:
                log.warning("the work horse left with status %s before it had run anything", status)
                self._rest(TOO_SOON)
            self._count_failed_starts()

    def _count_failed_starts(self) -> None:
        if self._page.get(PULSE):  # it has sent its first claim
            self._failed_starts.reset()
        elif self._failed_starts.failed() and self._failed_starts.failures >= TRIES:
            log.error("no work horse becomes ready (%d attempts): this worker quits", TRIES)
            raise SystemExit(2)

    def _fork(self, *limits: Any) -> None:
        self.owner, self._stop_sent = self._retry_request(self._rq_roles.own), None
        parent = os.getpid()
        with self._rq_roles.roles_paused():
            output.flush()
            self._forks = Forks()
            self._flags.clear()
            child = HorseChild(self._worker, self._rq_roles, self.owner, self._forks, self._flags)
            pid = os.fork()
            if pid == 0:
                child.run(parent, *limits)
        self.pid = pid
        self._idle_watch.forked(monotonic())
        self._worker.procline(f"Forked {pid} at {time.time()}")  # type: ignore[no-untyped-call]

    # -- beside the child ----------------------------------------------------------------------------------------------

    def _wait_for_finishes(self) -> None:
        """Wait until the jobs of dead children are recorded, or a stop is requested."""
        while self._rq_roles.user_code.is_finishing and not self._worker._stop_requested:
            self._tend()
            self._rest(POLL)

    def _tend(self) -> None:
        self._rq_roles.user_code.look()
        self._rq_roles.tend()

    def wait_for_helpers(self) -> None:
        """Wait until the processes that run callbacks and RQ's maintenance have ended."""
        self._rq_roles.user_code.wait(lambda: self._worker._stop_requested, lambda: self._rest(POLL))

    # -- while the child lives -----------------------------------------------------------------------------------------

    def _watch(self) -> tuple[int, Any]:
        """Wait for the child's end; return its wait status and what it used."""
        with _pidfd(self.pid) as fd:
            while True:
                pid, status, usage = os.wait4(self.pid, os.WNOHANG)
                if pid:
                    return status, usage
                if self._worker._stop_requested and self._stop_sent != self._running():
                    self._send_stop()
                self._tend()
                self._end_overdue()
                self._end_useless(monotonic())
                self._rest(LOOK if fd else POLL, fd, *self._rq_roles.user_code.fds)

    def _rest(self, most: float, *fds: int) -> None:
        """Wait until a descriptor is readable, ``stir`` is called, or ``most`` seconds are over."""
        if self._woken.fileno() in readable([self._woken.fileno(), *filter(None, fds)], most):
            self._woken.recv(4096)

    def stir(self) -> None:
        """Tell the child at once that the worker is to stop, so that it takes no other job, and wake the main thread.
        Safe in signal handlers."""
        self._send_stop()
        try:
            self._waker.send(b"!")
        except OSError:  # its buffer is full, so that the thread wakes anyway; or it is closed
            pass

    def _running(self) -> set[int]:
        return {job.claim for job in self._page.running()}

    def _send_stop(self) -> None:
        if self.pid:
            self._flags.set_stop()
            self._stop_sent = self._running()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def stop_job(self, claim: int) -> bool:
        """Kill the child if it runs the job of this claim, as RQ's parent does. Return whether it did."""
        self._death.expect_stop(claim)
        return self._kill_for(claim)

    def _end_overdue(self) -> None:
        """Kill the child if its job is past its time limit by OVERDUE: C code that holds the GIL is not interrupted."""
        for job in self._page.running():
            if job.limit and monotonic() > job.since + job.limit + OVERDUE:
                self._kill_for(job.claim)

    def _end_useless(self, now: float) -> None:
        """Kill a child that runs no job and does not react, unless it begins a job just now."""
        why = self._idle_watch.step(self.pid, now)
        if not why:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP)
            if self._page.running():
                os.kill(self.pid, signal.SIGCONT)
                return
            log.warning("the work horse (pid %d) is replaced: it %s", self.pid, why)
            os.kill(self.pid, signal.SIGKILL)

    def _kill_for(self, claim: int) -> bool:
        """Kill the child and its group if it runs the job of this claim. SIGSTOP it first, then read the page: else the
        kill could hit the next job."""
        if not self.pid:
            return False
        try:
            os.kill(self.pid, signal.SIGSTOP)
            if any(job.claim == claim for job in self._page.running()):
                kill_group(self.pid)
                return True
            os.kill(self.pid, signal.SIGCONT)
        except ProcessLookupError:
            pass
        return False

    # -- when it has ended ---------------------------------------------------------------------------------------------

    def _end_child(self) -> None:
        usage = None
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            kill_group(self.pid)
            _, _, usage = os.wait4(self.pid, 0)
        self._clean_up(signal.SIGKILL, usage)

    def _clean_up(self, status: int, usage: Any) -> bool:
        """Return whether the child ended while a job ran."""
        pid, self.pid = self.pid, 0
        return self._death.clean_up(pid, self.owner, self._forks, status, usage)

    def _retry_request(self, request: Callable[[], T]) -> T:
        """Repeat a request until the store answers. Once a stop is requested, give up: rescuers of other workers do
        what is left."""
        backoff = Backoff()
        while True:
            try:
                return request()
            except RedisError as e:
                if self._worker._stop_requested:
                    raise StopRequested from e
                self._rest(backoff.failed())

    def close(self) -> None:
        self._woken.close()
        self._waker.close()


def kill_group(pid: int) -> None:
    """Send SIGKILL to the child and its process group. A child that was just forked has no group of its own yet, and is
    killed alone: its parent's group is not hit."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    """Open a descriptor that becomes readable when the process ends; 0 where the kernel has none."""
    if not hasattr(os, "pidfd_open"):
        yield 0
        return
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)
