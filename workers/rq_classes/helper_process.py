"""Run the user's code that is no job in a process of its own, which RQ's Worker forks and looks after: a callback that
exits, kills itself or never returns costs this process, and nothing else.

    parent   start ──► poll, poll, ... ──► its wait status          kills it if it holds still (finish_watch.py)
    helper   take leave of what is inherited ──► the work ──► exit code
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from uuid import uuid4

from redis.exceptions import RedisError
from rq.worker import BaseWorker

from jobqueue.clock import monotonic
from jobqueue.workers.child.child import die_with, lead_a_session, leave, obey_the_parent_only
from jobqueue.workers.running import exit_handlers, output
from jobqueue.workers.running.limits import PASSING
from jobqueue.workers.running.randomness import reseed
from jobqueue.workers.shared.copies import this_is_the_original
from jobqueue.workers.shared.deaths import FAILED
from jobqueue.workers.shared.finish_page import FinishPage, anonymous_page
from jobqueue.workers.shared.finish_watch import SILENT, FinishWatch
from jobqueue.workers.shared.logs import protect_logging
from jobqueue.workers.shared.own_thread import hide_own_threads
from jobqueue.workers.shared.process_tree import MARK, TO_ALL, Forks, OfProcess, end_processes

STORE_AWAY = 8  # the exit code of a helper that the store did not answer


class HelperProcess:
    """The parent's side of one helper. Only its main thread uses it."""

    def __init__(self, worker: BaseWorker, duty: str, silent: float = SILENT) -> None:
        """duty: its name in its title and the log. silent: seconds for which it may show nothing new."""
        self._worker = worker
        self._duty = duty
        self.name = f"{worker.name}:helper.{uuid4().hex[:8]}"  # in the mark of what the helper starts
        self._forks = Forks()
        self.page = anonymous_page()
        self._silent = silent
        self._born = 0.0  # monotonic seconds
        self.pid = 0
        self.fd = -1  # readable when the helper ends, where the kernel has such a thing

    def start(self, work: Callable[[FinishPage], None]) -> None:
        """Fork; the helper calls ``work`` and exits. Nothing else may hold a lock meanwhile. Raises OSError."""
        output.flush()
        self._born, parent = monotonic(), os.getpid()
        self._watch = FinishWatch(self.page, self._born, silent=self._silent)
        self.pid = os.fork()
        if self.pid == 0:
            self._run(work, parent)
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):  # too many are open: it is looked at now and then anyway
                self.fd = os.pidfd_open(self.pid)

    def poll(self, now: float, is_away: bool = False) -> int | None:
        """Return the helper's wait status if it has ended, else None; kill it if it holds still. 0 says that it has
        done its work. ``is_away``: the store does not answer."""
        if why := self._watch.step(self.pid, now, is_away):
            self._worker.log.warning(
                "Worker %s: %s (pid %d) is killed: %s", self._worker.name, self._duty, self.pid, why
            )
            self.kill()
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return self._end(status) if pid else None

    def kill(self) -> None:
        """Send SIGKILL; ``poll`` or ``wait`` collects the helper."""
        os.kill(self.pid, signal.SIGKILL)  # it is not collected yet, so the pid is still its own

    def wait(self) -> int:
        """Wait for the helper's end; return as ``poll`` does."""
        return self._end(os.waitpid(self.pid, 0)[1])

    def _end(self, status: int) -> int:
        status = status or (0 if self.page.is_done else FAILED << 8)  # as the user's code may exit with 0
        if status:  # otherwise the programs that it started may continue
            end_processes(OfProcess(self.pid, self.name, self._forks), self._born)
        if self.fd >= 0:
            os.close(self.fd)
        return status

    # -- in the helper -------------------------------------------------------------------------------------------------

    def _run(self, work: Callable[[FinishPage], None], parent: int) -> None:
        code = FAILED
        try:
            take_leave(self._worker, parent, self.name, self._forks)
            obey_the_parent_only(_nothing)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM, *TO_ALL))
            self._worker.procline(self._duty)
            self.page.beat()
            work(self.page)
            exit_handlers.run()
            self.page.set_done()
            code = 0
        except RedisError as e:
            code = STORE_AWAY
            self._worker.log.debug("Worker %s: %s: %s", self._worker.name, self._duty, e)
        except BaseException:
            self._worker.log.exception("Worker %s: %s failed", self._worker.name, self._duty)
        finally:
            leave(code)


def take_leave(worker: BaseWorker, parent: int, name: str, forks: Forks) -> None:
    """(in a process that was just forked from RQ's worker) Take leave of what was inherited: the session, the exit
    handlers, random numbers, output buffers. ``name`` marks what this process starts."""
    lead_a_session()
    die_with(parent)
    os.environ[MARK] = name
    forks.watch()
    this_is_the_original()
    protect_logging(PASSING, worker.log)
    exit_handlers.forget_inherited()
    output.buffer_lines()
    reseed()
    hide_own_threads()


def _nothing(*_: object) -> None:
    pass
