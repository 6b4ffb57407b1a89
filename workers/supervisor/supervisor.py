"""The supervisor: keeps the children alive, stops them, and answers for what they held.

    signals ──►┐                          ┌──► fork server ──► children
    births,    ├── main loop (never waits ├──► lease: renews it, and does nothing else
    deaths ───►│   for Redis, runs no     ├──► registrar: birth, owners, rescue, scheduler (waits for Redis)
    hunger ───►┘   user code)             └──► waiter: BLMOVE, wakes hungry children

Life: boot the fork server → birth → one owner name and one child per seat → loop → quiet → drained or out of grace →
everything given back → death. The order of stopping: children claim nothing more, what nobody started goes back at
once and in order, running jobs end until the deadline, then they are interrupted, then killed; each child's remains
are rescued; the waiter, the registrar and the fork server go last.
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
from typing import Any, TypeVar

from jobqueue.errors import BootFailed
from jobqueue.network.silence import FIRST_ANSWER
from jobqueue.protocol.protocol import Protocol
from jobqueue.schedules.timetable import Schedule
from jobqueue.store.local.server import server_pids
from jobqueue.store.open import Store
from jobqueue.words import count
from jobqueue.workers.roles.command_listener import Commands
from jobqueue.workers.roles.cron_leader import Cron
from jobqueue.workers.roles.cron_registration import CronCard
from jobqueue.workers.roles.heartbeat import Heartbeat, patience
from jobqueue.workers.roles.maintenance import Maintenance
from jobqueue.workers.roles.queue_waiter import Waiter
from jobqueue.workers.roles.rescuer import Rescuer
from jobqueue.workers.roles.scheduler import Scheduler
from jobqueue.workers.roles.self_fencing import Freezer
from jobqueue.workers.roles.timed_role import Outage, Periodic, Step
from jobqueue.workers.roles.wrong_keys import WrongKeys
from jobqueue.workers.shared.attempts import Attempts
from jobqueue.workers.shared.deaths import FAILED, Left, by_sigkill
from jobqueue.workers.shared.failures import Failures, describe
from jobqueue.workers.shared.journal import DONE, Region, make_file
from jobqueue.workers.shared.process_tree import TO_ALL, OfProcess, adopt_orphans, collect_orphans, end_processes
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.supervisor.birth_watch import BirthWatch
from jobqueue.workers.supervisor.burst import Burst
from jobqueue.workers.supervisor.child_handle import Seat, Use
from jobqueue.workers.supervisor.command_handler import Orders
from jobqueue.workers.supervisor.forkserver_client import Nursery
from jobqueue.workers.supervisor.forkserver_watch import ServerWatch
from jobqueue.workers.supervisor.health import Health
from jobqueue.workers.supervisor.idle_watch import IdleWatch
from jobqueue.workers.supervisor.importing import Importing
from jobqueue.workers.supervisor.other_trees import OtherTrees
from jobqueue.workers.supervisor.reaper import Undertaker
from jobqueue.workers.supervisor.shutdown import Phase, Stopping
from jobqueue.workers.supervisor.signals import Signals, suspend
from jobqueue.workers.supervisor.watchdog import EVERY, Guard

log = logging.getLogger(__name__)
T = TypeVar("T")

GIVE_UP = 5.0  # seconds for the last errands, when the store is away
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
        seats = 2 * settings.children  # as many again, so that a successor can start before a retiring child has left
        self._pages = make_file(seats, settings.slots)
        self._seats = [Seat(n, Region(self._pages, n, settings.slots)) for n in range(seats)]
        self._nursery: Nursery | None = None
        self._ready = False  # the fork server can fork
        self._importing = Importing()
        self._started_at = 0.0  # monotonic seconds, of the fork server
        self._server_watch: ServerWatch | None = None  # while it is ready
        self._boots = Attempts("The served modules cannot be imported: the process that imports them")
        self._births = Attempts("No process that could run jobs comes up: the last one")
        self._boot_failed: BootFailed | None = None

        self._failures = Failures(on_change=lambda: self._post(lambda: None))  # health says so in the next turn
        client = store.client()
        self._protocol = Protocol(client)
        own = store.client(socket_timeout=patience(settings.lease), connect_timeout=patience(settings.lease))
        self._heartbeat = Heartbeat(settings, own, lambda: any(seat.region.running() for seat in self._seats))
        self._rescuer = Rescuer(settings, client, self._on_left)
        self._frozen = Freezer(settings, self._heartbeat, [seat.region for seat in self._seats], self._wake_all)
        self._cron = Cron(settings.worker, cron, client) if cron else None
        self._maintenance = Maintenance(
            settings.maintenance_interval, settings.burst, self._post, self._fork_maintenance
        )
        outage = Outage()
        self._renewal = Periodic("jobq-lease", [self._heartbeat], store.ensure, self._failures, outage)
        roles: list[Step] = [self._rescuer, self._maintenance, WrongKeys(client)]
        if settings.scheduler:
            roles.append(Scheduler(settings, client))
        if self._cron:
            roles.append(self._cron)
        if settings.scheduler or self._cron:
            roles.append(CronCard(client))
        self._registrar = Periodic(
            "jobq-registrar", roles, on_away=store.ensure, failures=self._failures, outage=outage
        )
        self._born = False
        self._waiter = Waiter(store.client(socket_timeout=FIRST_ANSWER), settings.queues, self._failures)
        self._undertaker = Undertaker(self._registrar.do, self._post, self._fork_errand)
        self._stopping = Stopping(
            self._seats, settings.grace, self._give_back, lambda: self._registrar.is_away or self._frozen.frozen
        )
        orders = Orders(self._seats, lambda: self._stopping.asked("shutdown command"), self._find)
        self._commands = Commands(
            store.client(),
            settings.worker,
            lambda order: self._post(lambda: orders.obey(order)),
            self._failures,
        )
        self._health = Health(settings.health_file)
        self._birth_watch = BirthWatch()
        self._guard = Guard(settings, self._stand_in, self._retire)
        self._idle_watches = [IdleWatch(seat, self._retire) for seat in self._seats]
        self._burst = Burst(
            self._seats,
            settings.queues,
            client,
            errand=self._registrar.do,
            post=self._post,
            full=self._full,
            on_over=lambda: self._stopping.begin("the queues are empty"),
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
                if self._nursery:
                    self._nursery.close(at_once=not self._ready)

    def _open(self) -> None:
        self._selector.register(self._signals.fd, selectors.EVENT_READ, self._on_signals)
        self._selector.register(self._bell_read, selectors.EVENT_READ, self._on_bell)
        self._start_nursery()
        self._waiter.start()
        self._commands.start()

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._patience()):
            key.data()
        now = time.monotonic()
        self._frozen.step(now)
        self._importing.step(now)
        self._health.step(now, self._why_not())
        self._look_after(now)
        if self._stopping.phase:
            self._stopping.step(now)
            if self._stopping.takes_too_long(now) and self._nursery:  # whatever became of it: a stop ends
                self._replace_server("does not say that its children have died")
            return
        if self._nursery is None and now >= self._boots.not_before:
            self._start_nursery()
        self._fill_seats(now)
        if self._settings.burst and self._ready:
            self._burst.step()

    def _patience(self) -> float:
        """Seconds until something may have to be done that sends no event."""
        if self._stopping.phase or self._settings.burst or self._vacant():
            return TURN
        if any(seat.use is Use.TAKEN and not seat.has_begun for seat in self._seats):
            return TURN
        busy = any(seat.use is Use.TAKEN and not seat.region.at_rest for seat in self._seats)
        return EVERY if busy else IDLE

    def _why_not(self) -> str:
        """Why this worker cannot claim; "" when it can."""
        if self._stopping.phase:
            return "it is stopping"
        if not self._heartbeat.renewed:
            return self._importing.describe()
        if self._frozen.frozen:
            return "the store does not answer"
        return self._failures.why() or self._waiter.why_not(time.monotonic()) or self._why_no_child()

    def _why_no_child(self) -> str:
        """A process that could claim a job now, or as soon as it has done what it runs."""
        there = [(seat, watch) for seat, watch in zip(self._seats, self._idle_watches, strict=True) if seat.pid]
        there = [(seat, watch) for seat, watch in there if seat.use is Use.TAKEN and seat.has_begun]
        if any(watch.reacts and not seat.deaf_since and not seat.told_quiet for seat, watch in there):
            return ""
        return "its processes do not react" if there else "it has no child"

    def _look_after(self, now: float) -> None:
        taken = [seat for seat in self._seats if seat.use is Use.TAKEN]
        for seat in taken:
            self._guard.step(seat, now)
            self._idle_watches[seat.number].step(now, not seat.region.running())
            self._birth_watch.step(seat, now)
            if seat.look_whether_it_works():
                self._births.worked()
        self._guard.weigh(taken, now)
        if self._server_watch and self._nursery:
            self._watch_server(self._server_watch, self._nursery, now)

    def _watch_server(self, watch: ServerWatch, nursery: Nursery, now: float) -> None:
        taken = [seat for seat in self._seats if seat.use is Use.TAKEN]
        busy = any(seat.region.running() for seat in taken)
        dead = min((at for seat in taken if (at := self._idle_watches[seat.number].dead)), default=0.0)
        if why := watch.step(now, busy, any(not seat.pid or seat.deaf_since for seat in taken), dead):
            self._replace_server(why)
        elif watch.asks(now):
            self._order(nursery.ping)

    def _replace_server(self, why: str) -> None:
        """Its children die with it: what they run is not at fault."""
        log.error("the fork server %s: it is killed, and a new one starts", why)
        for seat in self._seats:
            seat.killed = seat.killed or seat.use is Use.TAKEN
        if self._nursery:
            self._nursery.kill()
        self._server_watch = None

    def _order(self, order: Callable[[], T]) -> T | None:
        """Tell the fork server something; None: it is gone, or reads nothing."""
        try:
            return order()
        except OSError as e:
            if self._server_watch is not None:
                self._replace_server(f"takes no orders ({describe(e)})")
            return None

    def _full(self) -> bool:
        """All children are there, and nothing of a dead one is under way."""
        there = all(seat.use is not Use.FILLING for seat in self._seats) and not self._vacant()
        return there and not (self._undertaker.busy or self._maintenance.awaited or self._maintenance.running)

    def _vacant(self) -> int:
        """How many children are missing."""
        return self._settings.children - sum(seat.use is not Use.EMPTY and not seat.retiring for seat in self._seats)

    def _over(self) -> bool:
        if not self._stopping.phase or any(seat.use is Use.TAKEN for seat in self._seats):
            return False
        errands = self._undertaker.busy or self._maintenance.running
        waits = errands or any(seat.use is Use.FILLING for seat in self._seats)
        return not waits or self._stopping.alone_for(time.monotonic()) > GIVE_UP

    def _close(self) -> int:
        self._waiter.stop()
        if self._born:
            if self._cron:
                self._registrar.do(self._cron.resign)
            self._renewal.stop(0.0)
            self._registrar.do(self._heartbeat.death)
            if self._undertaker.busy or not self._registrar.stop(GIVE_UP):
                log.error("%s: the next worker rescues what this one held, after its lease", self._what_is_wrong())
                return 1
        log.info("stopped: %s done", count(self._done, "job"))
        return 0

    def _what_is_wrong(self) -> str:
        """At the end, with something undone."""
        if self._registrar.is_away or self._frozen.frozen:
            return "the store does not answer"
        return f"what was left of the last jobs could not be recorded within {GIVE_UP:g} s, although the store answers"

    # -- children come -------------------------------------------------------------------------------------------------

    def _start_nursery(self) -> None:
        self._ready, self._started_at = False, time.monotonic()
        self._importing.begin()
        self._nursery = Nursery(self._settings, self._pages, [seat.faults.fd for seat in self._seats])
        self._selector.register(self._nursery.control, selectors.EVENT_READ, self._on_nursery)

    def _on_nursery(self) -> None:
        assert self._nursery is not None
        try:
            messages = self._nursery.messages()
        except BootFailed as e:
            self._give_up(e)
            return
        if messages is None:
            self._nursery_died()
            return
        if self._server_watch:
            self._server_watch.heard()
        for message in messages:
            if "importing" in message:
                self._importing.next(message["importing"])
            elif "ready" in message:
                self._on_ready(message["ready"])
            elif "unborn" in message:
                self._on_unborn(message["unborn"], message["why"])
            elif "forked" in message:
                self._on_forked(message["forked"], message["pid"])
            elif "died" in message:
                self._on_died(message["died"], message["status"])

    def _on_ready(self, why_not_forked: str) -> None:
        assert self._nursery is not None
        self._ready = True
        self._importing.end()
        self._server_watch = ServerWatch(self._nursery.pid)
        self._birth_watch.spawned = bool(why_not_forked)
        if why_not_forked:
            log.warning(
                "importing the served modules %s: forked children would not have such threads and would share such "
                "connections, so they import for themselves, start slower and share no memory; what a function starts "
                "or opens when it runs does not have this price",
                why_not_forked,
            )
        if not self._born and not self._stopping.phase:
            self._born = True
            self._registrar.do(self._heartbeat.birth)
            self._registrar.start()
            self._renewal.start()

    def _fill_seats(self, now: float) -> None:
        if not self._ready or now < self._births.not_before or not (vacant := self._vacant()):
            return
        empty = [seat for seat in self._seats if seat.use is Use.EMPTY]
        if any(now < seat.not_before for seat in empty):  # children keep dying young: no spare seat gets round the wait
            return
        for seat in empty[:vacant]:
            self._fill(seat, seat.next_owner(self._settings.worker))

    def _fill(self, seat: Seat, owner: str) -> None:
        """The new name first, in the store; the process only when it stands there."""

        def add() -> None:
            self._heartbeat.add_owner(owner)
            self._post(lambda: self._fork(seat))

        self._registrar.do(add)

    def _fork(self, seat: Seat) -> None:
        seat.region.wipe()
        seat.faults.clear()
        nursery, control = self._nursery, None
        if nursery is not None and self._ready and not self._stopping.phase:
            control = self._order(lambda: nursery.fork(seat.owner, seat.number, seat.faults.fd))
        if control is None:  # not any more: strike the name off again
            self._bury(seat, None)
            seat.vacate()
            return
        seat.seat(control)
        self._selector.register(control, selectors.EVENT_READ, lambda: self._on_child(seat))

    def _on_unborn(self, owner: str, why: str) -> None:
        """The system starts no process now. It is asked again, later and later."""
        log.error("no process could be started for %s: %s", owner, why)
        if self._undertaker.unborn(self._rescuer, owner) or self._maintenance.unborn(owner):
            return
        for seat in self._seats:
            if seat.owner == owner and seat.use is Use.TAKEN:
                self._lost(seat, None, f"could not be started: {why}")

    def _on_forked(self, owner: str, pid: int) -> None:
        if self._undertaker.forked(owner, pid) or self._maintenance.forked(owner, pid):
            return
        for seat in self._seats:
            if seat.owner == owner:
                seat.pid = pid
        self._let_the_retired_go()

    def _let_the_retired_go(self) -> None:
        """One for each successor that is there: two may retire at once."""
        there = [seat for seat in self._seats if seat.pid and not seat.told_quiet]
        spare = len(there) - self._settings.children
        for seat in [seat for seat in there if seat.retiring][: max(0, spare)]:
            seat.quiet()

    # -- children speak ------------------------------------------------------------------------------------------------

    def _on_child(self, seat: Seat) -> None:
        if seat.control is None:  # its death was heard in this same turn
            return
        said = seat.hear()
        if said is None:  # dead or dying, and the fork server tells how; or it has closed this itself
            self._selector.unregister(seat.control)
            seat.deaf_since = time.monotonic()
            return
        for word in said:
            if isinstance(word, list):
                self._stopping.dropped(seat, word)
            elif word == "worn":
                self._retire(
                    seat,
                    "it has done its share" if self._settings.max_jobs else "a thread of it is stuck, or it is cut off",
                )
            else:
                self._waiter.hungry(lambda: seat.tell(b"w\n"))

    def _retire(self, seat: Seat, why: str) -> None:
        """A successor starts; when it is there, this one is told to finish what it runs and to leave."""
        if not seat.retiring and not self._stopping.phase:
            log.info("child %s retires: %s", seat.owner, why)
            seat.retiring = True

    # -- children go ---------------------------------------------------------------------------------------------------

    def _on_died(self, pid: int, status: int) -> None:
        if self._undertaker.died(self._rescuer, pid, status) or self._maintenance.died(pid, status):
            return
        for seat in self._seats:
            if seat.pid == pid:
                self._lost(seat, status)

    def _lost(self, seat: Seat, status: int | None, how: str = "") -> None:
        """A child is gone: what it held is somebody else's now, and its seat is free."""
        how = seat.failure or how or seat.end_of_process(status)
        if status != 0 and self._stopping.phase < Phase.INTERRUPT:
            log.warning("child %s (pid %d) %s", seat.owner, seat.pid, how)
        if not seat.killed and not self._stopping.phase:
            self._note_early_death(seat, status, how)
        if seat.control is not None and seat.control.fileno() in self._selector.get_map():
            self._selector.unregister(seat.control)
        self._done += seat.region.get(DONE)
        self._bury(seat, status)
        seat.vacate()

    def _note_early_death(self, seat: Seat, status: int | None, how: str) -> None:
        """It died before it could run a job, or failed by itself before it had claimed one. When that is so of all of
        them again and again, trying once more helps nobody."""
        failed = status is not None and os.waitstatus_to_exitcode(status) == FAILED
        if seat.has_begun and (seat.look_whether_it_works() or not failed):
            return
        others = [other for other in self._seats if other is not seat and other.use is Use.TAKEN]
        try:
            self._births.failed(f"(pid {seat.pid}) {how}", seat.born, time.monotonic(), by_sigkill(status))
        except BootFailed as e:
            if not any(other.worked if seat.has_begun else other.has_begun for other in others):
                self._give_up(e)

    def _give_up(self, error: BootFailed) -> None:
        """Leave with exit code 2, after what is to be done for the dead and with our name off every list."""
        self._boot_failed = self._boot_failed or error
        self._stopping.begin("the worker cannot start")

    def _bury(self, seat: Seat, status: int | None) -> None:
        """What stands in shared memory now, and what we say of it."""
        stopping = self._stopping.phase >= Phase.INTERRUPT
        self._undertaker.bury(self._rescuer, seat.remains(status, stopping))

    def _on_left(self, left: Left) -> None:
        """(registrar) Of another tree."""
        self._post(lambda: self._undertaker.finish_by_rq(self._rescuer, left))

    def _fork_errand(self, left: Left) -> bool:
        if not self._ready or (nursery := self._nursery) is None:
            return False
        return self._closed(self._order(lambda: nursery.fork_errand(left)))

    def _fork_maintenance(self) -> bool:
        if not self._ready or (nursery := self._nursery) is None or self._stopping.phase:
            return False
        return self._closed(self._order(nursery.fork_maintenance))

    def _closed(self, control: socket.socket | None) -> bool:
        """Nobody listens to this one; False: there is none."""
        if control is None:
            return False
        control.close()
        return True

    def _wake_all(self) -> None:
        for seat in self._seats:
            seat.tell(b"p\n")

    def _stand_in(self, seat: Seat) -> None:
        """(guard) The child holds still: nothing may wait behind what it runs, and RQ's readers should see that."""
        owner, pulse = seat.owner, seat.pulse
        self._undertaker.ask(lambda: self._rescuer.stand_in(owner, seat.region, pulse), lambda _: None)

    def _find(self, job_id: str, owners: list[str], then: Callable[[int | None], None]) -> None:
        self._undertaker.ask(lambda: self._rescuer.claim_of(job_id, owners), then)

    def _nursery_died(self) -> None:
        """Its children carry PDEATHSIG; where the kernel has none, the end of their socket makes them leave."""
        nursery, self._nursery = self._nursery, None
        assert nursery is not None
        self._selector.unregister(nursery.control)
        nursery.close()
        how, killed = nursery.end(), nursery.was_killed()
        if self._ready:
            log.error("the fork server (pid %d) %s; its children die with it, and a new one starts", nursery.pid, how)
        served = any(seat.has_begun for seat in self._seats if seat.use is Use.TAKEN)
        self._ready, self._server_watch = False, None
        self._undertaker.all_died(self._rescuer)
        self._maintenance.all_died()
        for seat in self._seats:
            if seat.use is Use.TAKEN:
                seat.killed = seat.killed or not seat.has_begun  # of no fault of its own
                seat.kill()
                seat.await_death()
                self._end_jobs(seat)
                self._lost(seat, None)
        if not self._stopping.phase:
            self._note_failed_boot(how, served, killed)

    def _note_failed_boot(self, how: str, served: bool, killed: bool) -> None:
        if served:
            self._boots.worked()
        what = f"{how} while it imported {self._importing.module}" if self._importing.module else how
        try:
            self._boots.failed(what, self._started_at, time.monotonic(), killed)
        except BootFailed as e:
            self._give_up(e)

    def _end_jobs(self, seat: Seat) -> None:
        """What its jobs had started ends with them. The fork server does this, unless it died itself."""
        if seat.pid and (running := seat.region.running()):
            end_processes(OfProcess(seat.pid, seat.owner, None), min(job.start for job in running))

    # -- stopping ------------------------------------------------------------------------------------------------------

    def _on_signals(self) -> None:
        for number in self._signals.take():
            if number == signal.SIGCHLD:
                collect_orphans(own={*server_pids(), *([self._nursery.pid] if self._nursery else [])})
            elif number == signal.SIGTSTP:
                suspend([seat.pid for seat in self._seats if seat.pid], self._settings.lease)
            else:
                self._stopping.asked(signal.Signals(number).name, at_once=number == signal.SIGQUIT)

    def _give_back(self, tokens: list[Any]) -> None:
        """One script for the whole tree, so that the order stays."""
        given = [tuple(token) for token in tokens]
        self._registrar.do(lambda: self._protocol.give_back(self._settings.worker, given))

    # -- from other threads --------------------------------------------------------------------------------------------

    def _post(self, event: Callable[[], None]) -> None:
        """Let the main loop do this."""
        self._events.put(event)
        os.write(self._bell_write, b"!")

    def _on_bell(self) -> None:
        os.read(self._bell_read, 4096)
        while not self._events.empty():
            self._events.get()()
