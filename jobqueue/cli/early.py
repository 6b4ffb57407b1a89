"""Handle signals in the first and last moments of a command: without this, Ctrl-C while modules are imported prints a
traceback.

`jobq worker`, `jobq cron` and `jobq exporter` leave with exit code 0, as at any other time; Ctrl-C ends
other commands with 130.

This is imported before everything else of the command line, which takes a good part of a second; so it imports next to
nothing itself.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False  # importing typing takes a while
if TYPE_CHECKING:
    from collections.abc import Callable

    Handler = Callable[[int, object], None]

UNTIL_STOPPED = ("worker", "cron", "exporter")  # commands that run until somebody stops them
_PROGRAMS = ("jobq", "-m", "__main__.py")  # what argv[0] is while this package is imported, and later
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


INTERRUPTED = 130


def leave(_number: int, _frame: object) -> None:
    """(signal handler) Exit at once: nothing is open yet."""
    os._exit(0)


def leave_interrupted(_number: int, _frame: object) -> None:
    """(signal handler) Exit at once on Ctrl-C, when nothing has to be closed. The terminal shows ^C, so end that
    line."""
    try:
        os.write(2, b"\n")
    finally:
        os._exit(INTERRUPTED)


def runs_until_stopped(words: list[str]) -> bool:
    """Return whether this command line, without the program's name, is that of a command which runs until it is
    stopped."""
    return words[:1] != [] and words[0] in UNTIL_STOPPED


def is_program(argv: list[str]) -> bool:
    """Return whether this process is a `jobq` command, and not a program that calls the command line."""
    return bool(argv) and os.path.basename(argv[0]) in _PROGRAMS


def leave_as_asked(argv: list[str]) -> None:
    """Exit on the first signal, until the command has handlers of its own. Only where this process is a `jobq` command,
    in its main thread, and has no handler yet. Signals that were blocked by who started it are heard."""
    if not is_program(argv):
        return
    try:
        if runs_until_stopped(argv[1:]):
            leave_on_interrupt(leave)
            for number in _SIGNALS:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, leave)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, *_SIGNALS))  # whoever started it may block them
        else:
            leave_on_interrupt()
    except ValueError:  # not the main thread (found out this way because importing threading takes a while)
        pass


def leave_on_interrupt(handler: Handler = leave_interrupted) -> None:
    """From now on, let Ctrl-C end this process at once, unless it is ignored or handled by others."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, handler)


def is_leaving() -> bool:
    """Return whether Ctrl-C ends this process at once."""
    return signal.getsignal(signal.SIGINT) in (leave, leave_interrupted)


def raise_on_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, where it was to end this process at once."""
    if is_leaving():
        signal.signal(signal.SIGINT, signal.default_int_handler)
