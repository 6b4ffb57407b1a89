"""Threads of ours in a process that also runs code of the user's: real ones, which that code neither sees nor changes.

gevent and eventlet replace Python's threads by greenlets (``monkey.patch_all()``), in a served module or in a job: what
starts and locks a thread here is what Python had before. A hook for new threads (``threading.settrace``) is not called
in it. ``hide_own_threads`` takes ours out of ``threading.enumerate()``: a job that joins all threads there would wait
for ever, and gevent replaces the locks that Python's import holds only where no other thread is.
"""

from __future__ import annotations

import threading
from _thread import allocate_lock, get_ident, start_new_thread
from collections.abc import Callable
from typing import Any

import redis.client

_idents: set[int] = set()  # of our threads, as far as they run
_enumerate, _active_count = threading.enumerate, threading.active_count


class OwnThread:
    """What we need of ``threading.Thread``. It does not keep the process from its end."""

    def __init__(self, target: Callable[[], object], name: str) -> None:
        self._target = target
        self._name = name
        self._running = allocate_lock()

    def start(self) -> None:
        """Start the thread, once. Raises RuntimeError if the system has no thread to give now; then try again."""
        self._running.acquire()
        try:
            start_new_thread(self._run, ())
        except BaseException:
            self._running.release()
            raise

    def is_alive(self) -> bool:
        return self._running.locked()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended, or was never started, for so many seconds at most."""
        if self._running.acquire(timeout=-1 if timeout is None else timeout):
            self._running.release()

    def _run(self) -> None:
        ident = get_ident()
        _idents.add(ident)
        try:
            self._target()
        finally:
            _active().pop(ident, None)  # if it has logged, Python has made an entry for it
            _idents.discard(ident)
            self._running.release()

    def __repr__(self) -> str:
        return f"OwnThread({self._name})"


class OwnCondition(threading.Condition):
    """A condition on a plain lock, whose waits use locks of Python's own."""

    _waiters: Any

    def wait(self, timeout: float | None = None) -> bool:
        """Do what ``threading.Condition.wait`` does, which takes the new lock from where gevent replaces it."""
        waiter = allocate_lock()
        waiter.acquire()
        self._waiters.append(waiter)
        self.release()
        got_it = False
        try:
            got_it = waiter.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
            return got_it
        finally:
            self.acquire()
            if not got_it and waiter in self._waiters:
                self._waiters.remove(waiter)


def be_own_thread() -> None:
    """Make the calling thread one of ours, as far as others see it: it runs jobs, beside other slots."""
    _idents.add(get_ident())


def hide_own_threads() -> None:
    """Leave our threads, and the one in which redis-py hears for RQ, out of ``threading.enumerate`` and
    ``active_count``. Called in a process before it runs code of the user's; twice is harmless."""
    threading.enumerate, threading.active_count = _others, lambda: len(_others())


def show_own_threads() -> None:
    """Undo ``hide_own_threads``: the process goes on without us."""
    if threading.enumerate is _others:
        threading.enumerate, threading.active_count = _enumerate, _active_count


def _others() -> list[threading.Thread]:
    here = get_ident()
    return [it for it in _enumerate() if it.ident == here or not _is_ours(it)]


def _is_ours(thread: threading.Thread) -> bool:
    return thread.ident in _idents or isinstance(thread, redis.client.PubSubWorkerThread)


def _active() -> dict[Any, Any]:
    """Return Python's table of threads, which has no public name."""
    return getattr(threading, "_active", {})
