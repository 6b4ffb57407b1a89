"""How our engine in RQ's place sleeps while there is nothing to run: until a push, a signal, or a call of ``stir``."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator, Sequence

import redis

from jobqueue.network.silence import FIRST_ANSWER
from jobqueue.store.connection import like
from jobqueue.workers.roles.queue_waiter import QueueWaiter
from jobqueue.workers.shared.polling import readable


class IdleSleep:
    """Lets the main thread sleep. ``stir`` may be called by any thread, and by signal handlers."""

    def __init__(self, connection: redis.Redis, queues: Sequence[str]) -> None:
        self._connection = connection
        self._queues = tuple(queues)
        self._queue_waiter: QueueWaiter | None = None  # started when it is first waited for a push
        self._waits_for_push = False
        self._stirred, self._stirrer = socket.socketpair()
        self._stirred.setblocking(False)
        self._stirrer.setblocking(False)

    def call_at_push(self) -> None:
        """Have the next push to one of the queues stir."""
        if self._queue_waiter is None:
            self._queue_waiter = QueueWaiter(like(self._connection, FIRST_ANSWER), self._queues)
            self._queue_waiter.start()
        if not self._waits_for_push:
            self._waits_for_push = True
            self._queue_waiter.call_at_push(self._pushed)

    def sleep(self, most: float) -> None:
        """Sleep until somebody stirs, a signal comes, or for so many seconds. Raises OSError, ValueError when a job has
        closed what this waits on."""
        with _woken_by_signals(self._stirrer):
            stirred = readable([self._stirred.fileno()], most)
        if stirred:
            self._stirred.recv(4096)

    def stir(self) -> None:
        """Wake the main thread where it sleeps."""
        try:
            self._stirrer.send(b"!")
        except OSError:  # it is full of stirs, or we are closed
            pass

    def close(self, cut_off: bool) -> None:
        """End the waiter, and free the sockets. ``cut_off``: a job has closed what was open, and these numbers may be
        somebody else's by now."""
        if self._queue_waiter is not None:
            self._queue_waiter.stop(poke=not cut_off)
        for end in (self._stirred, self._stirrer):
            with contextlib.suppress(OSError):
                end.detach() if cut_off else end.close()

    def _pushed(self) -> None:
        self._waits_for_push = False
        self.stir()


@contextlib.contextmanager
def _woken_by_signals(wake: socket.socket) -> Iterator[None]:
    """While inside, each signal is a byte for ``wake``. One that comes just before a wait, or is taken by another
    thread, interrupts nothing, and its handler would run when the wait is over. Set for each wait, as jobs set their
    own (asyncio does). Raises OSError, ValueError when ``wake`` was closed."""
    before = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        try:
            signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        except (OSError, ValueError):  # it is closed by now
            signal.set_wakeup_fd(-1)
