"""RQ's Worker with a horse that stays warm: one child runs all jobs, and its parent is to it what RQ's worker is.

    parent   signals, commands, maintenance, lease; waits for the child's death and acts on it at once
      └ child   the engine: claims, runs, settles (engine.py)

What the child was doing stands in the shared page, so the parent knows without asking which job a death hit: that one
fails as in RQ ("Work-horse terminated unexpectedly", retries if any are left), what was buffered goes back, what was
finished is settled, and another child takes over.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from redis.exceptions import RedisError
from rq.exceptions import NoSuchJobError, StopRequested
from rq.worker import WorkerStatus

from jobqueue.network.backoff import Backoff
from jobqueue.protocol.rescue import Ruling
from jobqueue.store.connection import like
from jobqueue.workers.child.child import die_with, lead_a_session, leave, obey_the_parent_only
from jobqueue.workers.rq_classes.engine import Engine
from jobqueue.workers.rq_classes.rq_roles import RQRoles
from jobqueue.workers.running import exit_handlers, output
from jobqueue.workers.running.context import after_imports
from jobqueue.workers.running.limits import PASSING
from jobqueue.workers.running.randomness import reseed
from jobqueue.workers.shared.attempts import TRIES
from jobqueue.workers.shared.deaths import FENCED, DeathReport
from jobqueue.workers.shared.endings import STOPPED, encode_text
from jobqueue.workers.shared.journal import DONE, PULSE
from jobqueue.workers.shared.logs import protect_logging
from jobqueue.workers.shared.polling import readable
from jobqueue.workers.shared.process_state import is_stopped
from jobqueue.workers.shared.process_tree import MARK, Forks, OfProcess, end_processes
from jobqueue.workers.supervisor.birth_watch import KILLED
from jobqueue.workers.supervisor.idle_watch import SILENT, STOPPED_FOR, UNWATCHED

if TYPE_CHECKING:
    from jobqueue.workers.rq_classes.worker import Worker

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK = 1.0  # seconds between two looks at a child that lives
POLL = 0.02  # where the kernel has no pidfd
OVERDUE = 60.0  # seconds past its limit after which RQ's parent kills a horse
TOO_SOON = 1.0  # a child that dies younger than this without a job waits so long for its successor


class Horse:
    """The parent's side of the warm child."""

    def __init__(self, worker: Worker, rq_roles: RQRoles) -> None:
        self._worker = worker
        self._rq_roles = rq_roles
        self._page = rq_roles.page
        self.pid = 0
        self.owner = ""
        self.completed = 0
        self._forks = Forks()
        # Shared with the child. 0: it is to stop; else a SIGTERM was sent by a job to its own group. 1: it left by
        # itself; else a job ended its process, be it with an exit code of 0. 2: it is about to, and its pulse is over.
        self._asked = mmap.mmap(-1, 3)
        self._stopped: set[int] = set()  # claims that somebody asked to stop
        self._stopped_since = self._looked_at = 0.0  # monotonic seconds: since when its child is stopped; the last look
        self._pulse, self._heard_at = 0, 0.0  # its child's last sign of life, and when it came (monotonic seconds)
        self._stillbirths = Backoff(first=1.0, most=5.0)  # in a row: children that could not begin
        self._stop_sent: set[int] | None = None  # to stop; what ran then, which may have taken the signal for itself
        self._stirred, self._stirrer = socket.socketpair()
        self._stirrer.setblocking(False)
        self._stirred.setblocking(False)

    @property
    def is_busy(self) -> bool:
        """Its child runs a job."""
        return bool(self.pid and self._page.running())

    def run(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> None:
        """Keep a child running until it says that it is over."""
        while True:
            born = time.monotonic()
            left = None if max_jobs is None else max_jobs - self.completed
            self._fork(burst, left, max_idle_time)
            try:
                status, usage = self._watch()
            except BaseException:  # a cold shutdown, or a bug: the child does not outlive us
                self._end_child()
                raise
            died = self._rescue_child(status, usage)
            if (status == 0 and self._asked[1]) or self._worker._stop_requested or self.completed == max_jobs:
                return
            if not died and time.monotonic() - born < TOO_SOON:
                log.warning("the work horse left with status %s before it had run anything", status)
                self._rest(TOO_SOON)
            self._count_stillbirths()

    def _count_stillbirths(self) -> None:
        if self._page.get(PULSE):  # it came as far as to claim
            self._stillbirths.reset()
        elif self._stillbirths.failed() and self._stillbirths.failures >= TRIES:
            log.error("no work horse comes up (%d attempts): this worker quits", TRIES)
            raise SystemExit(2)

    # -- the child -----------------------------------------------------------------------------------------------------

    def _fork(self, *limits: Any) -> None:
        self.owner, self._stop_sent = self._retry_request(self._rq_roles.own), None
        parent = os.getpid()
        with self._rq_roles.nobody_at_work():
            output.flush()
            self._forks = Forks()
            self._asked[:] = bytes(len(self._asked))
            pid = os.fork()
            if pid == 0:
                self._be_child(parent, *limits)
        self.pid, self._heard_at = pid, time.monotonic()
        self._worker.procline(f"Forked {pid} at {time.time()}")  # type: ignore[no-untyped-call]

    def _be_child(self, parent: int, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> None:
        """Does not return."""
        worker, code = self._worker, 1
        try:
            lead_a_session()
            die_with(parent)
            os.environ[MARK] = self.owner
            self._forks.watch()
            protect_logging(PASSING, worker.log)
            exit_handlers.forget_inherited()
            output.buffer_lines()
            reseed()
            worker._is_horse, worker.horse = True, None
            client = like(worker.connection)
            engine = Engine(worker, self._rq_roles.settings, self.owner, self._page, client, in_horse=True)
            worker.engine = engine
            obey_the_parent_only(lambda *_: _stop(worker) if self._asked[0] else None)
            with contextlib.suppress(StopRequested):
                engine.serve(burst, max_jobs, max_idle_time)
            self._asked[2] = 1
            engine.close()
            if not engine.fenced:
                exit_handlers.run()
            code = FENCED if engine.fenced else 0
            self._asked[1] = 1
        except BaseException:
            worker.log.exception("Worker %s: the work horse failed", worker.name)
        finally:
            leave(code)

    # -- the parent ----------------------------------------------------------------------------------------------------

    def _watch(self) -> tuple[int, Any]:
        """Wait for the child's end; return its wait status and what it used."""
        with _pidfd(self.pid) as fd:
            while True:
                pid, status, usage = os.wait4(self.pid, os.WNOHANG)
                if pid:
                    return status, usage
                if self._worker._stop_requested and self._stop_sent != self._running():
                    self._tell()
                self._rq_roles.tend()
                self._end_overdue()
                self._end_useless(time.monotonic())
                self._rest(LOOK if fd else POLL, fd)

    def _rest(self, most: float, *fds: int) -> None:
        if self._stirred.fileno() in readable([self._stirred.fileno(), *filter(None, fds)], most):
            self._stirred.recv(4096)

    def stir(self) -> None:
        """The worker is to stop: tell the child at once, it takes no other job. For signal handlers."""
        self._tell()
        try:
            self._stirrer.send(b"!")
        except OSError:  # it is full of stirs already, or closed
            pass

    def _running(self) -> set[int]:
        return {job.claim for job in self._page.running()}

    def _tell(self) -> None:
        if self.pid:
            self._asked[0] = 1
            self._stop_sent = self._running()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def stop_job(self, claim: int) -> bool:
        """Kill the child if it runs this very job; RQ's parent does the same."""
        self._stopped.add(claim)
        return self._kill_for(claim)

    def _end_overdue(self) -> None:
        """A job that its time limit did not end (C code holds the GIL) is ended from here, as in RQ."""
        for job in self._page.running():
            if job.limit and time.monotonic() > job.since + job.limit + OVERDUE:
                self._kill_for(job.claim)

    def _end_useless(self, now: float) -> None:
        """A child that runs nothing, and does nothing, would keep its place for ever, and what it has claimed."""
        if now - self._looked_at > UNWATCHED:  # we may have been stopped ourselves
            self._stopped_since, self._heard_at = 0.0, now
        self._looked_at = now
        why = self._why_useless(now)
        if not why:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP)
            if self._page.running():  # it has just begun a job, which is spared
                os.kill(self.pid, signal.SIGCONT)
                return
            log.warning("the work horse (pid %d) is replaced: it %s", self.pid, why)
            os.kill(self.pid, signal.SIGKILL)

    def _why_useless(self, now: float) -> str:
        """ "": it is not, as far as anybody knows."""
        if not self.pid or self.is_busy:
            self._stopped_since, self._heard_at = 0.0, now
            return ""
        if not is_stopped(self.pid):
            self._stopped_since = 0.0
        elif not self._stopped_since:
            self._stopped_since = now
        elif now - self._stopped_since >= STOPPED_FOR:
            return "is stopped"
        if (pulse := self._page.get(PULSE)) != self._pulse or self._asked[2]:
            self._pulse, self._heard_at = pulse, now
        elif now - self._heard_at >= (SILENT if pulse else KILLED):
            return "does not react"
        return ""

    def _kill_for(self, claim: int) -> bool:
        """Stopped first and looked at again: a kill that is meant for one job never hits the next."""
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

    def _end_child(self) -> None:
        usage = None
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            kill_group(self.pid)
            _, _, usage = os.wait4(self.pid, 0)
        self._rescue_child(signal.SIGKILL, usage)

    # -- a death -------------------------------------------------------------------------------------------------------

    def _rescue_child(self, status: int, usage: Any) -> bool:
        """Do for the dead what is to be done. Returns whether it died of a job, or with one."""
        pid, self.pid = self.pid, 0
        try:
            finished = list(self._page.journal.read())
        except (ValueError, EOFError, TypeError):  # killed in the middle of bringing its halves together
            finished = []
        done = {outcome.claim for outcome in finished if not outcome.by_rq}
        ran = [job for job in self._page.running() if job.claim not in done]
        if ran:
            end_processes(OfProcess(pid, self.owner, self._forks), min(job.start for job in ran))
        running = [job.claim for job in ran]
        rulings = [self._rule(claim, pid, status, usage) for claim in running]
        self._retry_request(lambda: self._rq_roles.rescue(DeathReport(self.owner, finished, rulings)))
        if running:
            self._retry_request(lambda: self._worker.set_state(WorkerStatus.IDLE))
        self.completed += self._page.get(DONE) + len(done) + len(running)
        return bool(running)

    def _rule(self, claim: int, pid: int, status: int, usage: Any) -> Ruling:
        if claim in self._stopped:
            return Ruling(claim, "stop", encode_text(STOPPED))
        worker = self._worker
        how = f" (signal {os.WTERMSIG(status)})" if os.WIFSIGNALED(status) else ""
        text = f"Work-horse terminated unexpectedly; waitpid returned {status}{how}; "
        if job_id := self._retry_request(lambda: self._rq_roles.job_of(self.owner, claim)):
            worker.log.warning("Worker %s: job %s failed (%s)", worker.name, job_id, text)
            try:
                job = self._retry_request(lambda: worker.job_class.fetch(job_id, worker.connection, worker.serializer))
                after_imports.run(worker.handle_work_horse_killed, job, pid, status, usage)
            except NoSuchJobError:
                pass
        return Ruling(claim, "fail", encode_text(text))

    def _retry_request(self, request: Callable[[], T]) -> T:
        """Repeat what the store does not answer, until somebody asks to stop: then it is left to a rescue."""
        backoff = Backoff()
        while True:
            try:
                return request()
            except RedisError as e:
                if self._worker._stop_requested:
                    raise StopRequested from e
                self._rest(backoff.failed())

    def close(self) -> None:
        self._stirred.close()
        self._stirrer.close()


def kill_group(pid: int) -> None:
    """SIGKILL for the child and its group. A child that does not lead one yet is alone in nobody's: not ours is hit."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _stop(worker: Worker) -> None:
    worker._stop_requested = True
    if worker.engine is not None:
        worker.engine.stir()


@contextlib.contextmanager
def _pidfd(pid: int) -> Any:
    """A descriptor that is readable when the process is dead; 0 where there is none."""
    if not hasattr(os, "pidfd_open"):
        yield 0
        return
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)
