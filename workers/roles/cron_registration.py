"""Show the schedules of this store to RQ's readers (``CronScheduler.all``), as those of one scheduler called "jobq".

Any supervisor writes this registration when the last one is old. Its content comes from the store, so it does not
matter which one does.
"""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

import redis
from rq.defaults import DEFAULT_CRON_SCHEDULER_TTL
from rq.utils import NOT_JSON_SERIALIZABLE

from jobqueue.protocol import keys
from jobqueue.schedules.schedules import Schedules, ScheduleView
from jobqueue.workers.shared.timestamps import rq_time

NAME = "jobq"
OLD = 10.0  # seconds after which a registration is written anew


class CronRegistration:
    """The role that writes the registration; runs in the roles thread of a worker, or of ``jobq cron``."""

    every = OLD / 2

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._schedules = Schedules(client)

    def step(self, _now: float) -> bool:
        """Write the registration if it is old, or delete it; return whether there was anything to do."""
        now = time.time()
        written: Any = self._client.zscore(keys.CRON_SCHEDULERS, NAME)
        if written is not None and 0 <= now - written < OLD:
            return False
        served = [view for view in self._schedules.recurring() if view.next]
        if not served:
            return written is not None and self._withdraw()
        with self._client.pipeline() as pipe:
            pipe.zadd(keys.CRON_SCHEDULERS, {NAME: now})
            pipe.hset(keys.cron_scheduler(NAME), mapping=self._registration(now, served))
            pipe.expire(keys.cron_scheduler(NAME), DEFAULT_CRON_SCHEDULER_TTL)
            pipe.execute()
        return True

    def _withdraw(self) -> bool:
        """Delete the registration, as there are no schedules. If another supervisor writes one at this moment, for a
        new schedule, the next step finds it missing and writes it again."""
        with self._client.pipeline() as pipe:
            pipe.zrem(keys.CRON_SCHEDULERS, NAME)
            pipe.delete(keys.cron_scheduler(NAME))
            return any(pipe.execute())

    def reconnected(self) -> None:
        """Do nothing: this role keeps no state."""

    def _registration(self, now: float, served: list[ScheduleView]) -> Any:
        """Return the fields of the registration, as RQ's CronScheduler writes them."""
        return {
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "name": NAME,
            "created_at": rq_time(now),
            "config_file": next((view.source for view in served if view.source), ""),
            "cron_jobs": json.dumps([as_rq(view) for view in served]),
        }


def as_rq(view: ScheduleView) -> dict[str, Any]:
    """Return a schedule as RQ's CronJob.to_dict does."""

    def text(value: Any) -> str | None:
        return None if not value else NOT_JSON_SERIALIZABLE if view.args is None else json.dumps(value)

    return {
        "func_name": view.function or view.description.partition("(")[0],
        "name": view.name,
        "queue_name": view.queue,
        "args": text(view.args),
        "kwargs": text(view.kwargs),
        "interval": view.every,
        "cron": view.cron,
        "latest_enqueue_time": rq_time(view.last.timestamp()) if view.last else None,
        "next_enqueue_time": rq_time(view.next.timestamp()) if view.next else None,
    }
