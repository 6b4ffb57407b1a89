"""Let SIGTERM and SIGHUP end a command as Ctrl-C does, so that it gives back what it holds.

Without this the last user of the local store would leave its server to the watcher, a demo would leave its site, and so
on. A second signal ends the process at once.
"""

from __future__ import annotations

import _thread
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec

from jobqueue.cli.early import leave
from jobqueue.errors import ASKED, EndOfProcess

P = ParamSpec("P")
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
SOON = 0.005  # seconds until a signal is sent again that came where no exception can be raised


class Terminated(EndOfProcess):
    """A signal asks this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number
        self.exit_code = 128 + number


def _send_soon(number: int) -> None:
    """Send this process a signal from a thread, which is not waited for, as ``Thread.start`` would."""

    def send() -> None:
        time.sleep(SOON)
        os.kill(os.getpid(), number)

    _thread.start_new_thread(send, ())


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, let the first of these signals raise Terminated in the main thread. A signal that is ignored (nohup)
    stays ignored; the command may set handlers of its own."""
    ours = [number for number in _SIGNALS if signal.getsignal(number) in (signal.SIG_DFL, leave)]
    if threading.current_thread() is not threading.main_thread():
        ours = []

    def give_back(to: Any = signal.SIG_DFL) -> None:
        for number in ours:
            if signal.getsignal(number) in (end, once_more):
                signal.signal(number, to)

    def once_more(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    in_hook = False

    def end(number: int, _frame: object) -> None:
        if in_hook:
            _send_soon(number)
            return
        setattr(once_more, ASKED, number)
        give_back(once_more)
        raise Terminated(number)

    def unraisable(what: sys.UnraisableHookArgs) -> None:
        """Send the signal again: its exception was raised in a weakref's callback or a ``__del__``, which lost it. An
        exception in this hook would be lost too."""
        nonlocal in_hook
        if not isinstance(what.exc_value, Terminated):
            before(what)
            return
        in_hook = True
        for number in ours:
            if signal.getsignal(number) is once_more:
                signal.signal(number, end)
        _send_soon(what.exc_value.number)
        in_hook = False

    before, sys.unraisablehook = sys.unraisablehook, unraisable
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        give_back()
        sys.unraisablehook = before


def stops_as_asked(command: Callable[P, Any]) -> Callable[P, Any]:
    """Make a command that runs until it is stopped exit with 0 for a signal, also for one that comes while it starts or
    after its end."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            return command(*args, **kwargs)
        except Terminated:
            sys.exit(0)

    return run
