"""Run the user's code that is no job in the main thread of RQ's SimpleWorker, between two jobs: it has one process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import redis
from redis.exceptions import RedisError
from rq.exceptions import StopRequested
from rq.utils import now as utc_now
from rq.worker import BaseWorker

from jobqueue.plugins.calls import Plugins
from jobqueue.workers.roles.rescuer import Rescuer
from jobqueue.workers.rq_classes.ending import finish_left
from jobqueue.workers.rq_finish.alarm_slot import AlarmSlot
from jobqueue.workers.rq_finish.limits import FinishLimits
from jobqueue.workers.shared.deaths import LeftForRQ
from jobqueue.workers.shared.settings import Settings


class InPlace:
    """See ``UserCode`` in rq_roles.py. ``finish`` and ``step`` raise redis-py's errors, and may be repeated then."""

    def __init__(
        self,
        worker: BaseWorker,
        settings: Settings,
        client: redis.Redis,
        rescuer: Rescuer,
        on_left: Callable[[], object],
        plugins: Plugins,
    ) -> None:
        """on_left: called in the roles thread when ``step`` has something to do."""
        self._worker = worker
        self._settings = settings
        self._client = client
        self._rescuer = rescuer
        self._on_left = on_left
        self._plugins = plugins
        self._left: deque[LeftForRQ] = deque()
        self.is_finishing = False
        self.fds: list[int] = []

    def finish(self, left: LeftForRQ) -> None:
        """End the jobs by RQ's own code, then do the final rescue."""
        if left.jobs:
            slot = AlarmSlot(exits=False)
            with slot.bound():
                finish_left(left, self._worker, self._settings, self._client, FinishLimits(slot), self._plugins)
        self._rescuer.close(left)

    def finish_soon(self, left: LeftForRQ) -> None:
        """(roles thread) Have the next ``step`` call ``finish``."""
        self._left.append(left)
        self._on_left()

    def step(self, before: Callable[[], object]) -> None:
        """Do what is due. ``before`` is called before something that may take long."""
        if self._left or self._worker.should_run_maintenance_tasks:
            before()
        while self._left:
            self.finish(self._left[0])
            self._left.popleft()
        if self._worker.should_run_maintenance_tasks:
            self._maintain()

    def _maintain(self) -> None:
        """Do RQ's maintenance. What a callback or an exception handler raises in it does not end the worker."""
        try:
            self._worker.run_maintenance_tasks()
        except (RedisError, StopRequested):
            raise
        except BaseException:
            if self._worker._stop_requested:  # RQ's signal handler has raised it
                raise
            self._worker.log.exception("Worker %s: RQ's maintenance failed", self._worker.name)
            self._worker.last_cleaned_at = utc_now()  # type: ignore[assignment]

    def look(self) -> None:
        """Do nothing: there are no helpers to look at, to wait for, or to kill."""

    def wait(self, is_stopping: Callable[[], bool], rest: Callable[[], object]) -> None:
        pass

    def close(self) -> None:
        pass
