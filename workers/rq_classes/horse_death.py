"""Clean up after a horse that has ended: record what it finished, fail the job that it ran, give the others back."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from rq.exceptions import NoSuchJobError, StopRequested
from rq.timeouts import JobTimeoutException
from rq.worker import BaseWorker, WorkerStatus

from jobqueue.errors import StoppedOnRequest
from jobqueue.protocol.rescue import Ruling, Verdict
from jobqueue.workers.rq_classes.killed_job import KilledJob
from jobqueue.workers.rq_classes.rq_roles import RQRoles
from jobqueue.workers.running.context import after_imports
from jobqueue.workers.running.own_classes import on_top
from jobqueue.workers.shared.deaths import DeathReport, ruling
from jobqueue.workers.shared.endings import encode_text
from jobqueue.workers.shared.journal import DONE
from jobqueue.workers.shared.process_tree import Forks, OfProcess, end_processes

HANDLER_LIMIT = 60  # seconds for handle_work_horse_killed: RQ's limit for callbacks


class HorseDeath:
    """What the parent does each time that its horse has ended, in its main thread."""

    def __init__(
        self, worker: BaseWorker, rq_roles: RQRoles, retry_request: Callable[[Callable[[], Any]], Any]
    ) -> None:
        """retry_request: call a function that asks the store until the store answers."""
        self._worker = worker
        self._rq_roles = rq_roles
        self._page = rq_roles.page
        self._retry_request = retry_request
        self._stopped: set[int] = set()  # claims of jobs that are to be stopped on request
        self.completed = 0  # jobs that the horses so far have run, those that they died with included

    def expect_stop(self, claim: int) -> None:
        """Record the job of this claim as stopped, if the horse ends while it runs it."""
        self._stopped.add(claim)

    def clean_up(self, pid: int, owner: str, forks: Forks, status: int, usage: Any) -> bool:
        """Clean up after the horse; ``status`` and ``usage`` are wait4's. Return whether it ended while a job ran."""
        try:
            finished = list(self._page.journal.read())
        except (ValueError, EOFError, TypeError):  # it was killed while it rewrote the journal
            finished = []
        done = {outcome.claim for outcome in finished if not outcome.by_rq}
        ran = [job for job in self._page.running() if job.claim not in done]
        if ran:
            end_processes(OfProcess(pid, owner, forks), min(job.start for job in ran))
        rulings = [self._rule(job.claim, pid, owner, status, usage) for job in ran]
        self._retry_request(lambda: self._rq_roles.rescue(DeathReport(owner, finished, rulings)))
        if ran:
            self._retry_request(lambda: self._worker.set_state(WorkerStatus.IDLE))
        self.completed += self._page.get(DONE) + len(done) + len(ran)
        return bool(ran)

    def _rule(self, claim: int, pid: int, owner: str, status: int, usage: Any) -> Ruling:
        """Return what becomes of the job that ran. Calls RQ's ``handle_work_horse_killed``, which users override."""
        if claim in self._stopped:
            return ruling(claim, Verdict.STOP, StoppedOnRequest())
        worker = self._worker
        how = f" (signal {os.WTERMSIG(status)})" if os.WIFSIGNALED(status) else ""
        text = f"Work-horse terminated unexpectedly; waitpid returned {status}{how}; "
        if job_id := self._retry_request(lambda: self._rq_roles.job_of(owner, claim)):
            worker.log.warning("Worker %s: job %s failed (%s)", worker.name, job_id, text)
            self._tell_handler(job_id, pid, status, usage)
        return Ruling(claim, Verdict.FAIL, encode_text(text))

    def _tell_handler(self, job_id: str, *how: Any) -> None:
        """Call RQ's ``handle_work_horse_killed``, here in the parent as RQ does. It may raise anything: that is logged,
        the job fails all the same, and the worker goes on."""
        worker = self._worker
        job = on_top(KilledJob, worker.job_class)(job_id, worker.connection, worker.serializer)
        try:
            self._retry_request(job.refresh)
            with worker.death_penalty_class(HANDLER_LIMIT, JobTimeoutException, job_id=job_id):
                after_imports.run(worker.handle_work_horse_killed, job, *how)
        except NoSuchJobError:
            pass
        except BaseException as e:
            if isinstance(e, StopRequested) and worker._stop_requested:
                raise
            worker.log.exception("Worker %s: handle_work_horse_killed failed for job %s", worker.name, job_id)
