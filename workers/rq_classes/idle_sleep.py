"""Let an idle engine sleep until a push, a signal, or a call of ``stir``."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import Iterator, Sequence

import redis

from jobqueue.network.silence import FIRST_ANSWER
from jobqueue.store.connection import like
from jobqueue.workers.roles.queue_waiter import QueueWaiter
from jobqueue.workers.shared.polling import readable

log = logging.getLogger(__name__)

POLL = 1.0  # seconds between two looks for jobs, where no thread waits for them


class IdleSleep:
    """The sleep of the main thread. Any thread and signal handlers may call ``stir``."""

    def __init__(self, connection: redis.Redis, queues: Sequence[str], polls: bool) -> None:
        """polls: where the system starts no thread that waits for a push, sleep for a second at most instead; else
        raise RuntimeError."""
        self._connection = connection
        self._queues = tuple(queues)
        self._polls = polls
        self._must_poll = False  # the last attempt to start the waiter has failed
        self._queue_waiter: QueueWaiter | None = None
        self._is_started = False  # the waiter is started when it is first waited for a push
        self._waits_for_push = False
        self._stirred, self._stirrer = socket.socketpair()
        self._stirred.setblocking(False)
        self._stirrer.setblocking(False)

    def call_at_push(self) -> None:
        """Call ``stir`` at the next push to one of the queues."""
        if (self._is_started or self._start()) and not self._waits_for_push:
            self._waits_for_push = True
            self._waiter().call_at_push(self._pushed)

    def sleep(self, most: float) -> None:
        """Sleep until ``stir`` is called, a signal comes, or ``most`` seconds are over. Raises OSError, ValueError when
        a job has closed the sockets."""
        with _woken_by_signals(self._stirrer):
            stirred = readable([self._stirred.fileno()], min(most, POLL) if self._must_poll else most)
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

    def _start(self) -> bool:
        """Start the waiter; return whether that was possible. A job may have left no room for threads (``stack_size``,
        ``setrlimit``), so that the next call tries again."""
        try:
            self._waiter().start()
        except RuntimeError as e:
            if not self._polls:
                raise
            if not self._must_poll:
                self._must_poll = True
                log.warning("no thread can wait for jobs (%s): this worker looks for them every second", e)
            return False
        self._is_started, self._must_poll = True, False
        return True

    def _waiter(self) -> QueueWaiter:
        if self._queue_waiter is None:
            self._queue_waiter = QueueWaiter(like(self._connection, FIRST_ANSWER), self._queues)
        return self._queue_waiter

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
