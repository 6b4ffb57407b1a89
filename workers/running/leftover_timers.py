"""Survive the timers and the CPU limit that a job leaves behind: their signals would end the process, and the next job.

SIGPROF, SIGVTALRM   ``signal.setitimer`` without a handler: the timer is switched off
SIGXCPU              ``resource.setrlimit``: the limit is put back as it was; where a job may not do that, it is
                     raised as far as possible, and the process is replaced
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from types import FrameType

_TIMERS = {signal.SIGPROF: signal.ITIMER_PROF, signal.SIGVTALRM: signal.ITIMER_VIRTUAL}


def survive_leftovers(replace: Callable[[], object]) -> None:
    """Handle these signals from now on, unless a served module does. Main thread. ``replace`` is called in a signal
    handler, so it may wait for nothing."""
    for number in _TIMERS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _switch_off)
    if signal.getsignal(signal.SIGXCPU) is signal.SIG_DFL:
        signal.signal(signal.SIGXCPU, _CPULimit(replace).put_back)


def _switch_off(number: int, _frame: FrameType | None) -> None:
    signal.setitimer(_TIMERS[signal.Signals(number)], 0.0)


class _CPULimit:
    """The limit as it was before the first job."""

    def __init__(self, replace: Callable[[], object]) -> None:
        self._replace = replace
        self._before = resource.getrlimit(resource.RLIMIT_CPU)
        self._pid = os.getpid()

    def put_back(self, number: int, _frame: FrameType | None) -> None:
        now = resource.getrlimit(resource.RLIMIT_CPU)
        if now == self._before or os.getpid() != self._pid:  # it is from outside, or a process that a job has forked
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        try:
            resource.setrlimit(resource.RLIMIT_CPU, self._before)
        except (ValueError, OSError):  # only root raises the hard limit again
            resource.setrlimit(resource.RLIMIT_CPU, (now[1], now[1]))
            self._replace()
