"""Run the user's code that is no job in a process of its own, which RQ's Worker forks and looks after: a callback that
exits, kills itself or never returns costs this process, and nothing else.

    parent   start ──► poll, poll, ... ──► its wait status          kills it, past a limit that the helper has shown
    helper   take leave of what is inherited ──► the work ──► exit code
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import struct
from collections.abc import Callable
from uuid import uuid4

from redis.exceptions import RedisError
from rq.worker import BaseWorker

from jobqueue.clock import monotonic
from jobqueue.workers.child.child import die_with, lead_a_session, leave, obey_the_parent_only
from jobqueue.workers.running import exit_handlers, output
from jobqueue.workers.running.copies import this_is_the_original
from jobqueue.workers.running.limits import PASSING
from jobqueue.workers.running.randomness import reseed
from jobqueue.workers.shared.deaths import FAILED
from jobqueue.workers.shared.endings import HARD
from jobqueue.workers.shared.logs import protect_logging
from jobqueue.workers.shared.process_tree import MARK, TO_ALL, Forks, OfProcess, end_processes

STORE_AWAY = 8  # the exit code of a helper that the store did not answer
SHARED = struct.Struct("?d")
SLOW = 2.0  # seconds past the end that a helper makes of itself, HARD after a limit, until the parent kills it

Show = Callable[[int, float], None]  # told in the helper what runs, and its limit in seconds; 0: no limited code runs


class HelperProcess:
    """The parent's side of one helper. Only its main thread uses it."""

    def __init__(self, worker: BaseWorker, duty: str) -> None:
        """duty: words for its title and the log."""
        self._worker = worker
        self._duty = duty
        self.name = f"{worker.name}:helper.{uuid4().hex[:8]}"  # in the mark of what the helper starts
        self._forks = Forks()
        # Written by the helper: whether it has done its work, and the deadline of what runs (monotonic seconds; 0.0: no
        # limited code runs).
        self._shared = mmap.mmap(-1, SHARED.size)
        self._born = 0.0  # monotonic seconds
        self.pid = 0
        self.fd = -1  # readable when the helper ends, where the kernel has such a thing

    def start(self, work: Callable[[Show], None]) -> None:
        """Fork; the helper calls ``work`` and exits. Nothing else may hold a lock meanwhile. Raises OSError."""
        output.flush()
        self._born, parent = monotonic(), os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(work, parent)
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):  # too many are open: it is looked at now and then anyway
                self.fd = os.pidfd_open(self.pid)

    def poll(self, now: float) -> int | None:
        """Return the helper's wait status if it has ended, else None; kill it past the limit of what it runs. 0 says
        that it has done its work."""
        _, deadline = SHARED.unpack(self._shared)
        if deadline and now > deadline + HARD + SLOW:
            self.kill()
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return self._end(status) if pid else None

    def kill(self) -> None:
        """Send SIGKILL; ``poll`` or ``wait`` collects it."""
        os.kill(self.pid, signal.SIGKILL)  # it was not collected yet: this is not somebody else's pid

    def wait(self) -> int:
        """Wait for its end; return as ``poll`` does."""
        return self._end(os.waitpid(self.pid, 0)[1])

    def _end(self, status: int) -> int:
        done, _ = SHARED.unpack(self._shared)
        status = status or (0 if done else FAILED << 8)  # the user's code may exit with 0
        if status:  # else what it started may go on
            end_processes(OfProcess(self.pid, self.name, self._forks), self._born)
        if self.fd >= 0:
            os.close(self.fd)
        self._shared.close()
        return status

    # -- in the helper -------------------------------------------------------------------------------------------------

    def _run(self, work: Callable[[Show], None], parent: int) -> None:
        code = FAILED
        try:
            take_leave(self._worker, parent, self.name, self._forks)
            obey_the_parent_only(_nothing)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM, *TO_ALL))
            self._worker.procline(self._duty)
            work(self._show)
            exit_handlers.run()
            SHARED.pack_into(self._shared, 0, True, 0.0)
            code = 0
        except RedisError as e:
            code = STORE_AWAY
            self._worker.log.debug("Worker %s: %s: %s", self._worker.name, self._duty, e)
        except BaseException:
            self._worker.log.exception("Worker %s: %s failed", self._worker.name, self._duty)
        finally:
            leave(code)

    def _show(self, _what: int, limit: float) -> None:
        SHARED.pack_into(self._shared, 0, False, monotonic() + limit if limit > 0 else 0.0)


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


def _nothing(*_: object) -> None:
    pass
