"""Do what a worker of RQ's classes does besides running jobs: renew a lease, rescue, and do RQ's maintenance.

(heartbeat thread)  renews the lease and RQ's heartbeat
(roles thread)      finds trees whose lease stands still, and rescues their jobs
(main thread)       about once a second: RQ's maintenance, and the jobs that a rescue left for RQ's own code. Both run
                    user code: in helper processes of Worker (apart.py), between two jobs of SimpleWorker (in_place.py)
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol
from uuid import uuid4

from redis.exceptions import RedisError
from rq.exceptions import StopRequested
from rq.worker import BaseWorker

from jobqueue.clock import monotonic
from jobqueue.plugins.calls import Plugins
from jobqueue.plugins.finding import find_plugins
from jobqueue.protocol import keys
from jobqueue.protocol.bounds import size_of
from jobqueue.store.connection import Address, like
from jobqueue.workers.roles.heartbeat import renewal_timeout
from jobqueue.workers.roles.rescuer import Rescuer
from jobqueue.workers.roles.self_fencing import SelfFencing
from jobqueue.workers.roles.timed_role import Outage, RoleThread, TimedRole
from jobqueue.workers.roles.wrong_keys import WrongKeys
from jobqueue.workers.rq_classes.apart import Apart
from jobqueue.workers.rq_classes.in_place import InPlace
from jobqueue.workers.rq_classes.lease import RQHeartbeat
from jobqueue.workers.running.plugin_calls import plugins_of
from jobqueue.workers.shared.deaths import DeathReport, LeftForRQ
from jobqueue.workers.shared.journal import SharedPage, make_file
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)

TEND_EVERY = 1.0
RAISED_BY_SIGNALS = (StopRequested, SystemExit, KeyboardInterrupt)  # RQ's signal handlers raise these, in any line


class UserCode(Protocol):
    """Runs the user's code that is no job: in RQ's finish of the jobs of dead owners, and in RQ's maintenance. Only the
    main thread calls it, but for ``finish_soon``."""

    @property
    def is_finishing(self) -> bool: ...

    @property
    def fds(self) -> list[int]: ...

    def finish(self, left: LeftForRQ) -> None: ...

    def finish_soon(self, left: LeftForRQ) -> None: ...

    def look(self) -> None: ...

    def step(self, before: Callable[[], object]) -> None: ...

    def wait(self, is_stopping: Callable[[], bool], rest: Callable[[], object]) -> None: ...

    def close(self) -> None: ...


class RQRoles:
    """The roles of one call of ``work()``. ``lease``: in seconds; JOBQ_LEASE overrides it (for tests).
    ``execution_ttl``: seconds for which RQ's readers take a job for running after each heartbeat. ``apart``: run user
    code in helper processes."""

    def __init__(self, worker: BaseWorker, lease: float, execution_ttl: int, apart: bool) -> None:
        self._worker = worker
        self.settings = settings_for(worker, float(os.environ.get("JOBQ_LEASE") or lease))
        self.client = like(worker.connection)
        self.page = one_page()
        self.plugins = load_plugins(self.settings)
        self._own = like(worker.connection, renewal_timeout(self.settings.lease))  # only for the lease
        self._heartbeat = RQHeartbeat(self.settings, self._own, worker, execution_ttl)
        self._rescuer = Rescuer(self.settings, self.client, lambda left: self.user_code.finish_soon(left))
        self._rescuer.leaves_failures = self.plugins.has("job_ended")
        self._self_fencing = SelfFencing(self.settings, self._heartbeat, [self.page])
        # held while a role steps, and for a fork: a child forked meanwhile would inherit the locks that the role holds
        self._locks = (threading.Lock(), threading.Lock())
        outage = Outage()
        self._heartbeat_thread = RoleThread("jobq-heartbeat", [_Locked(self._heartbeat, self._locks[0])], outage=outage)
        roles = [_Locked(role, self._locks[1]) for role in (self._rescuer, WrongKeys(self.client))]
        self._roles_thread = RoleThread("jobq-roles", roles, outage=outage)
        self._tend_at = 0.0
        self.user_code: UserCode
        if apart:
            self.user_code = Apart(
                worker,
                self.settings,
                self._rescuer,
                self._ask_store,
                self.roles_paused,
                lambda: self._roles_thread.is_away,
                self.plugins,
            )
        else:
            self.user_code = InPlace(worker, self.settings, self.client, self._rescuer, self._hurry, self.plugins)

    def start(self) -> None:
        """Begin the lease and the threads; rescue the jobs of an earlier worker of this name."""
        self._heartbeat.birth()
        self._heartbeat_thread.start()
        for owner in self._heartbeat.owners_of_the_dead():
            if left := self._rescuer.rescue_unknown(owner):
                self.user_code.finish(left)
        self._roles_thread.start()

    @contextlib.contextmanager
    def roles_paused(self) -> Iterator[None]:
        """Keep the roles from stepping, so that a fork inside is safe."""
        with self._locks[0], self._locks[1]:
            yield

    def _hurry(self) -> None:
        """(roles thread) Note that there is something to do between two jobs, and wake an idle worker, which may sleep
        for long."""
        self._tend_at = 0.0
        if (engine := getattr(self._worker, "engine", None)) is not None:
            engine.stir()

    def _ask_store(self, request: Callable[[], object]) -> None:
        def ask() -> None:
            with self._locks[1]:
                request()

        self._roles_thread.do(ask)

    def own(self) -> str:
        """Register and return a new owner name, under which jobs are claimed from now on."""
        owner = f"{self.settings.worker}:0.{uuid4().hex[:8]}"
        self._heartbeat.add_owner(owner)
        self.page.wipe()
        return owner

    def rescue(self, death_report: DeathReport) -> None:
        """Settle what the journal holds, give back the jobs that never started, apply the rulings to those that did,
        and strike the owner name off. May be repeated."""
        left = self._rescuer.rescue_own(death_report)
        if left is not None and left.jobs:
            self.user_code.finish(left)

    def tend(self, before: Callable[[], object] = lambda: None) -> None:
        """Do what is due, in the main thread. What fails because the store does not answer stays due. ``before`` is
        called before something that may take long."""
        now = monotonic()
        if now < self._tend_at:
            return
        self._tend_at = now + TEND_EVERY
        self._self_fencing.step(now)
        try:
            self.user_code.step(before)
        except RedisError as e:
            log.debug("not now: %s", e)  # the roles thread logs that the store does not answer

    def claim_of(self, owner: str, job_id: str) -> int | None:
        """Return the number of the claim under which ``owner`` holds the job; None: it does not."""
        return self._rescuer.claim_of(job_id, [owner])

    def job_of(self, owner: str, claim: int) -> str | None:
        """Return the id of the job that ``owner`` holds under the claim; None: there is none."""
        found: Any = self.client.zrangebyscore(keys.own(owner), claim, claim)
        return found[0].decode() if found else None

    def stop(self) -> None:
        self.user_code.close()
        self._heartbeat_thread.stop(5.0)
        self._roles_thread.stop(5.0)
        self._heartbeat.death()
        self.client.close()
        self._own.close()


class _Locked:
    """A role that does not step during a fork."""

    def __init__(self, role: TimedRole, lock: threading.Lock) -> None:
        self._role = role
        self._lock = lock
        self.role = type(role).__name__  # its name in the log
        self.every = role.every

    def step(self, now: float) -> object:
        with self._lock:
            return self._role.step(now)

    def reconnected(self) -> None:
        self._role.reconnected()


def settings_for(worker: BaseWorker, lease: float) -> Settings:
    """Return our settings with RQ's defaults."""
    return Settings(
        address=Address(),
        worker=worker.name,
        queues=tuple(worker.queue_names()),
        children=1,
        slots=1,
        allow_any=True,
        accept=("json", "pickle"),
        on_crash="fail",
        plugins=tuple(getattr(worker, "plugins", ())),
        capture=size_of(os.environ.get("JOBQ_CAPTURE") or "0"),
        lease=lease,
        accounting=False,  # RQ's keys, and no others
        default_timeout=float(worker.queue_class.DEFAULT_TIMEOUT),
        default_result_ttl=worker.default_result_ttl,
    )


def load_plugins(settings: Settings) -> Plugins:
    """Load the plugins of RQ's worker: those of its attribute ``plugins``, of JOBQ_PLUGINS, of packages and of jobq.
    Raises what ``find_plugins`` raises."""
    plugins = plugins_of(find_plugins(settings.wanted_plugins, settings.worker_info))
    plugins.with_traceback = True  # as RQ's worker logs what fails
    plugins.passing += RAISED_BY_SIGNALS
    return plugins


def one_page() -> SharedPage:
    """Make a page for one child with one slot, which a process that is forked later shares."""
    fd = make_file(1, 1)
    try:
        return SharedPage(fd, 0, 1)
    finally:
        os.close(fd)
