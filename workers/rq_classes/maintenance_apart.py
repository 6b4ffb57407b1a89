"""Do RQ's maintenance in helper processes of RQ's Worker: failure callbacks and exception handlers run in it.

due ──► a helper ──► ended well: done until the next interval
                 └─► died, or took too long: another, which runs none of the user's code
"""

from __future__ import annotations

import os
from collections.abc import Callable

from rq.utils import now as utc_now
from rq.worker import BaseWorker

from jobqueue.workers.rq_classes.helper_process import STORE_AWAY, HelperProcess
from jobqueue.workers.rq_finish.maintenance import PlainJob
from jobqueue.workers.shared.finish_page import FinishPage

LONGEST = 600.0  # seconds that one round may take: RQ's interval
AGAIN = 5.0  # seconds until the next attempt where the store does not answer, or no process can be started


class MaintenanceApart:
    """The parent's side. Only its main thread uses it."""

    def __init__(
        self, worker: BaseWorker, start: Callable[[HelperProcess, Callable[[FinishPage], None]], bool]
    ) -> None:
        """start: fork the helper, which does the work; False: the system has not."""
        self._worker = worker
        self._start = start
        self.helper: HelperProcess | None = None  # the helper that does the round
        self._dead = ""  # the name of the helper whose round this one does again, without the user's code
        self._ends_by = 0.0  # monotonic seconds
        self._not_before = 0.0  # monotonic seconds

    def step(self, now: float) -> None:
        """Begin a round if it is due. Raises redis-py's errors."""
        worker = self._worker
        if self.helper or now < self._not_before or not worker.should_run_maintenance_tasks:
            return
        scheduler = worker.scheduler  # its process is a child of this one, as in RQ's run_maintenance_tasks
        if worker.last_cleaned_at and scheduler and not (scheduler._process and scheduler._process.is_alive()):
            scheduler.acquire_locks(auto_start=True)
        self._begin(now, dead="")

    def look(self, now: float) -> None:
        """See whether the helper has ended, and do what follows."""
        helper = self.helper
        if helper is None:
            return
        if now > self._ends_by:
            helper.kill()
        status = helper.poll(now)
        if status is None:
            return
        self.helper = None
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == STORE_AWAY:
            self._not_before = now + AGAIN
        elif status == 0 or self._dead:
            self._worker.last_cleaned_at = utc_now()  # type: ignore[assignment]
        else:
            self._worker.log.warning(
                "Worker %s: RQ's maintenance failed; it is done without callbacks and handlers", self._worker.name
            )
            self._begin(now, dead=helper.name)

    def close(self) -> None:
        """Kill the helper, if there is one; no other takes its place. May be repeated."""
        if self.helper:
            self.helper.kill()
            self.helper.wait()
            self.helper = None

    def _begin(self, now: float, dead: str) -> None:
        helper = HelperProcess(self._worker, "RQ's maintenance", silent=LONGEST)
        self._dead, self._ends_by = dead, now + LONGEST
        if self._start(helper, lambda _page: self._clean(helper.name)):
            self.helper = helper
        else:
            self._not_before = now + AGAIN

    def _clean(self, name: str) -> None:
        """(in the helper) Do a round. Its locks have the helper's name, so that the next one can take them from it."""
        worker = self._worker
        for queue in worker.queues:
            vars(queue).update(lock_value=name, lock_of_dead=self._dead)
            if self._dead:
                queue.job_class = PlainJob
        if self._dead:
            worker._exc_handlers.clear()
        worker.clean_registries()
        worker.clean_group_registries()
