"""End the jobs that a rescue leaves for RQ's own code: failure and stopped callbacks, retries, dependents, webhooks.

RQ's code calls user code, so it runs in the main thread of a short-lived process, which acts for the dead owner under
its tokens. On a page it shows which job it ends, what runs and until when: the supervisor kills it if it holds still.
If this process dies too, another one goes on, without code of the user's for the job that it was at (reaper.py). What
is left in the end the supervisor's second, final rescue fails.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Collection, Sequence

import redis

from jobqueue.logs import running
from jobqueue.plugins.calls import Plugins
from jobqueue.protocol.rescue import ForRQ
from jobqueue.store.connection import client
from jobqueue.workers.child.log_fields import name_jobs_in_logs
from jobqueue.workers.child.task_name import task_name
from jobqueue.workers.rq_finish.alarm_slot import AlarmSlot
from jobqueue.workers.rq_finish.finish import Finisher
from jobqueue.workers.rq_finish.limits import FinishLimits
from jobqueue.workers.rq_finish.reported_deaths import ReportedDeaths
from jobqueue.workers.shared.finish_page import FinishPage
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)


class FinishProcess:
    """Finish the jobs of a dead owner. The fork server starts it as it starts a ``Child``."""

    def __init__(
        self,
        settings: Settings,
        owner: str,
        worker: str,
        jobs: Sequence[ForRQ],
        plain: Collection[int],
        control: socket.socket,
        page: FinishPage,
        plugins: Plugins,
    ) -> None:
        """plain: claims of jobs whose code has blocked a process before: they are recorded without it."""
        name_jobs_in_logs(settings.worker)
        store: redis.Redis = client(settings.address)
        self._slot = AlarmSlot()
        limits = FinishLimits(self._slot, page.show)
        self._finisher = Finisher(settings, owner, store, limits=limits, worker=worker)
        self._jobs, self._plain = jobs, plain
        self._page = page
        self._deaths = ReportedDeaths(plugins, worker, store, limits, task_name) if plugins.has("job_ended") else None
        self._control = control  # kept open: it closes when this process ends, and the supervisor reads its end

    def run(self) -> None:
        self._slot.bind()
        if self._deaths:
            self._deaths.finish(self._jobs, self._finish, own_process=True)
            return
        for job in self._jobs:
            self._finish(job)

    def _finish(self, job: ForRQ) -> str | None:
        running.set(job)  # for the log
        self._page.begin(job.claim)
        return self._finisher.finish_left(job, plain=job.claim in self._plain)
