"""Keep a worker of RQ's classes registered: RQ's own registration, and jobq's lease.

RQ's code registers the worker (birth, death, heartbeat). jobq's rescuers watch the lease. Two fields of the
registration tell them how to treat this worker: after how many seconds without a renewal it counts as dead, and that
the job that it was running fails.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import redis
from rq.worker import BaseWorker

from jobqueue.clock import monotonic
from jobqueue.protocol import keys
from jobqueue.protocol.arguments import text_of
from jobqueue.workers.roles.heartbeat import Heartbeat
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.shared.timestamps import rq_time

log = logging.getLogger("rq.worker")

LOOK_EVERY = 0.2  # seconds between two looks at the lease of another worker with our name


def is_dead(client: redis.Redis, worker: str) -> bool:
    """Return whether the worker that is registered under this name is one of ours and is gone: watch its lease for as
    long as it may stand still. RQ alone would refuse the name until the registration expires, 480 s after the last
    heartbeat. Raises redis-py's errors."""
    lease, died = client.hmget(keys.worker(worker), "jobq_lease", "death")
    if not lease or died:
        return False
    before, timeout = client.get(keys.lease(worker)), _seconds(lease) + 1.0
    log.info("Worker %s: the name is taken; waiting for up to %.0f s to see whether its owner lives", worker, timeout)
    deadline = monotonic() + timeout
    while monotonic() < deadline:
        time.sleep(LOOK_EVERY)
        if client.get(keys.lease(worker)) != before:
            return False
    return True


def _seconds(lease: bytes | str) -> float:
    """Return the lease's seconds from the store, within bounds, as any program may have written the field."""
    try:
        return min(max(float(lease), 1.0), 60.0)
    except ValueError:
        return 60.0


class RQHeartbeat(Heartbeat):
    """The role that renews the lease and RQ's heartbeat of ``worker``, also while a long job runs."""

    def __init__(self, settings: Settings, client: redis.Redis, worker: BaseWorker, execution_ttl: int) -> None:
        super().__init__(settings, client, is_busy=lambda: False)
        self._worker = worker
        self._execution_ttl = execution_ttl

    def birth(self) -> None:
        """Add to RQ's registration what jobq's rescuers need to know."""
        self._beat(self._of_ours, self._ttl)
        self._born = True

    @property
    def _of_ours(self) -> dict[str, Any]:
        return {"jobq_lease": self._settings.lease, "jobq_on_crash": self._settings.on_crash}

    def _renew(self, now: float) -> None:
        if self._beat({"last_heartbeat": rq_time(time.time())}, self._ttl) is None:  # flushed, or away for too long
            again = {name: value for name, value in self._worker.serialize().items() if value is not None}
            self._beat(again | self._of_ours, self._ttl)
        self._renew_executions(now, self._execution_ttl)

    @property
    def _ttl(self) -> int:
        return int(self._worker.worker_ttl) + 60

    def owners_of_the_dead(self) -> list[str]:
        """Return the owner names of an earlier worker of our name. It is dead, as RQ let us take the name."""
        owners = map(text_of, self._client.smembers(keys.OWNERS))
        return [owner for owner in owners if owner.rpartition(":")[0] == self._settings.worker]

    def death(self) -> None:
        """Delete the lease; RQ's code removes the worker from its lists."""
        with self._stepping:
            self._born = False
        self._client.delete(keys.lease(self._settings.worker))
