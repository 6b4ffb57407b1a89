"""The supervisor: keeps the children alive, stops them, and answers for what they held.

    signals ──►┐                          ┌──► fork server ──► children
    births,    ├── main loop (never waits ┤
    deaths ───►│   for Redis, runs no     ├──► registrar: birth, lease, owners, rescue, scheduler (waits for Redis)
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
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from jobqueue.connection import Store
from jobqueue.protocol import Protocol
from workers.burst import Burst
from workers.heartbeat import Heartbeat
from workers.journal import DONE, Region, make_file
from workers.nursery import Nursery
from workers.periodic import Periodic, Step
from workers.rescuer import Remains, Rescuer, cause_of_death
from workers.scheduler import Scheduler
from workers.seat import Seat, Use
from workers.settings import Settings
from workers.signals import Signals
from workers.waiter import Waiter

log = logging.getLogger(__name__)

LAST_WORDS = 2.0  # seconds between the interrupt and the kill
GIVE_UP = 5.0  # seconds for the last errands, when the store is away
QUIET_WAIT = 0.5  # seconds to hear from all children what they dropped, so that it goes back in one step
TURN = 0.05  # seconds between two looks when something is awaited that sends no event


class Phase(IntEnum):
    """In the order in which they come; each is entered once."""

    RUNNING = 0
    QUIET = 1  # claim nothing, let running jobs finish
    INTERRUPT = 2  # out of grace: interrupt
    KILL = 3


class Supervisor:
    """Runs one worker tree. ``run`` returns the exit code."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._signals = Signals()
        self._selector = selectors.DefaultSelector()
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._bell_read, self._bell_write = os.pipe()
        self._pages = make_file(settings.children, settings.slots)
        self._seats = [Seat(n, Region(self._pages, n, settings.slots)) for n in range(settings.children)]
        self._nursery: Nursery | None = None
        self._ready = False  # the fork server can fork

        client = store.client()
        self._protocol = Protocol(client)
        self._heartbeat = Heartbeat(settings, client, lambda: any(seat.region.running() for seat in self._seats))
        self._rescuer = Rescuer(settings, client)
        roles: list[Step] = [self._heartbeat, self._rescuer]
        if settings.scheduler:
            roles.append(Scheduler(settings, client))
        self._registrar = Periodic("jobq-registrar", roles)
        self._born = False
        self._waiter = Waiter(store.client(socket_timeout=None), settings.queues)
        self._burst = Burst(
            self._seats,
            settings.queues,
            client,
            self._registrar.do,
            self._post,
            lambda: self._quiet("the queues are empty"),
        )

        self._phase = Phase.RUNNING
        self._quiet_since = 0.0  # monotonic seconds
        self._next_phase = 0.0  # monotonic seconds
        self._given_back = False
        self._under_way = 0  # rescues that the registrar has not finished
        self._done = 0

    # -- life ----------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run until stopped (or, in a burst, until the queues are empty). Raises BootFailed."""
        with self._signals.caught((signal.SIGTERM, signal.SIGINT)):
            try:
                self._open()
                while not self._over():
                    self._turn()
                return self._close()
            finally:
                if self._nursery:
                    self._nursery.close()

    def _open(self) -> None:
        self._selector.register(self._signals.fd, selectors.EVENT_READ, self._on_signals)
        self._selector.register(self._bell_read, selectors.EVENT_READ, self._on_bell)
        self._start_nursery()
        self._waiter.start()

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._patience()):
            key.data()
        if self._phase:
            self._stop_on(time.monotonic())
            return
        self._fill_seats(time.monotonic())
        if self._settings.burst and self._ready:
            self._burst.step()

    def _patience(self) -> float | None:
        waits_for_time = self._phase or self._settings.burst or any(seat.use is Use.EMPTY for seat in self._seats)
        return TURN if waits_for_time else None

    def _over(self) -> bool:
        if not self._phase or any(seat.use is Use.TAKEN for seat in self._seats):
            return False
        filling = any(seat.use is Use.FILLING for seat in self._seats)
        return not (filling or self._under_way) or time.monotonic() > self._next_phase + GIVE_UP

    def _close(self) -> int:
        self._waiter.stop()
        if self._born:
            self._registrar.do(self._heartbeat.death)
            if self._under_way or not self._registrar.stop(GIVE_UP):
                log.error(
                    "the store does not answer: the next worker rescues what this one held, when its lease is over"
                )
                return 1
        log.info("stopped: %d jobs done", self._done)
        return 0

    # -- children come -------------------------------------------------------------------------------------------------

    def _start_nursery(self) -> None:
        self._ready = False
        self._nursery = Nursery(self._settings, self._pages)
        self._selector.register(self._nursery.control, selectors.EVENT_READ, self._on_nursery)

    def _on_nursery(self) -> None:
        assert self._nursery is not None
        messages = self._nursery.messages()
        if messages is None:
            self._nursery_died()
            return
        for message in messages:
            if "ready" in message:
                self._on_ready(bool(message["ready"]))
            elif "forked" in message:
                self._on_forked(message["forked"], message["pid"])
            elif "died" in message:
                self._on_died(message["died"], message["status"])

    def _on_ready(self, spawns: bool) -> None:
        self._ready = True
        if spawns:
            log.warning("importing the served modules started threads: children import for themselves and start slower")
        if not self._born and not self._phase:
            self._born = True
            self._registrar.do(self._heartbeat.birth)
            self._registrar.start()

    def _fill_seats(self, now: float) -> None:
        for seat in self._seats:
            if seat.use is Use.EMPTY and self._ready and now >= seat.not_before:
                self._fill(seat, seat.next_owner(self._settings.worker))

    def _fill(self, seat: Seat, owner: str) -> None:
        """The new name first, in the store; the process only when it stands there."""

        def add() -> None:
            self._heartbeat.add_owner(owner)
            self._post(lambda: self._fork(seat))

        self._registrar.do(add)

    def _fork(self, seat: Seat) -> None:
        seat.region.wipe()
        if self._phase or not self._ready or self._nursery is None:  # not any more: strike the name off again
            self._bury(seat, None)
            seat.vacate()
            return
        seat.seat(self._nursery.fork(seat.owner, seat.number))
        assert seat.control is not None
        self._selector.register(seat.control, selectors.EVENT_READ, lambda: self._on_child(seat))

    def _on_forked(self, owner: str, pid: int) -> None:
        for seat in self._seats:
            if seat.owner == owner:
                seat.pid = pid

    # -- children speak ------------------------------------------------------------------------------------------------

    def _on_child(self, seat: Seat) -> None:
        if seat.control is None:  # its death was heard in this same turn
            return
        said = seat.hear()
        if said is None:  # dead or dying: the fork server tells how
            self._selector.unregister(seat.control)
            return
        for word in said:
            if isinstance(word, list):
                self._on_dropped(seat, word)
            else:
                self._waiter.hungry(lambda: seat.tell(b"w"))

    def _on_dropped(self, seat: Seat, tokens: list[Any]) -> None:
        seat.dropped = tokens
        if self._given_back:  # late: the others' jobs are back already
            self._give_back(tokens)

    # -- children go ---------------------------------------------------------------------------------------------------

    def _on_died(self, pid: int, status: int) -> None:
        for seat in self._seats:
            if seat.pid == pid:
                self._lost(seat, status)

    def _lost(self, seat: Seat, status: int | None) -> None:
        """A child is gone: what it held is somebody else's now, and its seat is free."""
        if status != 0 and self._phase < Phase.INTERRUPT:
            log.warning("child %s: %s", seat.owner, cause_of_death(seat.pid, status).partition(": ")[2])
        if seat.control is not None and seat.control.fileno() in self._selector.get_map():
            self._selector.unregister(seat.control)
        self._done += seat.region.get(DONE)
        self._bury(seat, status)
        seat.vacate()

    def _bury(self, seat: Seat, status: int | None) -> None:
        """Hand what stands in shared memory now to the registrar, which settles, gives back and judges."""
        remains = seat.remains(status, ours=self._phase >= Phase.INTERRUPT)
        self._under_way += 1
        self._registrar.do(lambda: self._rescue(remains))

    def _rescue(self, remains: Remains) -> None:
        """(registrar)"""
        self._rescuer.rescue_own(remains)
        self._post(self._rescued)

    def _rescued(self) -> None:
        self._under_way -= 1

    def _nursery_died(self) -> None:
        """Its children carry PDEATHSIG; where the kernel has none, the end of their socket makes them leave."""
        assert self._nursery is not None
        log.error("the fork server died; its children die with it, and a new one starts")
        self._selector.unregister(self._nursery.control)
        self._nursery.close()
        for seat in self._seats:
            if seat.use is Use.TAKEN:
                seat.kill()
                seat.await_death()
                self._lost(seat, None)
        self._start_nursery()

    # -- stopping ------------------------------------------------------------------------------------------------------

    def _on_signals(self) -> None:
        for number in self._signals.take():
            name = signal.Signals(number).name
            if not self._phase:
                self._quiet(f"{name}: taking no more jobs; running jobs have {self._settings.grace:g} s to finish")
            elif self._phase is Phase.QUIET:
                log.info("%s again: running jobs are interrupted and go back to their queues", name)
                self._next_phase = time.monotonic()

    def _quiet(self, why: str) -> None:
        if self._phase:
            return
        log.info("%s", why)
        self._phase = Phase.QUIET
        self._quiet_since = time.monotonic()
        self._next_phase = self._quiet_since + self._settings.grace
        for seat in self._seats:
            seat.tell(b"q")

    def _stop_on(self, now: float) -> None:
        """One look at what the stop waits for."""
        silent = [seat for seat in self._seats if seat.use is Use.TAKEN and seat.dropped is None]
        if not self._given_back and (not silent or now >= self._quiet_since + QUIET_WAIT):
            self._given_back = True
            tokens = [token for seat in self._seats for token in seat.dropped or ()]
            self._give_back(tokens)
            log.info("quiet: %d buffered jobs go back, %d children have not answered", len(tokens), len(silent))
        if now >= self._next_phase:
            self._advance(now)

    def _give_back(self, tokens: list[Any]) -> None:
        """One script for the whole tree, so that the order stays."""
        if tokens:
            given = [tuple(token) for token in tokens]
            self._registrar.do(lambda: self._protocol.give_back(self._settings.worker, given))

    def _advance(self, now: float) -> None:
        """A phase's time is over."""
        self._next_phase = now + LAST_WORDS
        if self._phase is Phase.QUIET:
            self._phase = Phase.INTERRUPT
            for seat in self._seats:
                seat.tell(b"i")
        else:
            self._phase = Phase.KILL
            for seat in self._seats:
                seat.kill()

    # -- from other threads --------------------------------------------------------------------------------------------

    def _post(self, event: Callable[[], None]) -> None:
        """Let the main loop do this."""
        self._events.put(event)
        os.write(self._bell_write, b"!")

    def _on_bell(self) -> None:
        os.read(self._bell_read, 4096)
        while not self._events.empty():
            self._events.get()()
