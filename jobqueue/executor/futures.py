"""The future of a job: the standard library's Future, with the job's states.

PENDING ──(cancel: the store takes the job out of its queue)──► CANCELLED ─► CANCELLED_AND_NOTIFIED
   │ └────(running(): the store says that it has started)─────► RUNNING
   └─────────────────── outcome ──────────────────────────────► FINISHED ◄── outcome ── RUNNING
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence
from concurrent.futures._base import CANCELLED, PENDING
from typing import Any, Protocol

from jobqueue.errors import JobCanceled
from jobqueue.executor.remote_error import remote_error
from jobqueue.model import Outcome


class Home(Protocol):
    """What a future asks about its job; Dispatcher has it."""

    def cancel(self, futures: Sequence[JobFuture]) -> None: ...
    def has_started(self, future: JobFuture) -> bool: ...


class JobFuture(concurrent.futures.Future[Any]):
    """The outcome of one job. job_id: its id, for `jobq status` and others."""

    def __init__(self, job_id: str, queue: str, home: Home) -> None:
        super().__init__()
        self.job_id = job_id
        self.queue = queue
        self._home = home

    def cancel(self) -> bool:
        """Cancel the job if it still waits in its queue, so that it will not run. Returns False when a worker has it,
        it has ended, or the store does not answer."""
        if self.may_be_canceled:
            self._home.cancel([self])
        return self.cancelled()

    @property
    def may_be_canceled(self) -> bool:
        """Return whether it is neither done nor known to have run: a job that has started is not canceled, even if it
        was given back."""
        return self._state == PENDING

    def running(self) -> bool:
        """Return whether the job has started. Asks the store, which knows of a start 50 to 100 ms after it, until the
        answer is yes; a job that is given back or run again stays running here."""
        if not self.done() and not super().running() and self._home.has_started(self):
            with self._condition:
                if self._state == PENDING:
                    self.set_running_or_notify_cancel()
        return super().running()

    def set_canceled(self) -> bool:
        """(by the executor) Mark it canceled, as the store has done: notify callbacks and waiters, once, from any
        thread."""
        canceled = super().cancel()
        with self._condition:
            if self._state == CANCELLED:
                self.set_running_or_notify_cancel()
        return canceled

    def settle(self, outcome: Outcome) -> None:
        """(by the collector) Set the job's outcome, unless the future is done already."""
        if isinstance(outcome.error, JobCanceled) and self.set_canceled():
            return
        try:
            if outcome.error is None:
                self.set_result(outcome.value)
            else:
                self.set_exception(remote_error(outcome.error))
        except concurrent.futures.InvalidStateError:  # it was canceled meanwhile, or set by the caller
            pass

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]} job={self.job_id}>"
