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

import json
import logging
import os
import queue
import selectors
import signal
import socket
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from jobqueue import keys
from jobqueue.connection import Store
from jobqueue.protocol import Protocol
from workers.heartbeat import Heartbeat
from workers.journal import DONE, Region, make_file
from workers.nursery import Nursery
from workers.periodic import Periodic, Step
from workers.rescuer import Remains, Rescuer, cause_of_death
from workers.scheduler import Scheduler
from workers.settings import Settings
from workers.signals import Signals
from workers.waiter import Waiter

log = logging.getLogger(__name__)

LAST_WORDS = 2.0  # seconds between the interrupt and the kill
GIVE_UP = 5.0  # seconds for the last errands, when the store is away
QUIET_WAIT = 0.5  # seconds to hear from all children what they dropped, so that it goes back in one step


class Phase(IntEnum):
    """In the order in which they come; each is entered once."""

    RUNNING = 0
    QUIET = 1  # claim nothing, let running jobs finish
    INTERRUPT = 2  # out of grace: interrupt
    KILL = 3


class Seat:
    """One child's place. Its process comes and goes; each incarnation has a name of its own."""

    def __init__(self, number: int, region: Region) -> None:
        self.number = number
        self.region = region
        self.incarnation = 0
        self.owner = ""
        self.pid = 0
        self.control: socket.socket | None = None
        self.unread = b""
        self.dropped: list[Any] | None = None
        self.born = 0.0
        self.short_lives = 0

    @property
    def alive(self) -> bool:
        return self.control is not None


class Supervisor:
    """Runs one worker tree. ``run`` returns the exit code."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._signals = Signals()
        self._selector = selectors.DefaultSelector()
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()  # from the registrar's thread
        self._bell_read, self._bell_write = os.pipe()
        self._pages = make_file(settings.children, settings.slots)
        self._seats = [Seat(n, Region(self._pages, n, settings.slots)) for n in range(settings.children)]
        client = store.client()
        self._protocol = Protocol(client)
        self._client = client
        self._heartbeat = Heartbeat(settings, client, lambda: any(seat.region.running() for seat in self._seats))
        self._rescuer = Rescuer(settings, client)
        roles: list[Step] = [self._heartbeat, self._rescuer]
        if settings.scheduler:
            roles.append(Scheduler(settings, client))
        self._registrar = Periodic("jobq-registrar", roles)
        self._waiter = Waiter(store.client(socket_timeout=None), settings.queues)
        self._nursery: Nursery | None = None
        self._ready = False
        self._phase = Phase.RUNNING
        self._next_phase = 0.0  # monotonic seconds
        self._checking = False
        self._given_back = False
        self._rescues = 0  # errands under way

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

    def _start_nursery(self) -> None:
        self._ready = False
        self._nursery = Nursery(self._settings, self._pages)
        self._selector.register(self._nursery.control, selectors.EVENT_READ, self._on_nursery)

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._patience()):
            key.data()
        now = time.monotonic()
        if self._settings.burst and self._phase is Phase.RUNNING:
            self._check_burst()
        if self._phase and not self._given_back and (self._all_dropped() or now >= self._quiet_since + QUIET_WAIT):
            self._give_back_dropped()
        if self._phase and now >= self._next_phase:
            self._advance()

    def _patience(self) -> float | None:
        if self._phase:
            return max(0.0, min(self._next_phase - time.monotonic(), 0.1))
        return 0.05 if self._settings.burst else None

    def _over(self) -> bool:
        if not self._phase or any(seat.alive for seat in self._seats):
            return False
        return self._rescues == 0 or time.monotonic() > self._next_phase + GIVE_UP

    def _close(self) -> int:
        self._waiter.stop()
        if self._registrar_started:
            self._registrar.do(self._heartbeat.death)
            if self._rescues or not self._registrar.stop(GIVE_UP):
                log.error(
                    "the store does not answer: what this worker held is rescued by the next worker's lease watch"
                )
                return 1
        self._say_goodbye()
        return 0

    def _say_goodbye(self) -> None:
        log.info("done: %d jobs", sum(self._totals))

    _registrar_started = False
    _quiet_since = 0.0
    _totals: tuple[int, ...] = ()

    # -- children come -------------------------------------------------------------------------------------------------

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
        if not self._registrar_started:
            self._registrar_started = True
            self._registrar.do(self._heartbeat.birth)
            self._registrar.start()
        for seat in self._seats:
            self._fill(seat)

    def _fill(self, seat: Seat) -> None:
        """A new name first, in Redis; the process only when the name stands there."""
        if self._phase:
            return
        seat.incarnation += 1
        seat.owner = owner = f"{self._settings.worker}:{seat.number}.{seat.incarnation}"

        def add() -> None:
            self._heartbeat.add_owner(owner)
            self._post(lambda: self._fork(seat, owner))

        self._registrar.do(add)

    def _fork(self, seat: Seat, owner: str) -> None:
        if self._phase or not self._ready or self._nursery is None or seat.owner != owner:
            self._bury(seat, owner, None, 0)
            return
        seat.region.wipe()
        seat.dropped = None
        seat.unread = b""
        seat.born = time.monotonic()
        seat.control = self._nursery.fork(owner, seat.number)
        self._selector.register(seat.control, selectors.EVENT_READ, lambda: self._on_child(seat))

    def _on_forked(self, owner: str, pid: int) -> None:
        for seat in self._seats:
            if seat.owner == owner:
                seat.pid = pid

    # -- children speak ------------------------------------------------------------------------------------------------

    def _on_child(self, seat: Seat) -> None:
        if seat.control is None:  # its death was heard in this same turn
            return
        try:
            heard = seat.control.recv(65536)
        except OSError:
            heard = b""
        if not heard:  # it is dead or dying: the fork server tells us its status
            self._selector.unregister(seat.control)
            return
        seat.unread += heard
        while seat.unread:
            if seat.unread.startswith(b"h"):
                seat.unread = seat.unread[1:]
                self._waiter.hungry(lambda: self._tell(seat, b"w"))
            elif seat.unread.startswith(b"d"):
                line, newline, rest = seat.unread[1:].partition(b"\n")
                if not newline:
                    return
                seat.unread = rest
                self._on_dropped(seat, json.loads(line))

    def _on_dropped(self, seat: Seat, tokens: list[Any]) -> None:
        seat.dropped = tokens
        if self._given_back and tokens:  # late: the others' jobs are back already
            self._give_back(tokens)

    def _tell(self, seat: Seat, order: bytes) -> None:
        """From any thread."""
        try:
            if control := seat.control:
                control.send(order)
        except OSError:  # it died; the fork server tells us
            pass

    # -- children go ---------------------------------------------------------------------------------------------------

    def _on_died(self, pid: int, status: int) -> None:
        for seat in self._seats:
            if seat.pid == pid and seat.alive:
                self._lost(seat, status)

    def _lost(self, seat: Seat, status: int | None) -> None:
        """A child is gone: its seat is free, and what it held is somebody else's now."""
        clean = status == 0
        if not clean and self._phase < Phase.INTERRUPT:
            log.warning("child %s: %s", seat.owner, cause_of_death(seat.pid, status).partition(": ")[2])
        self._hang_up(seat)
        self._totals = (*self._totals, seat.region.get(DONE))
        self._bury(seat, seat.owner, status, seat.pid)
        seat.pid = 0
        if not self._phase:
            self._fill_soon(seat)

    def _hang_up(self, seat: Seat) -> None:
        assert seat.control is not None
        try:
            self._selector.unregister(seat.control)
        except KeyError:  # its end was seen before
            pass
        seat.control.close()
        seat.control = None

    def _bury(self, seat: Seat, owner: str, status: int | None, pid: int) -> None:
        """Hand the dead child's remains, as they stand in shared memory now, to the registrar."""
        ours = self._phase >= Phase.INTERRUPT
        remains = Remains(
            owner,
            [running.claim for running in seat.region.running()] if pid else [],
            list(seat.region.journal.read()) if pid else [],
            "ShutdownInterrupt: The worker shut down while this job ran." if ours else cause_of_death(pid, status),
            counted=not ours,
        )
        self._rescues += 1

        def rescue() -> None:
            self._rescuer.rescue_own(remains)
            self._post(self._rescued)

        self._registrar.do(rescue)

    def _rescued(self) -> None:
        self._rescues -= 1

    def _fill_soon(self, seat: Seat) -> None:
        """At once, unless children keep dying young: then wait a little longer each time, 5 s at most."""
        young = time.monotonic() - seat.born < 1.0 and seat.region.get(DONE) == 0
        seat.short_lives = seat.short_lives + 1 if young else 0
        if seat.short_lives < 3:
            self._fill(seat)
            return
        delay = min(5.0, 0.1 * 2**seat.short_lives)
        log.warning("child %d keeps dying as soon as it starts; the next one starts in %.1f s", seat.number, delay)
        self._registrar.do(lambda: time.sleep(delay))
        self._fill(seat)

    def _nursery_died(self) -> None:
        """Its children carry PDEATHSIG; where the kernel has none, the end of the control socket makes them leave."""
        assert self._nursery is not None
        log.error("the fork server died; its children die with it, and a new one starts")
        self._selector.unregister(self._nursery.control)
        self._nursery.close()
        for seat in self._seats:
            if seat.alive:
                self._await_death(seat)
                self._lost(seat, None)
        self._start_nursery()

    def _await_death(self, seat: Seat) -> None:
        """Nothing may be rescued from a process that still runs: its end of the socket closes when it is gone."""
        assert seat.control is not None
        if seat.pid:
            try:
                os.kill(seat.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        seat.control.settimeout(5)
        try:
            while seat.control.recv(65536):
                pass
        except OSError:
            pass

    # -- stopping ------------------------------------------------------------------------------------------------------

    def _on_signals(self) -> None:
        for number in self._signals.take():
            name = signal.Signals(number).name
            if not self._phase:
                log.info("%s: taking no more jobs; running jobs have %g s to finish", name, self._settings.grace)
                self._quiet()
            elif self._phase is Phase.QUIET:
                log.info("%s again: running jobs are interrupted and go back to their queues", name)
                self._next_phase = time.monotonic()

    def _quiet(self) -> None:
        self._phase = Phase.QUIET
        self._quiet_since = time.monotonic()
        self._next_phase = self._quiet_since + self._settings.grace
        for seat in self._seats:
            self._tell(seat, b"q")

    def _all_dropped(self) -> bool:
        return all(seat.dropped is not None or not seat.alive for seat in self._seats)

    def _give_back_dropped(self) -> None:
        """One script for the whole tree, so that the order stays."""
        self._given_back = True
        self._give_back([token for seat in self._seats for token in seat.dropped or ()])

    def _give_back(self, tokens: list[Any]) -> None:
        if tokens and self._registrar_started:
            self._registrar.do(lambda: self._protocol.give_back(self._settings.worker, [tuple(t) for t in tokens]))

    def _advance(self) -> None:
        """The deadline of a phase has come."""
        if self._phase is Phase.QUIET:
            self._phase = Phase.INTERRUPT
            self._next_phase = time.monotonic() + LAST_WORDS
            for seat in self._seats:
                self._tell(seat, b"i")
        elif self._phase is Phase.INTERRUPT:
            self._phase = Phase.KILL
            for seat in self._seats:
                if seat.alive and seat.pid:
                    os.kill(seat.pid, signal.SIGKILL)
            self._next_phase = time.monotonic() + LAST_WORDS

    # -- burst ---------------------------------------------------------------------------------------------------------

    def _check_burst(self) -> None:
        """All children at rest and the queues empty, before and after: then it is over."""
        if self._checking or not self._at_rest():
            return
        self._checking = True
        before = self._progress()

        def check() -> None:
            empty = self._queues_are_empty()
            self._post(lambda: self._burst_checked(empty, before))

        self._registrar.do(check)

    def _at_rest(self) -> bool:
        return self._ready and all(seat.alive and seat.region.at_rest for seat in self._seats)

    def _progress(self) -> list[int]:
        return [seat.region.get(DONE) for seat in self._seats]

    def _queues_are_empty(self) -> bool:
        """Suspended and paused queues count as empty, as in RQ: nobody would ever take from them."""
        paused = self._client.smembers(keys.PAUSED)
        with self._client.pipeline(transaction=False) as pipe:
            pipe.exists(keys.SUSPENDED)
            for seat in self._seats:
                pipe.exists(keys.own(seat.owner))
            for name in self._settings.queues:
                if name.encode() not in paused:
                    pipe.llen(keys.queue(name))
            suspended, *counts = pipe.execute()
        held, waiting = counts[: len(self._seats)], counts[len(self._seats) :]
        return not any(held) and bool(suspended or not any(waiting))

    def _burst_checked(self, empty: bool, before: list[int]) -> None:
        self._checking = False
        if empty and self._at_rest() and before == self._progress() and not self._phase:
            self._quiet()

    # -- the registrar's thread posts ----------------------------------------------------------------------------------

    def _post(self, event: Callable[[], None]) -> None:
        """From any thread: let the main loop do this."""
        self._events.put(event)
        os.write(self._bell_write, b"!")

    def _on_bell(self) -> None:
        os.read(self._bell_read, 4096)
        while True:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return
            event()
