"""Build the threads of the supervisor's process that may wait for Redis, and the roles in them.

jobq-heartbeat           renews the lease, and does nothing else, so that nothing else can make it late
jobq-roles               rescue, maintenance, scheduler, cron, and every request of the main loop's, in order
jobq-queue-waiter        waits for pushes on the queues while children are out of work
jobq-command-listener    hears RQ's commands, and posts them to the main loop
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from jobqueue.network.silence import FIRST_ANSWER
from jobqueue.protocol.claims import Token
from jobqueue.protocol.protocol import Protocol
from jobqueue.schedules.timetable import Schedule
from jobqueue.store.open import Store
from jobqueue.workers.roles.command_listener import CommandListener
from jobqueue.workers.roles.cron_leader import CronLeader
from jobqueue.workers.roles.cron_registration import CronRegistration
from jobqueue.workers.roles.heartbeat import Heartbeat, renewal_timeout
from jobqueue.workers.roles.maintenance import Maintenance
from jobqueue.workers.roles.queue_waiter import QueueWaiter
from jobqueue.workers.roles.rescuer import Rescuer
from jobqueue.workers.roles.scheduler import Scheduler
from jobqueue.workers.roles.self_fencing import SelfFencing
from jobqueue.workers.roles.stand_in import stand_in
from jobqueue.workers.roles.timed_role import Outage, RoleThread, TimedRole
from jobqueue.workers.roles.wrong_keys import WrongKeys
from jobqueue.workers.shared.deaths import LeftForRQ
from jobqueue.workers.shared.failures import Failures
from jobqueue.workers.shared.journal import SharedPage
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.supervisor.child_handle import ChildHandle
from jobqueue.workers.supervisor.main_loop import Event

log = logging.getLogger(__name__)

GIVE_UP = 5.0  # seconds for the last requests, when the store is away


class RoleThreads:
    """The threads. The main loop owns them, and never waits for one before the end."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        cron: Sequence[Schedule],
        handles: Sequence[ChildHandle],
        post: Callable[[Event], None],
        *,
        on_left: Callable[[LeftForRQ], None],
        on_command: Callable[[dict[str, Any]], None],
        on_lapse: Event,
        fork_maintenance: Callable[[bool], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """post: passes an event to the main loop, in which the four callables are called. on_left: jobs of another tree
        that died need RQ's own finish; on_command: a command has arrived; on_lapse: the children have to look at their
        pages; fork_maintenance: start a process for RQ's maintenance, False: that is not possible now."""
        self._settings = settings
        self._clock = clock
        self._post = post
        self._failures = Failures(on_change=lambda: post(lambda: None))  # for the health file
        client, patience = store.client(), renewal_timeout(settings.lease)
        self.client = client
        self._protocol = Protocol(client)
        own = store.client(socket_timeout=patience, connect_timeout=patience)
        self._heartbeat = Heartbeat(settings, own, lambda: any(handle.page.running() for handle in handles), clock)
        self.rescuer = Rescuer(settings, client, lambda left: post(lambda: on_left(left)), clock)
        self.self_fencing = SelfFencing(settings, self._heartbeat, [handle.page for handle in handles], on_lapse)
        self.maintenance = Maintenance(settings.maintenance_interval, settings.burst, post, fork_maintenance, clock)
        self._cron_leader = CronLeader(settings.worker, cron, client, clock) if cron else None
        outage = Outage(clock)
        self._heartbeat_thread = RoleThread(
            "jobq-heartbeat", [self._heartbeat], store.ensure, self._failures, outage, clock
        )
        self._roles_thread = RoleThread("jobq-roles", self._roles(), store.ensure, self._failures, outage, clock)
        self.queue_waiter = QueueWaiter(
            store.client(socket_timeout=FIRST_ANSWER), settings.queues, self._failures, clock
        )
        self._command_listener = CommandListener(
            store.client(), settings.worker, lambda command: post(lambda: on_command(command)), self._failures
        )
        self._has_registered = False

    def _roles(self) -> list[TimedRole]:
        """Return the roles of the roles thread, in the order in which they step."""
        roles: list[TimedRole] = [self.rescuer, self.maintenance, WrongKeys(self.client)]
        if self._settings.scheduler:
            roles.append(Scheduler(self._settings, self.client, self._clock))
        if self._cron_leader:
            roles.append(self._cron_leader)
        if self._settings.scheduler or self._cron_leader:
            roles.append(CronRegistration(self.client))
        return roles

    def listen(self) -> None:
        """Start the threads that wait for pushes and commands."""
        self.queue_waiter.start()
        self._command_listener.start()

    def register(self) -> None:
        """Register the worker in the store and start the roles; from then on it has a lease. Called when the worker can
        run jobs; may be called twice."""
        if not self._has_registered:
            self._has_registered = True
            self.do(self._heartbeat.birth)
            self._roles_thread.start()
            self._heartbeat_thread.start()

    @property
    def has_lease(self) -> bool:
        """Whether the store has ever confirmed the lease."""
        return bool(self._heartbeat.renewed)

    @property
    def renewed(self) -> float:
        """When the store last confirmed the lease (monotonic seconds); 0: it never has."""
        return self._heartbeat.renewed

    @property
    def is_away(self) -> bool:
        """Whether the store does not answer."""
        return self._roles_thread.is_away or self.self_fencing.active

    def why_not(self, now: float) -> str:
        """Return why no job can be claimed, as far as these threads know; "" if one can."""
        if self.self_fencing.active:
            return "the store does not answer"
        return self._failures.why() or self.queue_waiter.why_not(now)

    def do(self, request: Event) -> None:
        """Have the roles thread make a request, repeated until it succeeds."""
        self._roles_thread.do(request)

    def add_owner(self, owner: str, then: Event) -> None:
        """Write the owner name of a new child into the store; when it is there, post ``then``."""

        def add() -> None:
            self._heartbeat.add_owner(owner)
            self._post(then)

        self.do(add)

    def give_back(self, tokens: Sequence[Token]) -> None:
        """Give back jobs that have not started: all in one script, so that their order stays."""
        self.do(lambda: self._protocol.give_back(self._settings.worker, tokens))

    def stand_in(self, owner: str, page: SharedPage, pulse: int) -> None:
        """Stand in for a child that holds still at this pulse. Runs in the roles thread."""
        stand_in(self._protocol, self._settings, owner, page, pulse)

    def close(self, is_busy: bool) -> bool:
        """Remove the worker from every list, as the last request. Return whether everything could be recorded. is_busy:
        it is known already that something could not."""
        self.queue_waiter.stop()
        if not self._has_registered:
            return True
        if self._cron_leader:
            self.do(self._cron_leader.resign)
        self._heartbeat_thread.stop(0.0)
        self.do(self._heartbeat.death)
        if is_busy or not self._roles_thread.stop(GIVE_UP):
            log.error("%s: the next worker rescues what this one held, after its lease", self._what_is_wrong())
            return False
        return True

    def _what_is_wrong(self) -> str:
        if self.is_away:
            return "the store does not answer"
        return f"what was left of the last jobs could not be recorded within {GIVE_UP:g} s, although the store answers"
