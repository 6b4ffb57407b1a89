"""What a process in RQ's place does beside running jobs: it lives by a lease, rescues, and does RQ's maintenance.

(thread)       renew the lease and RQ's heartbeat
(thread)       look for trees whose lease stands still
(main thread)  between two jobs, about once a second: RQ's maintenance, and what a rescue left to RQ's own code,
               because both run user code
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

from redis.exceptions import RedisError
from rq.worker import BaseWorker

from jobqueue.protocol import keys
from jobqueue.store.connection import Address, like
from jobqueue.workers.roles.heartbeat import renewal_timeout
from jobqueue.workers.roles.rescuer import Rescuer
from jobqueue.workers.roles.self_fencing import SelfFencing
from jobqueue.workers.roles.timed_role import Outage, RoleThread, TimedRole
from jobqueue.workers.roles.wrong_keys import WrongKeys
from jobqueue.workers.rq_classes.ending import finish_left
from jobqueue.workers.rq_classes.lease import RQHeartbeat
from jobqueue.workers.shared.deaths import DeathReport, LeftForRQ
from jobqueue.workers.shared.journal import SharedPage, make_file
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)

TEND_EVERY = 1.0


class RQRoles:
    """One per work(). ``lease`` in seconds; JOBQ_LEASE overrides it (for tests). ``execution_ttl`` in seconds: for how
    long RQ's readers shall believe that a running job still runs."""

    def __init__(self, worker: BaseWorker, lease: float, execution_ttl: int) -> None:
        self._worker = worker
        self.settings = settings_for(worker, float(os.environ.get("JOBQ_LEASE") or lease))
        self.client = like(worker.connection)
        self.page = one_page()
        self._own = like(worker.connection, renewal_timeout(self.settings.lease))  # for the lease alone
        self._heartbeat = RQHeartbeat(self.settings, self._own, worker, execution_ttl)
        self._left: deque[LeftForRQ] = deque()
        self._rescuer = Rescuer(self.settings, self.client, self._left.append)
        self._self_fencing = SelfFencing(self.settings, self._heartbeat, [self.page])
        # a process that is forked while a thread of ours is at work may inherit a lock that it held
        self._locks = (threading.Lock(), threading.Lock())
        outage = Outage()
        self._heartbeat_thread = RoleThread("jobq-heartbeat", [_Locked(self._heartbeat, self._locks[0])], outage=outage)
        roles = [_Locked(role, self._locks[1]) for role in (self._rescuer, WrongKeys(self.client))]
        self._roles_thread = RoleThread("jobq-roles", roles, outage=outage)
        self._tend_at = 0.0

    def start(self) -> None:
        """Give the lease; end what an earlier worker of this name left."""
        self._heartbeat.birth()
        self._heartbeat_thread.start()
        for owner in self._heartbeat.owners_of_the_dead():
            if left := self._rescuer.rescue_unknown(owner):
                self._end(left)
        self._roles_thread.start()

    @contextlib.contextmanager
    def nobody_at_work(self) -> Iterator[None]:
        """Inside it a fork is safe."""
        with self._locks[0], self._locks[1]:
            yield

    def own(self) -> str:
        """A fresh name under which jobs are claimed from now on."""
        owner = f"{self.settings.worker}:0.{uuid4().hex[:8]}"
        self._heartbeat.add_owner(owner)
        self.page.wipe()
        return owner

    def rescue(self, death_report: DeathReport) -> None:
        """Settle what its journal holds, give back what never ran, judge what did, strike the name off."""
        left = self._rescuer.rescue_own(death_report)
        if left is not None and left.jobs:
            self._end(left)

    def tend(self, before: Callable[[], object] = lambda: None) -> None:
        """Do what is due; what the store does not answer stays due. ``before`` is called before what may take long."""
        now = time.monotonic()
        if now < self._tend_at:
            return
        self._tend_at = now + TEND_EVERY
        self._self_fencing.step(now)
        try:
            if self._left or self._worker.should_run_maintenance_tasks:
                before()
                self._tend()
        except RedisError as e:
            log.debug("not now: %s", e)  # the thread says that the store is away

    def _tend(self) -> None:
        while self._left:
            self._end(self._left[0])
            self._left.popleft()
        if self._worker.should_run_maintenance_tasks:
            self._worker.run_maintenance_tasks()

    def _end(self, left: LeftForRQ) -> None:
        if left.jobs:
            finish_left(left, self._worker, self.settings, self.client)
        self._rescuer.close(left)

    def claim_of(self, owner: str, job_id: str) -> int | None:
        """Under which claim ``owner`` holds the job."""
        return self._rescuer.claim_of(job_id, [owner])

    def job_of(self, owner: str, claim: int) -> str | None:
        """Which job ``owner`` holds under the claim."""
        found: Any = self.client.zrangebyscore(keys.own(owner), claim, claim)
        return found[0].decode() if found else None

    def stop(self) -> None:
        self._heartbeat_thread.stop(5.0)
        self._roles_thread.stop(5.0)
        self._heartbeat.death()
        self.client.close()
        self._own.close()


class _Locked:
    """A role that steps only while nobody forks."""

    def __init__(self, role: TimedRole, lock: threading.Lock) -> None:
        self._role = role
        self._lock = lock
        self.role = type(role).__name__  # what the log calls it
        self.every = role.every

    def step(self, now: float) -> object:
        with self._lock:
            return self._role.step(now)

    def reconnected(self) -> None:
        self._role.reconnected()


def settings_for(worker: BaseWorker, lease: float) -> Settings:
    """RQ's defaults in our words."""
    return Settings(
        address=Address(),
        worker=worker.name,
        queues=tuple(worker.queue_names()),
        children=1,
        slots=1,
        allow_any=True,
        accept=("json", "pickle"),
        on_crash="fail",
        lease=lease,
        accounting=False,  # RQ's keys, and no others
        default_timeout=float(worker.queue_class.DEFAULT_TIMEOUT),
        default_result_ttl=worker.default_result_ttl,
    )


def one_page() -> SharedPage:
    """A page for one child with one slot, shared with who is forked from here on."""
    fd = make_file(1, 1)
    try:
        return SharedPage(fd, 0, 1)
    finally:
        os.close(fd)
