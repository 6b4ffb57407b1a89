"""Interrupting a job: an exception raised in the thread that runs it, and in nothing else.

A slot in the main thread is interrupted by SIGALRM, whose handler raises: that also wakes ``time.sleep`` and blocking
calls. Any other slot gets CPython's asynchronous exception, which is delivered between two bytecodes: a call blocked
in C (``time.sleep``, ``recv``) sees it when it returns. So does a job that took SIGALRM for itself. Both are fenced by
the slot's lock and by the job's claim number: an interruption meant for one job never hits the next.

The child watchdog looks at the slots' deadlines each time it wakes. (RQ's TimerDeathPenalty
starts one OS thread per job, 257 us, and overwrites the exception's message for everybody: measured.)
"""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from _signal import getsignal  # type: ignore[import-not-found]  # signal.getsignal also looks for an enum: 25 times as long
from _signal import pthread_sigmask as sigmask
from collections.abc import Callable
from operator import call
from types import FrameType
from typing import Any

from rq.timeouts import JobTimeoutException

from jobqueue.workers.running.copies import end_copy, this_is_the_original
from jobqueue.workers.shared.endings import JOB, time_limit_text

# A function object of our own: types set on ctypes.pythonapi's would be everybody's, and break RQ's TimerDeathPenalty.
_set_async_exc = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)

_SIGALRM = int(signal.SIGALRM)
_SIG_BLOCK, _SIG_SETMASK = int(signal.SIG_BLOCK), int(signal.SIG_SETMASK)
CANNOT_BE_INTERRUPTED = "It did not react: the thread that ran it was written off."


class Interrupted(BaseException):
    """Raised in a job that the worker takes back: it is shutting down and the grace is over."""


class Stopped(BaseException):
    """Raised in a job that somebody asked to be stopped."""


class CallbackStopped(JobTimeoutException):
    """Raised in a callback or handler when somebody asks to stop the job that it runs for: that has ended already."""

    def __init__(self, *args: Any) -> None:
        super().__init__(
            *(args or ("What was called behind the job's end was ended: somebody asked to stop the job.",))
        )


class WrittenOff(BaseException):
    """Raised in a thread that came back from a callback after another had taken its place."""


OURS = (Interrupted, Stopped, WrittenOff)  # everything else that comes out of user code is its own failure
PASSING = (*OURS, JobTimeoutException)  # raised by the child watchdog: who wraps user code lets these through


def time_limit_error(limit: float, subject: str = "The job") -> type[JobTimeoutException]:
    """A class whose instances say which limit it was: CPython's asynchronous exceptions carry only a class.

    A subclass of RQ's JobTimeoutException, so that tasks and handlers written for RQ catch it.
    """
    text = time_limit_text(limit, subject)

    class TimeLimitExceeded(JobTimeoutException):
        def __init__(self, *args: Any) -> None:
            super().__init__(*(args or (text,)))

    TimeLimitExceeded.__module__ = "jobqueue.errors"
    TimeLimitExceeded.__qualname__ = "TimeLimitExceeded"
    return TimeLimitExceeded


def _pass_through(lock: threading.Lock) -> None:
    """Wait until nobody holds the lock. Taken and given back in one call into C, because we may be interrupted: up to
    CPython 3.14.10 at least, an exception that arrives as ``with lock:`` begins leaves the lock held for ever
    (python/cpython#148874; measured: one in four of those that arrive around one)."""
    both: tuple[Callable[[], object], ...] = (lock.acquire, lock.release)
    tuple(map(call, both))


class Interruptible:
    """The part of a slot that can be interrupted. ``enter`` and ``leave`` in its own thread, the rest from any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._in_main = False
        self._pending: type[BaseException] | None = None
        self._shots = 0  # at this slot, whether they hit or not
        self._settled = 0  # so many of them can do nothing any more
        self.was_aimed_at = False  # since enter
        self.target = 0  # what runs, 0: nothing that may be interrupted
        self.deadline = 0.0  # monotonic seconds, 0: none
        self.limit = 0.0  # seconds, <= 0: none
        self.what = JOB  # what the limit is on
        self.written_off = False  # its thread did not react; another slot has its number

    @property
    def thread(self) -> int | None:
        """The thread that runs this slot's jobs, as Python numbers them; None before ``bind``."""
        return self._thread

    def bind(self) -> None:
        """Say that the calling thread is the one that runs this slot's jobs."""
        this_is_the_original()
        self._thread = threading.get_ident()
        self._in_main = threading.current_thread() is threading.main_thread()
        self._alarm = self._on_alarm
        if self._in_main:
            signal.signal(signal.SIGALRM, self._alarm)
            self._blocked = sigmask(_SIG_BLOCK, ())  # none, unless somebody wants it so

    def enter(self, target: int, limit: float) -> None:
        if self._in_main:
            self.unblock()
            if not self._has_the_alarm():  # or taken the alarm for itself
                signal.signal(signal.SIGALRM, self._alarm)
        self.limit = limit
        self.was_aimed_at = False
        self.deadline = time.monotonic() + limit if limit > 0 else 0.0
        self.target = target

    def unblock(self) -> None:
        """(main thread) Hear signals again that the last job may have blocked: the alarm, and who asks us to stop."""
        sigmask(_SIG_SETMASK, self._blocked)

    def leave(self) -> None:
        """Nothing may be interrupted any more; an exception on its way is called back. It may arrive in here: then
        leave again. All user code ends here, so a copy of this process that it forked does as well."""
        end_copy()
        self.target = 0
        self.deadline = 0.0
        if (shots := self._shots) != self._settled:
            _pass_through(self._lock)  # who aimed before the target was cleared has fired now
            self._pending = None
            if self._thread is not None:
                _set_async_exc(self._thread, ctypes.py_object())  # NULL: clears a pending one
            self._settled = shots
            self.was_aimed_at = True

    def end_processes(self, since: float) -> None:
        """End what was started by user code here at ``since`` (monotonic seconds) or later. A slot knows how."""

    def interrupt(self, target: int, error: type[BaseException]) -> bool:
        """Raise ``error`` in the job ``target``; False: it is no longer running."""
        with self._lock:
            self._shots += 1  # before the look at the target: leave() clears the target before it looks at this
            if self.target != target or self._thread is None:
                return False
            self._pending = error
            if self._in_main and self._has_the_alarm():
                signal.pthread_kill(self._thread, signal.SIGALRM)
            else:
                _set_async_exc(self._thread, ctypes.py_object(error))
            return True

    def _has_the_alarm(self) -> bool:
        return bool(getsignal(_SIGALRM) is self._alarm)

    def _on_alarm(self, _signum: int, _frame: FrameType | None) -> None:
        error, self._pending = self._pending, None
        if error is not None and self.target:
            raise error
