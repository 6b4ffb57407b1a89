"""Run the user's code that is no job in helper processes of RQ's Worker, so that none of it runs in the parent.

A helper finishes the jobs of a dead owner. When it dies, or is killed because it holds still, another goes on, without
the user's code for the job that it was at; in the end the final rescue records what is left (reaper.py decides this).
RQ's maintenance is in maintenance_apart.py. The parent goes on meanwhile: the next horse runs jobs, signals are heard.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable

from rq.worker import BaseWorker

from jobqueue.clock import monotonic
from jobqueue.plugins.calls import Plugins
from jobqueue.store.connection import like
from jobqueue.workers.roles.rescuer import Rescuer
from jobqueue.workers.rq_classes.ending import finish_left
from jobqueue.workers.rq_classes.helper_process import HelperProcess
from jobqueue.workers.rq_classes.maintenance_apart import MaintenanceApart
from jobqueue.workers.rq_finish.alarm_slot import AlarmSlot
from jobqueue.workers.rq_finish.limits import FinishLimits
from jobqueue.workers.shared.deaths import LeftForRQ
from jobqueue.workers.shared.finish_page import FinishPage
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.supervisor.reaper import Reaper

STOP_WAIT = 10.0  # seconds that helpers have to end when the worker is to stop
LAST_WAIT = 3.0  # seconds after that, to record without the user's code what they have not


class Apart:
    """See ``UserCode`` in rq_roles.py. The parent's main thread calls all but ``finish_soon``."""

    def __init__(
        self,
        worker: BaseWorker,
        settings: Settings,
        rescuer: Rescuer,
        ask_store: Callable[[Callable[[], object]], None],
        roles_paused: Callable[[], contextlib.AbstractContextManager[None]],
        is_away: Callable[[], bool],
        plugins: Plugins,
    ) -> None:
        """ask_store: let the roles thread make a request, as often as it takes until it succeeds; is_away: the store
        does not answer."""
        self._worker = worker
        self._settings = settings
        self._roles_paused = roles_paused
        self._plugins = plugins
        self._events: deque[Callable[[], None]] = deque()  # requests of other threads for the main thread
        self._helpers: dict[int, HelperProcess] = {}  # helpers that finish jobs, by pid
        self._with_user_code: set[int] = set()  # pids of those that run the user's code
        self._pages: dict[str, FinishPage] = {}  # attempts to finish jobs, by owner
        self._is_away = is_away
        self._reaper = Reaper(rescuer, ask_store, self._events.append, self)
        self._maintenance = MaintenanceApart(worker, self._start)

    @property
    def is_finishing(self) -> bool:
        """Whether jobs of a dead owner are still to be recorded."""
        return bool(self._events or self._reaper.busy)

    @property
    def fds(self) -> list[int]:
        """Descriptors that become readable when a helper ends."""
        helpers = [*self._helpers.values(), *filter(None, [self._maintenance.helper])]
        return [helper.fd for helper in helpers if helper.fd >= 0]

    def finish(self, left: LeftForRQ) -> None:
        """Start a helper for these jobs; return at once."""
        self._reaper.finish_by_rq(left)

    def finish_soon(self, left: LeftForRQ) -> None:
        """(roles thread) Have the main thread call ``finish``."""
        self._events.append(lambda: self._reaper.finish_by_rq(left))

    def look(self) -> None:
        """See which helpers have ended, and do what follows. This makes no request to the store."""
        while self._events:
            self._events.popleft()()
        now = monotonic()
        for pid, helper in list(self._helpers.items()):
            if (status := helper.poll(now, self._is_away())) is not None:
                self._forget(pid)
                self._reaper.died(pid, status)
        self._maintenance.look(now)

    def step(self, _before: Callable[[], object]) -> None:
        """Begin RQ's maintenance if it is due."""
        self._maintenance.step(monotonic())

    def wait(self, is_stopping: Callable[[], bool], rest: Callable[[], object]) -> None:
        """Wait until all helpers have ended and all is recorded; not for long if the worker is to stop."""
        deadline = 0.0  # monotonic seconds; 0.0: the worker is not to stop
        while self.is_finishing or self._maintenance.helper:
            now = monotonic()
            if is_stopping():
                deadline = deadline or now + STOP_WAIT
            if deadline and now > deadline + LAST_WAIT:
                break
            if deadline and now > deadline:
                self._maintenance.close()
                for pid in self._with_user_code:
                    self._helpers[pid].kill()
            self.look()
            rest()
        self.close()

    def close(self) -> None:
        """Kill all helpers; their jobs are left to the final rescue, which the roles thread does. May be repeated."""
        self._maintenance.close()
        for pid, helper in list(self._helpers.items()):
            helper.kill()
            helper.wait()
            self._forget(pid)
        self._reaper.all_died()

    def _forget(self, pid: int) -> None:
        del self._helpers[pid]
        self._with_user_code.discard(pid)

    # -- what the reaper asks for --------------------------------------------------------------------------------------

    def fork(self, left: LeftForRQ) -> bool:
        """Start a helper that finishes these jobs; return whether the system has started it."""
        helper = HelperProcess(self._worker, "finishing jobs")
        if not self._start(helper, lambda page: self._finish(left, page)):
            return False
        self._helpers[helper.pid], self._pages[left.owner] = helper, helper.page
        if not left.plain.issuperset(job.claim for job in left.jobs):
            self._with_user_code.add(helper.pid)
        return self._reaper.forked(left.owner, helper.pid)

    def forked(self, owner: str, pid: int) -> None:
        """Do nothing: the helper is known since ``fork``."""

    def ended(self, owner: str) -> int:
        """Return the claim of the job that the helper was at which has finished jobs of this owner; 0: none."""
        page = self._pages.pop(owner, None)
        return page.claim if page else 0

    # -- its processes -------------------------------------------------------------------------------------------------

    def _start(self, helper: HelperProcess, work: Callable[[FinishPage], None]) -> bool:
        """Return whether the system has started the process."""
        try:
            with self._roles_paused():
                helper.start(work)
        except OSError as e:
            self._worker.log.warning("Worker %s: no process could be started: %s", self._worker.name, e)
            return False
        return True

    def _finish(self, left: LeftForRQ, page: FinishPage) -> None:
        """(in the helper)"""
        slot = AlarmSlot()
        slot.bind()
        client = like(self._worker.connection)
        limits = FinishLimits(slot, page.show)
        finish_left(left, self._worker, self._settings, client, limits, self._plugins, page.begin, own_process=True)
