"""Set up a job's environment: its RQ job (``rq.get_current_job()``), RQ_JOB_ID, its event loop, new threads' hooks."""

from __future__ import annotations

from collections.abc import Callable

from rq import job as rq_job

from jobqueue.workers.running.current import CurrentJob
from jobqueue.workers.running.event_loop import EventLoopOfThread
from jobqueue.workers.running.thread_hooks import ThreadHooks


class JobEnvironment:
    """Sets up and removes the environment of one slot's jobs. Used in the slot's thread only."""

    def __init__(
        self, make_current: Callable[[str], CurrentJob], set_variables: Callable[[str], object] | None, alone: bool
    ) -> None:
        """set_variables: put the job's id into the environment; None: the environment is not this slot's alone. alone:
        no other slot runs jobs in this process."""
        self._make_current = make_current
        self._set_variables = set_variables
        self._alone = alone
        self._event_loop: EventLoopOfThread | None = None
        self._thread_hooks: ThreadHooks | None = None
        self.current: CurrentJob | None = None  # None: no job runs, or its RQ job was dropped

    def bind(self) -> None:
        """Note the thread's event loop and the hooks of new threads, as they are before the first job."""
        self._event_loop = EventLoopOfThread()
        self._thread_hooks = ThreadHooks() if self._alone else None

    def enter(self, job_id: str) -> None:
        """Set up the environment of this job."""
        if self._event_loop is not None:
            self._event_loop.put_back()
        if self._set_variables is not None:
            self._set_variables(job_id)
        self.current = self._make_current(job_id)
        rq_job._current_job.set(self.current)

    def leave(self) -> None:
        """Drop the job's own RQ job and the objects that it has put there: that may run code of the user's."""
        self.current = None
        rq_job._current_job.set(None)
        if self._thread_hooks is not None:
            self._thread_hooks.put_back()
