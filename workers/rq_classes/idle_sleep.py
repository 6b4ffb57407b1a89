"""Let an idle engine sleep until a push, a signal, or a call of ``stir``."""

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
    """The sleep of the main thread. Any thread and signal handlers may call ``stir``."""

    def __init__(self, connection: redis.Redis, queues: Sequence[str]) -> None:
        self._connection = connection
        self._queues = tuple(queues)
        self._queue_waiter: QueueWaiter | None = None  # started when it is first waited for a push
        self._waits_for_push = False
        self._stirred, self._stirrer = socket.socketpair()
        self._stirred.setblocking(False)
        self._stirrer.setblocking(False)

    def call_at_push(self) -> None:
        """Call ``stir`` at the next push to one of the queues."""
        if self._queue_waiter is None:
            self._queue_waiter = QueueWaiter(like(self._connection, FIRST_ANSWER), self._queues)
            self._queue_waiter.start()
        if not self._waits_for_push:
            self._waits_for_push = True
            self._queue_waiter.call_at_push(self._pushed)

    def sleep(self, most: float) -> None:
        """Sleep until ``stir`` is called, a signal comes, or ``most`` seconds are over. Raises OSError, ValueError when
        a job has closed the sockets."""
        with _woken_by_signals(self._stirrer):
            stirred = readable([self._stirred.fileno()], most)
        if stirred:
            self._stirred.recv(4096)

    def stir(self) -> None:
        """Wake the main thread if it sleeps."""
        try:
            self._stirrer.send(b"!")
        except OSError:  # its buffer is full, so that the thread wakes anyway; or it is closed
            pass

    def close(self, cut_off: bool) -> None:
        """End the waiter, and close the sockets. ``cut_off``: a job has closed our descriptors, and their numbers may
        belong to other files now."""
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
    """While inside, make each signal send a byte to ``wake``. A signal that comes just before a wait, or that another
    thread gets, interrupts no wait, and its handler would run only after it. This is set for each wait, as jobs set
    their own (asyncio does). Raises OSError, ValueError when ``wake`` was closed."""
    before = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        try:
            signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        except (OSError, ValueError):  # it is closed by now
            signal.set_wakeup_fd(-1)
