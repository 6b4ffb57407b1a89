"""A child's second thread: it hears the supervisor, and it looks after jobs that take longer than a blink.

    every 5 ms while an unmarked job runs      start marks (DESIGN 3), the buffer behind a long job goes back
    at a job's deadline                        the time limit's exception
    as told by the supervisor                  wake, quiet, interrupt
    at the end of the supervisor's socket      leave: a child never outlives its supervisor

It never waits for Redis: what needs Redis is done by the clerk, a third thread that is started by the first job that
runs longer than 5 ms. Between long jobs it sleeps in ``select`` without a timeout; a slot that begins a job while it
sleeps that way stirs it.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence

from jobqueue.protocol import Claimed, Protocol
from workers.courier import LONG, Courier
from workers.limits import Interrupted, time_limit_error
from workers.patience import insist
from workers.settings import Settings
from workers.slot import Slot

log = logging.getLogger(__name__)

TICK = 0.005  # seconds; a job that runs longer is marked as started
RECONCILE_EVERY = 30.0


class Steward:
    """Ears, start marks, give-backs and limits of one child."""

    def __init__(
        self,
        settings: Settings,
        owner: str,
        control: socket.socket,
        courier: Courier,
        slots: Sequence[Slot],
        clerk: Clerk,
        on_orphaned: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._owner = owner
        self._control = control
        self._courier = courier
        self._slots = slots
        self._clerk = clerk
        self._on_orphaned = on_orphaned
        self._awake = True
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[0], False)
        os.set_blocking(self._pipe[1], False)
        self._fired: set[int] = set()  # claims that the limit has hit already
        self._returning = False  # a give-back is on its way
        self._next_reconcile = time.monotonic() + RECONCILE_EVERY

    def start(self) -> None:
        threading.Thread(target=self.run, name="jobq-steward", daemon=True).start()

    def stir(self) -> None:
        """Called by a slot that begins a job or a callback: from now on there is something to look after."""
        if not self._awake:
            self._awake = True
            try:
                os.write(self._pipe[1], b"!")
            except BlockingIOError:  # it is full of stirs already
                pass

    def hungry(self) -> None:
        self._tell(b"h")

    def run(self) -> None:
        while True:
            self._step(time.monotonic())
            timeout = self._next_look()
            if timeout is None or timeout > 2 * TICK:
                self._awake = False
                timeout = self._next_look()  # again: what began before the line above stirred nobody
            readable = select.select([self._control.fileno(), self._pipe[0]], [], [], timeout)[0]
            self._awake = True
            if self._pipe[0] in readable:
                os.read(self._pipe[0], 4096)
            if self._control.fileno() in readable:
                self._hear()

    # -- what it hears -------------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        try:
            heard = self._control.recv(4096)
        except OSError:
            heard = b""
        if not heard:
            self._on_orphaned()
        for order in heard:
            if order == ord("w"):
                self._courier.wake()
            elif order == ord("q"):
                self._clerk.do(self._quiet)
            elif order == ord("i"):
                self._interrupt()

    def _quiet(self) -> None:
        """(clerk) Claim nothing more; tell the supervisor what nobody started: the tree gives it back in one step."""
        dropped = self._courier.drop_buffer(quiet=True)
        tokens = [(self._owner, job.id, job.claim, job.queue) for job in dropped]
        self._tell(b"d" + json.dumps(tokens).encode() + b"\n")

    def _interrupt(self) -> None:
        for slot in self._slots:
            if job := slot.job:
                slot.interrupt(job.claim, Interrupted)

    def _tell(self, message: bytes) -> None:
        try:
            self._control.sendall(message)
        except OSError:  # the supervisor is gone: the end of its socket tells us so in a moment
            pass

    # -- what it looks after -------------------------------------------------------------------------------------------

    def _step(self, now: float) -> None:
        """Do what is due."""
        running = self._running()
        self._mark([(slot, job) for slot, job in running if slot.marked != job.claim and now - slot.since >= TICK])
        self._unburden(running, now)
        self._enforce(now)
        if now >= self._next_reconcile:
            self._next_reconcile = now + RECONCILE_EVERY
            self._clerk.do_if_awake(self._courier.reconcile)

    def _running(self) -> list[tuple[Slot, Claimed]]:
        return [(slot, job) for slot in self._slots if (job := slot.job) is not None]

    def _mark(self, due: list[tuple[Slot, Claimed]]) -> None:
        if not due:
            return
        marks = [slot.start_mark(job) for slot, job in due]
        for slot, job in due:
            slot.marked = job.claim
        self._clerk.do(lambda: self._clerk.protocol.start_mark(self._owner, self._settings.worker, marks))

    def _unburden(self, running: list[tuple[Slot, Claimed]], now: float) -> None:
        """All slots are busy with long jobs: what waits behind them is better off with somebody else."""
        if self._returning or len(running) < len(self._slots) or any(now - slot.since < LONG for slot, _ in running):
            return
        if self._courier.holds_up or self._courier.lets_wait:
            self._returning = True
            self._clerk.do(self._give_back)

    def _give_back(self) -> None:
        """(clerk)"""
        try:
            self._courier.settle()
            tokens = [(self._owner, job.id, job.claim, job.queue) for job in self._courier.drop_buffer()]
            self._clerk.do(lambda: self._clerk.give_back(tokens))
        finally:
            self._returning = False

    def _enforce(self, now: float) -> None:
        for slot in self._slots:
            token, deadline = slot.token, slot.deadline
            if token and deadline and now >= deadline and token not in self._fired:
                self._fired = {token} | {s.token for s in self._slots if s.token in self._fired}
                slot.interrupt(token, time_limit_error(slot.limit))

    def _next_look(self) -> float | None:
        """In how many seconds there is something to do; None: when something happens."""
        now = time.monotonic()
        if any(slot.marked != job.claim or now - slot.since < 2 * LONG for slot, job in self._running()):
            return TICK
        deadlines = [s.deadline - now for s in self._slots if s.deadline and s.token not in self._fired]
        waits = [max(TICK, d) for d in deadlines]
        if self._courier.holds_up or self._courier.lets_wait:
            waits.append(LONG)
        return min(waits) if waits else None


class Clerk:
    """The child's thread for slow errands to Redis; it is started by the first of them. It repeats until they succeed:
    each acts under its token, so doing it twice is doing it once."""

    def __init__(self, protocol: Protocol, worker: str) -> None:
        self.protocol = protocol
        self._worker = worker
        self._errands: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._started = False

    def do(self, errand: Callable[[], object]) -> None:
        if not self._started:
            self._started = True
            threading.Thread(target=self._run, name="jobq-clerk", daemon=True).start()
        self._errands.put(errand)

    def do_if_awake(self, errand: Callable[[], object]) -> None:
        """Only where the thread runs anyway: not worth starting it."""
        if self._started:
            self._errands.put(errand)

    def give_back(self, tokens: list[tuple[str, str, int, str]]) -> None:
        if tokens:
            self.protocol.give_back(self._worker, tokens)

    def _run(self) -> None:
        while True:
            errand = self._errands.get()
            insist(errand, "an errand to the store")
