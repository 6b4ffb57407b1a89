"""The supervisor: keeps the children alive, stops them, and answers for what they held.

    signals ──►┐                          ┌──► fork server ──► children
    births,    ├── main loop (never waits ├──► lease: renews it, and does nothing else
    deaths ───►│   for Redis, runs no     ├──► roles thread: birth, owners, rescue, scheduler (waits for Redis)
    no work ──►┘   user code)             └──► waiter: BLMOVE, wakes children that are out of work

Life: boot the fork server → birth → one owner name and one child per handle → loop → quiet → drained or out of grace →
everything given back → death. The order of stopping: children claim nothing more, what nobody started goes back at
once and in order, running jobs end until the deadline, then they are interrupted, then killed; each child's jobs
are rescued; the waiter, the roles thread and the fork server go last.
"""

from __future__ import annotations

import logging
import os
import queue
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from jobqueue.errors import BootFailed
from jobqueue.network.silence import FIRST_ANSWER
from jobqueue.protocol.claims import Token
from jobqueue.protocol.protocol import Protocol
from jobqueue.schedules.timetable import Schedule
from jobqueue.store.local.server import server_pids
from jobqueue.store.open import Store
from jobqueue.words import count
from jobqueue.workers.roles.command_listener import CommandListener
from jobqueue.workers.roles.cron_leader import CronLeader
from jobqueue.workers.roles.cron_registration import CronRegistration
from jobqueue.workers.roles.heartbeat import Heartbeat, renewal_timeout
from jobqueue.workers.roles.maintenance import Maintenance
from jobqueue.workers.roles.queue_waiter import QueueWaiter
from jobqueue.workers.roles.rescuer import Rescuer
from jobqueue.workers.roles.scheduler import Scheduler
from jobqueue.workers.roles.self_fencing import SelfFencing
from jobqueue.workers.roles.timed_role import Outage, RoleThread, TimedRole
from jobqueue.workers.roles.wrong_keys import WrongKeys
from jobqueue.workers.shared.attempts import Attempts
from jobqueue.workers.shared.deaths import FAILED, LeftForRQ, by_sigkill
from jobqueue.workers.shared.failures import Failures, describe
from jobqueue.workers.shared.journal import DONE, SharedPage, make_file
from jobqueue.workers.shared.messages import Died, Dropped, Forked, ImportBegun, Ping, Ready, Retire, Unborn, Wake
from jobqueue.workers.shared.process_tree import TO_ALL, OfProcess, adopt_orphans, collect_orphans, end_processes
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.supervisor.birth_watch import BirthWatch
from jobqueue.workers.supervisor.burst import Burst
from jobqueue.workers.supervisor.child_handle import ChildHandle, HandleState
from jobqueue.workers.supervisor.command_handler import CommandHandler
from jobqueue.workers.supervisor.forkserver_client import ForkServerClient
from jobqueue.workers.supervisor.forkserver_watch import ForkServerWatch
from jobqueue.workers.supervisor.health import Health
from jobqueue.workers.supervisor.idle_watch import IdleWatch
from jobqueue.workers.supervisor.importing import Importing
from jobqueue.workers.supervisor.other_trees import OtherTrees
from jobqueue.workers.supervisor.reaper import Reaper
from jobqueue.workers.supervisor.shutdown import Phase, Shutdown
from jobqueue.workers.supervisor.signals import Signals, suspend
from jobqueue.workers.supervisor.watchdog import EVERY, Watchdog

log = logging.getLogger(__name__)
T = TypeVar("T")

GIVE_UP = 5.0  # seconds for the last requests, when the store is away
TURN = 0.05  # seconds between two looks when something is awaited that sends no event
IDLE = 1.0  # seconds between two looks when nothing is


class Supervisor:
    """Runs one worker tree. ``run`` returns the exit code."""

    def __init__(self, settings: Settings, store: Store, cron: Sequence[Schedule] = ()) -> None:
        self._settings = settings
        self._signals = Signals()
        self._selector = selectors.DefaultSelector()
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._bell_read, self._bell_write = os.pipe()
        handles = 2 * settings.children  # as many again, so that a successor can start before a retiring child has left
        self._page_file = make_file(handles, settings.slots)
        self._handles = [ChildHandle(n, SharedPage(self._page_file, n, settings.slots)) for n in range(handles)]
        self._fork_server: ForkServerClient | None = None
        self._ready = False  # the fork server can fork
        self._importing = Importing()
        self._started_at = 0.0  # monotonic seconds, of the fork server
        self._fork_server_watch: ForkServerWatch | None = None  # while it is ready
        self._boots = Attempts("The served modules cannot be imported: the process that imports them")
        self._births = Attempts("No process that could run jobs comes up: the last one")
        self._boot_failed: BootFailed | None = None

        self._failures = Failures(on_change=lambda: self._post(lambda: None))  # health says so in the next turn
        client = store.client()
        self._protocol = Protocol(client)
        own = store.client(
            socket_timeout=renewal_timeout(settings.lease), connect_timeout=renewal_timeout(settings.lease)
        )
        self._heartbeat = Heartbeat(settings, own, lambda: any(handle.page.running() for handle in self._handles))
        self._rescuer = Rescuer(settings, client, self._on_left)
        self._self_fencing = SelfFencing(
            settings, self._heartbeat, [handle.page for handle in self._handles], self._wake_all
        )
        self._cron_leader = CronLeader(settings.worker, cron, client) if cron else None
        self._maintenance = Maintenance(
            settings.maintenance_interval, settings.burst, self._post, self._fork_maintenance
        )
        outage = Outage()
        self._heartbeat_thread = RoleThread("jobq-heartbeat", [self._heartbeat], store.ensure, self._failures, outage)
        roles: list[TimedRole] = [self._rescuer, self._maintenance, WrongKeys(client)]
        if settings.scheduler:
            roles.append(Scheduler(settings, client))
        if self._cron_leader:
            roles.append(self._cron_leader)
        if settings.scheduler or self._cron_leader:
            roles.append(CronRegistration(client))
        self._roles_thread = RoleThread(
            "jobq-roles", roles, on_away=store.ensure, failures=self._failures, outage=outage
        )
        self._born = False
        self._queue_waiter = QueueWaiter(store.client(socket_timeout=FIRST_ANSWER), settings.queues, self._failures)
        self._reaper = Reaper(self._roles_thread.do, self._post, self._fork_finish_process)
        self._shutdown = Shutdown(
            self._handles,
            settings.grace,
            self._give_back,
            lambda: self._roles_thread.is_away or self._self_fencing.active,
        )
        command_handler = CommandHandler(self._handles, lambda: self._shutdown.asked("shutdown command"), self._find)
        self._command_listener = CommandListener(
            store.client(),
            settings.worker,
            lambda command: self._post(lambda: command_handler.handle(command)),
            self._failures,
        )
        self._health = Health(settings.health_file)
        self._birth_watch = BirthWatch()
        self._watchdog = Watchdog(settings, self._stand_in, self._retire)
        self._idle_watches = [IdleWatch(handle, self._retire) for handle in self._handles]
        self._burst = Burst(
            self._handles,
            settings.queues,
            client,
            ask=self._roles_thread.do,
            post=self._post,
            full=self._full,
            on_over=lambda: self._shutdown.begin("the queues are empty"),
            others=OtherTrees(client, settings.worker, self._rescuer.lease_of),
        )

        self._done = 0

    # -- life ----------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run until stopped (or, in a burst, until the queues are empty). Raises BootFailed."""
        adopt_orphans()
        with self._signals.caught((*TO_ALL, signal.SIGQUIT, signal.SIGTSTP, signal.SIGCHLD)):
            try:
                self._open()
                while not self._over():
                    self._turn()
                code = self._close()
                if self._boot_failed:
                    raise self._boot_failed
                return code
            finally:
                self._health.remove()
                if self._fork_server:
                    self._fork_server.close(at_once=not self._ready)

    def _open(self) -> None:
        self._selector.register(self._signals.fd, selectors.EVENT_READ, self._on_signals)
        self._selector.register(self._bell_read, selectors.EVENT_READ, self._on_bell)
        self._start_fork_server()
        self._queue_waiter.start()
        self._command_listener.start()

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._poll_timeout()):
            key.data()
        now = time.monotonic()
        self._self_fencing.step(now)
        self._importing.step(now)
        self._health.step(now, self._why_not())
        self._look_after(now)
        if self._shutdown.phase:
            self._shutdown.step(now)
            if self._shutdown.takes_too_long(now) and self._fork_server:  # whatever became of it: a stop ends
                self._replace_fork_server("does not say that its children have died")
            return
        if self._fork_server is None and now >= self._boots.not_before:
            self._start_fork_server()
        self._start_children(now)
        if self._settings.burst and self._ready:
            self._burst.step()

    def _poll_timeout(self) -> float:
        """Seconds until something may have to be done that sends no event."""
        if self._shutdown.phase or self._settings.burst or self._missing():
            return TURN
        if any(handle.state is HandleState.IN_USE and not handle.has_begun for handle in self._handles):
            return TURN
        busy = any(handle.state is HandleState.IN_USE and not handle.page.at_rest for handle in self._handles)
        return EVERY if busy else IDLE

    def _why_not(self) -> str:
        """Why this worker cannot claim; "" when it can."""
        if self._shutdown.phase:
            return "it is stopping"
        if not self._heartbeat.renewed:
            return self._importing.describe()
        if self._self_fencing.active:
            return "the store does not answer"
        return self._failures.why() or self._queue_waiter.why_not(time.monotonic()) or self._why_no_child()

    def _why_no_child(self) -> str:
        """A process that could claim a job now, or as soon as it has done what it runs."""
        there = [(handle, watch) for handle, watch in zip(self._handles, self._idle_watches, strict=True) if handle.pid]
        there = [(handle, watch) for handle, watch in there if handle.state is HandleState.IN_USE and handle.has_begun]
        if any(watch.reacts and not handle.deaf_since and not handle.quiet_sent for handle, watch in there):
            return ""
        return "its processes do not react" if there else "it has no child"

    def _look_after(self, now: float) -> None:
        taken = [handle for handle in self._handles if handle.state is HandleState.IN_USE]
        for handle in taken:
            self._watchdog.step(handle, now)
            self._idle_watches[handle.number].step(now, not handle.page.running())
            self._birth_watch.step(handle, now)
            if handle.look_whether_it_works():
                self._births.worked()
        self._watchdog.weigh(taken, now)
        if self._fork_server_watch and self._fork_server:
            self._watch_fork_server(self._fork_server_watch, self._fork_server, now)

    def _watch_fork_server(self, watch: ForkServerWatch, fork_server: ForkServerClient, now: float) -> None:
        taken = [handle for handle in self._handles if handle.state is HandleState.IN_USE]
        busy = any(handle.page.running() for handle in taken)
        dead = min((at for handle in taken if (at := self._idle_watches[handle.number].dead)), default=0.0)
        if why := watch.step(now, busy, any(not handle.pid or handle.deaf_since for handle in taken), dead):
            self._replace_fork_server(why)
        elif watch.asks(now):
            self._ask_fork_server(fork_server.ping)

    def _replace_fork_server(self, why: str) -> None:
        """Its children die with it: what they run is not at fault."""
        log.error("the fork server %s: it is killed, and a new one starts", why)
        for handle in self._handles:
            handle.killed = handle.killed or handle.state is HandleState.IN_USE
        if self._fork_server:
            self._fork_server.kill()
        self._fork_server_watch = None

    def _ask_fork_server(self, request: Callable[[], T]) -> T | None:
        """Tell the fork server something; None: it is gone, or reads nothing."""
        try:
            return request()
        except OSError as e:
            if self._fork_server_watch is not None:
                self._replace_fork_server(f"takes no requests ({describe(e)})")
            return None

    def _full(self) -> bool:
        """All children are there, and nothing of a dead one is under way."""
        there = all(handle.state is not HandleState.STARTING for handle in self._handles) and not self._missing()
        return there and not (self._reaper.busy or self._maintenance.awaited or self._maintenance.running)

    def _missing(self) -> int:
        """How many children are missing."""
        return self._settings.children - sum(
            handle.state is not HandleState.EMPTY and not handle.retiring for handle in self._handles
        )

    def _over(self) -> bool:
        if not self._shutdown.phase or any(handle.state is HandleState.IN_USE for handle in self._handles):
            return False
        finishing = self._reaper.busy or self._maintenance.running
        waits = finishing or any(handle.state is HandleState.STARTING for handle in self._handles)
        return not waits or self._shutdown.without_children_for(time.monotonic()) > GIVE_UP

    def _close(self) -> int:
        self._queue_waiter.stop()
        if self._born:
            if self._cron_leader:
                self._roles_thread.do(self._cron_leader.resign)
            self._heartbeat_thread.stop(0.0)
            self._roles_thread.do(self._heartbeat.death)
            if self._reaper.busy or not self._roles_thread.stop(GIVE_UP):
                log.error("%s: the next worker rescues what this one held, after its lease", self._what_is_wrong())
                return 1
        log.info("stopped: %s done", count(self._done, "job"))
        return 0

    def _what_is_wrong(self) -> str:
        """At the end, with something undone."""
        if self._roles_thread.is_away or self._self_fencing.active:
            return "the store does not answer"
        return f"what was left of the last jobs could not be recorded within {GIVE_UP:g} s, although the store answers"

    # -- children come -------------------------------------------------------------------------------------------------

    def _start_fork_server(self) -> None:
        self._ready, self._started_at = False, time.monotonic()
        self._importing.begin()
        self._fork_server = ForkServerClient(
            self._settings, self._page_file, [handle.faults.fd for handle in self._handles]
        )
        self._selector.register(self._fork_server.control, selectors.EVENT_READ, self._on_fork_server)

    def _on_fork_server(self) -> None:
        assert self._fork_server is not None
        try:
            messages = self._fork_server.messages()
        except BootFailed as e:
            self._give_up(e)
            return
        if messages is None:
            self._fork_server_died()
            return
        if self._fork_server_watch:
            self._fork_server_watch.heard()
        for message in messages:
            match message:
                case ImportBegun(module):
                    self._importing.next(module)
                case Ready(why_not_forked):
                    self._on_ready(why_not_forked)
                case Unborn(owner, why):
                    self._on_unborn(owner, why)
                case Forked(owner, pid):
                    self._on_forked(owner, pid)
                case Died(pid, status):
                    self._on_died(pid, status)

    def _on_ready(self, why_not_forked: str) -> None:
        assert self._fork_server is not None
        self._ready = True
        self._importing.end()
        self._fork_server_watch = ForkServerWatch(self._fork_server.pid)
        self._birth_watch.spawned = bool(why_not_forked)
        if why_not_forked:
            log.warning(
                "importing the served modules %s: forked children would not have such threads and would share such "
                "connections, so they import for themselves, start slower and share no memory; what a function starts "
                "or opens when it runs does not have this price",
                why_not_forked,
            )
        if not self._born and not self._shutdown.phase:
            self._born = True
            self._roles_thread.do(self._heartbeat.birth)
            self._roles_thread.start()
            self._heartbeat_thread.start()

    def _start_children(self, now: float) -> None:
        if not self._ready or now < self._births.not_before or not (missing := self._missing()):
            return
        empty = [handle for handle in self._handles if handle.state is HandleState.EMPTY]
        # children keep dying young: no spare handle gets round the wait
        if any(now < handle.not_before for handle in empty):
            return
        for handle in empty[:missing]:
            self._start_child(handle, handle.next_owner(self._settings.worker))

    def _start_child(self, handle: ChildHandle, owner: str) -> None:
        """The new name first, in the store; the process only when it stands there."""

        def add() -> None:
            self._heartbeat.add_owner(owner)
            self._post(lambda: self._fork(handle))

        self._roles_thread.do(add)

    def _fork(self, handle: ChildHandle) -> None:
        handle.page.wipe()
        handle.faults.clear()
        fork_server, control = self._fork_server, None
        if fork_server is not None and self._ready and not self._shutdown.phase:
            control = self._ask_fork_server(lambda: fork_server.fork(handle.owner, handle.number, handle.faults.fd))
        if control is None:  # not any more: strike the name off again
            self._reap(handle, None)
            handle.release()
            return
        handle.attach(control)
        self._selector.register(control, selectors.EVENT_READ, lambda: self._on_child(handle))

    def _on_unborn(self, owner: str, why: str) -> None:
        """The system starts no process now. It is asked again, later and later."""
        log.error("no process could be started for %s: %s", owner, why)
        if self._reaper.unborn(self._rescuer, owner) or self._maintenance.unborn(owner):
            return
        for handle in self._handles:
            if handle.owner == owner and handle.state is HandleState.IN_USE:
                self._lost(handle, None, f"could not be started: {why}")

    def _on_forked(self, owner: str, pid: int) -> None:
        if self._reaper.forked(owner, pid) or self._maintenance.forked(owner, pid):
            return
        for handle in self._handles:
            if handle.owner == owner:
                handle.pid = pid
        self._let_the_retired_go()

    def _let_the_retired_go(self) -> None:
        """One for each successor that is there: two may retire at once."""
        there = [handle for handle in self._handles if handle.pid and not handle.quiet_sent]
        spare = len(there) - self._settings.children
        for handle in [handle for handle in there if handle.retiring][: max(0, spare)]:
            handle.quiet()

    # -- children speak ------------------------------------------------------------------------------------------------

    def _on_child(self, handle: ChildHandle) -> None:
        if handle.control is None:  # its death was heard in this same turn
            return
        said = handle.hear()
        if said is None:  # dead or dying, and the fork server tells how; or it has closed this itself
            self._selector.unregister(handle.control)
            handle.deaf_since = time.monotonic()
            return
        for word in said:
            if isinstance(word, Dropped):
                self._shutdown.dropped(handle, word.tokens)
            elif isinstance(word, Retire):
                self._retire(
                    handle,
                    "it has done its share" if self._settings.max_jobs else "a thread of it is stuck, or it is cut off",
                )
            else:
                self._queue_waiter.call_at_push(lambda: handle.tell(Wake()))

    def _retire(self, handle: ChildHandle, why: str) -> None:
        """A successor starts; when it is there, this one is told to finish what it runs and to leave."""
        if not handle.retiring and not self._shutdown.phase:
            log.info("child %s retires: %s", handle.owner, why)
            handle.retiring = True

    # -- children go ---------------------------------------------------------------------------------------------------

    def _on_died(self, pid: int, status: int) -> None:
        if self._reaper.died(self._rescuer, pid, status) or self._maintenance.died(pid, status):
            return
        for handle in self._handles:
            if handle.pid == pid:
                self._lost(handle, status)

    def _lost(self, handle: ChildHandle, status: int | None, how: str = "") -> None:
        """A child is gone: what it held is somebody else's now, and its handle is free."""
        how = handle.failure or how or handle.end_of_process(status)
        if status != 0 and self._shutdown.phase < Phase.INTERRUPT:
            log.warning("child %s (pid %d) %s", handle.owner, handle.pid, how)
        if not handle.killed and not self._shutdown.phase:
            self._note_early_death(handle, status, how)
        if handle.control is not None and handle.control.fileno() in self._selector.get_map():
            self._selector.unregister(handle.control)
        self._done += handle.page.get(DONE)
        self._reap(handle, status)
        handle.release()

    def _note_early_death(self, handle: ChildHandle, status: int | None, how: str) -> None:
        """It died before it could run a job, or failed by itself before it had claimed one. When that is so of all of
        them again and again, trying once more helps nobody."""
        failed = status is not None and os.waitstatus_to_exitcode(status) == FAILED
        if handle.has_begun and (handle.look_whether_it_works() or not failed):
            self._births.worked()  # it came up: what failed before it is no row any more
            return
        others = [other for other in self._handles if other is not handle and other.state is HandleState.IN_USE]
        try:
            self._births.failed(f"(pid {handle.pid}) {how}", handle.born, time.monotonic(), by_sigkill(status))
        except BootFailed as e:
            if not any(other.worked if handle.has_begun else other.has_begun for other in others):
                self._give_up(e)

    def _give_up(self, error: BootFailed) -> None:
        """Leave with exit code 2, after what is to be done for the dead and with our name off every list."""
        self._boot_failed = self._boot_failed or error
        self._shutdown.begin("the worker cannot start")

    def _reap(self, handle: ChildHandle, status: int | None) -> None:
        """What stands in shared memory now, and what we say of it."""
        stopping = self._shutdown.phase >= Phase.INTERRUPT
        self._reaper.reap(self._rescuer, handle.death_report(status, stopping))

    def _on_left(self, left: LeftForRQ) -> None:
        """(roles thread) Of another tree."""
        self._post(lambda: self._reaper.finish_by_rq(self._rescuer, left))

    def _fork_finish_process(self, left: LeftForRQ) -> bool:
        if not self._ready or (fork_server := self._fork_server) is None:
            return False
        return self._closed(self._ask_fork_server(lambda: fork_server.fork_finish_process(left)))

    def _fork_maintenance(self) -> bool:
        if not self._ready or (fork_server := self._fork_server) is None or self._shutdown.phase:
            return False
        return self._closed(self._ask_fork_server(fork_server.fork_maintenance))

    def _closed(self, control: socket.socket | None) -> bool:
        """Nobody listens to this one; False: there is none."""
        if control is None:
            return False
        control.close()
        return True

    def _wake_all(self) -> None:
        for handle in self._handles:
            handle.tell(Ping())

    def _stand_in(self, handle: ChildHandle) -> None:
        """(watchdog) The child holds still: nothing may wait behind what it runs, and RQ's readers should see that."""
        owner, pulse = handle.owner, handle.pulse
        self._reaper.ask(lambda: self._rescuer.stand_in(owner, handle.page, pulse), lambda _: None)

    def _find(self, job_id: str, owners: list[str], then: Callable[[int | None], None]) -> None:
        self._reaper.ask(lambda: self._rescuer.claim_of(job_id, owners), then)

    def _fork_server_died(self) -> None:
        """Its children carry PDEATHSIG; where the kernel has none, the end of their socket makes them leave."""
        fork_server, self._fork_server = self._fork_server, None
        assert fork_server is not None
        self._selector.unregister(fork_server.control)
        fork_server.close()
        how, killed = fork_server.end(), fork_server.was_killed()
        if self._ready:
            log.error(
                "the fork server (pid %d) %s; its children die with it, and a new one starts", fork_server.pid, how
            )
        served = any(handle.has_begun for handle in self._handles if handle.state is HandleState.IN_USE)
        self._ready, self._fork_server_watch = False, None
        self._reaper.all_died(self._rescuer)
        self._maintenance.all_died()
        for handle in self._handles:
            if handle.state is HandleState.IN_USE:
                handle.killed = handle.killed or not handle.has_begun  # of no fault of its own
                handle.kill()
                handle.await_death()
                self._end_jobs(handle)
                self._lost(handle, None)
        if not self._shutdown.phase:
            self._note_failed_boot(how, served, killed)

    def _note_failed_boot(self, how: str, served: bool, killed: bool) -> None:
        if served:
            self._boots.worked()
        what = f"{how} while it imported {self._importing.module}" if self._importing.module else how
        try:
            self._boots.failed(what, self._started_at, time.monotonic(), killed)
        except BootFailed as e:
            self._give_up(e)

    def _end_jobs(self, handle: ChildHandle) -> None:
        """What its jobs had started ends with them. The fork server does this, unless it died itself."""
        if handle.pid and (running := handle.page.running()):
            end_processes(OfProcess(handle.pid, handle.owner, None), min(job.start for job in running))

    # -- stopping ------------------------------------------------------------------------------------------------------

    def _on_signals(self) -> None:
        for number in self._signals.take():
            if number == signal.SIGCHLD:
                collect_orphans(own={*server_pids(), *([self._fork_server.pid] if self._fork_server else [])})
            elif number == signal.SIGTSTP:
                suspend([handle.pid for handle in self._handles if handle.pid], self._settings.lease)
            else:
                self._shutdown.asked(signal.Signals(number).name, at_once=number == signal.SIGQUIT)

    def _give_back(self, tokens: Sequence[Token]) -> None:
        """One script for the whole tree, so that the order stays."""
        self._roles_thread.do(lambda: self._protocol.give_back(self._settings.worker, tokens))

    # -- from other threads --------------------------------------------------------------------------------------------

    def _post(self, event: Callable[[], None]) -> None:
        """Let the main loop do this."""
        self._events.put(event)
        os.write(self._bell_write, b"!")

    def _on_bell(self) -> None:
        os.read(self._bell_read, 4096)
        while not self._events.empty():
            self._events.get()()
