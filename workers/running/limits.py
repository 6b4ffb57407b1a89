"""Interrupt a job: raise an exception in the thread that runs it, and only while it runs.

In the main thread, SIGALRM interrupts the slot: its handler raises, which also ends ``time.sleep`` and other blocking
calls. In any other thread CPython's asynchronous exception does, which is delivered between two bytecodes: a call that
blocks in C (``time.sleep``, ``recv``) ends first. The same is done to a job that has set a SIGALRM handler of its own.
The slot's lock and the job's claim number make sure that an interrupt that is meant for one job never hits the next.

The child watchdog checks the slots' deadlines each time that it wakes. (RQ's TimerDeathPenalty starts one OS thread per
job, which takes 257 us, and changes the exception's message for all threads: measured.)
"""

from __future__ import annotations

import ctypes
import signal
import threading
from _signal import getsignal  # type: ignore[import-not-found]  # signal.getsignal also looks for an enum: 25 times as long
from _signal import pthread_sigmask as sigmask
from _thread import get_ident  # the thread's, also where gevent has put a greenlet's in its place
from collections.abc import Callable
from operator import call
from types import FrameType
from typing import Any

from rq.timeouts import JobTimeoutException

from jobqueue import errors
from jobqueue.clock import monotonic
from jobqueue.workers.shared.copies import end_copy, this_is_the_original
from jobqueue.workers.shared.endings import JOB, THREAD_WRITTEN_OFF

# A function object of our own: argument types set on the one of ctypes.pythonapi would break RQ's TimerDeathPenalty.
_set_async_exc = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)

_SIGALRM = int(signal.SIGALRM)
_OF_TIMERS = (_SIGALRM, int(signal.SIGPROF), int(signal.SIGVTALRM), int(signal.SIGXCPU))
_SIG_BLOCK, _SIG_SETMASK = int(signal.SIG_BLOCK), int(signal.SIG_SETMASK)
CANNOT_BE_INTERRUPTED = f"It did not react: {THREAD_WRITTEN_OFF}."


class Interrupted(BaseException):
    """Raised in a job when the worker shuts down and the grace period is over: the job goes back to its queue."""


class Stopped(BaseException):
    """Raised in a job that was stopped on request."""


class CallbackStopped(JobTimeoutException):
    """Raised in a callback or exception handler when a stop of its job is requested: the job itself has ended."""

    def __init__(self, *args: Any) -> None:
        super().__init__(
            *(args or ("What was called behind the job's end was ended: somebody asked to stop the job.",))
        )


class WrittenOff(BaseException):
    """Raised in a thread that comes back from a callback after it was given up and replaced."""


OURS = (Interrupted, Stopped, WrittenOff)  # any other exception that user code raises is its own failure
PASSING = (*OURS, JobTimeoutException)  # raised by the child watchdog: code that calls user code lets these through


def time_limit_error(limit: float, subject: str = "The job") -> type[JobTimeoutException]:
    """Make an exception class whose text names the limit: CPython's asynchronous exceptions carry only a class.

    It is a subclass of RQ's JobTimeoutException, so that tasks and handlers written for RQ catch it.
    """
    text = errors.TimeLimitExceeded.sentence(limit, subject)

    class TimeLimitExceeded(JobTimeoutException):
        def __init__(self, *args: Any) -> None:
            super().__init__(*(args or (text,)))

    TimeLimitExceeded.__module__ = "jobqueue.errors"
    TimeLimitExceeded.__qualname__ = "TimeLimitExceeded"
    return TimeLimitExceeded


def _pass_through(lock: threading.Lock) -> None:
    """Wait until the lock is free. Acquire and release it in one call into C, as an interrupt may arrive here: up to
    CPython 3.14.10 at least, an exception that arrives as ``with lock:`` begins leaves the lock held for ever
    (python/cpython#148874; measured: one in four of those that arrive around one)."""
    both: tuple[Callable[[], object], ...] = (lock.acquire, lock.release)
    tuple(map(call, both))


class _Cancelled(BaseException):
    """Takes the place of an asynchronous exception that is cancelled."""


def _cancel_async_exc(thread: int) -> None:
    """(in this thread) Cancel an exception that is on its way, by another one, which is caught here. To set none is not
    enough: CPython 3.11 then loops for ever in the next code that runs under ``sys.setprofile`` (cProfile)."""
    try:
        _set_async_exc(thread, ctypes.py_object(_Cancelled))
        for _ in range(1000):  # it arrives at the end of a turn
            pass
    except _Cancelled:
        pass


class Interruptible:
    """The part of a slot that can be interrupted. Its own thread calls ``bind``, ``enter`` and ``leave``; any thread
    calls the rest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._in_main = False
        self._handlers: tuple[tuple[int, Any], ...] = ()  # of signals, in the main thread: a job may leave its own
        self._pending: type[BaseException] | None = None
        self._shots = 0  # interrupts that were tried, successful or not
        self._settled = 0  # how many of these have been dealt with by ``leave``
        self.was_aimed_at = False  # an interrupt was tried since ``enter``
        self.is_entered = False  # since ``enter``, no ``leave`` has come to its end
        self.target = 0  # what runs: a claim number, or a negative number for code of a finish; 0: nothing
        self.deadline = 0.0  # monotonic seconds, 0: none
        self.limit = 0.0  # seconds, <= 0: none
        self.what = JOB  # what runs under the limit
        self.written_off = False  # its thread did not react and was given up; another slot has its number

    @property
    def thread(self) -> int | None:
        """Python's identifier of the thread that runs this slot's jobs; None before ``bind``."""
        return self._thread

    def bind(self) -> None:
        """Make the calling thread the one that runs this slot's jobs."""
        this_is_the_original()
        self._thread = get_ident()
        self._in_main = threading.current_thread() is threading.main_thread()
        self._alarm = self._on_alarm
        if self._in_main:
            signal.signal(signal.SIGALRM, self._alarm)
            ours = ((number, getsignal(number)) for number in _OF_TIMERS)
            self._handlers = tuple((number, handler) for number, handler in ours if callable(handler))
            self._blocked = sigmask(_SIG_BLOCK, ())  # the signals that are blocked now: usually none

    def enter(self, target: int, limit: float) -> None:
        """Allow interrupts from now on. ``target``: a number that names what runs; limit: seconds, 0 or less: none."""
        if self._in_main:
            self.unblock()
            if getsignal(_SIGALRM) is not self._alarm:  # somebody has set a handler since ``leave``
                signal.signal(signal.SIGALRM, self._alarm)
        self.limit = limit
        self.is_entered = True
        self.was_aimed_at = False
        self.deadline = monotonic() + limit if limit > 0 else 0.0
        self.target = target

    def unblock(self) -> None:
        """Unblock signals that the last job may have blocked: SIGALRM, and those that ask us to stop. Main thread."""
        sigmask(_SIG_SETMASK, self._blocked)

    def leave(self) -> None:
        """Allow no interrupt any more, and cancel one that is on its way. The exception may arrive inside this call:
        then call it again. User code ends before this call, so a copy of the process that it forked exits here."""
        end_copy()
        self.target = 0
        self.deadline = 0.0
        if (shots := self._shots) != self._settled:
            _pass_through(self._lock)  # an ``interrupt`` that saw the target has raised its exception after this
            self._pending = None
            if self._thread is not None:
                _cancel_async_exc(self._thread)
            self._settled = shots
            self.was_aimed_at = True
        for number, handler in self._handlers:  # with a timer that is left too, it would raise in the next job
            if getsignal(number) is not handler:
                signal.signal(number, handler)
        self.is_entered = False

    def end_processes(self, since: float) -> None:
        """End the processes that user code started here since ``since`` (monotonic seconds). Slots override it."""

    def interrupt(self, target: int, error: type[BaseException]) -> bool:
        """Raise ``error`` in what runs as ``target``; return False if it does not run any more."""
        with self._lock:
            self._shots += 1  # before the target is read: ``leave`` clears the target before it reads this
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
