"""A signal in the first and last moments of a command, outside of what it does: no traceback of half an import.

`jobq worker` and `jobq cron` leave as they were asked, which is no failure then either; Ctrl-C ends others with 130.

Imported before everything else of the command line, which takes a good part of a second; it imports next to nothing.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False  # typing takes its time to import
if TYPE_CHECKING:
    from collections.abc import Callable

    Handler = Callable[[int, object], None]

UNTIL_STOPPED = ("worker", "cron")  # commands that run until somebody stops them
_PROGRAMS = ("jobq", "-m", "__main__.py")  # what argv[0] is while this package is imported, and later
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


INTERRUPTED = 130


def leave(_number: int, _frame: object) -> None:
    """(signal handler) Nothing is open yet, and nobody has to be told."""
    os._exit(0)


def leave_interrupted(_number: int, _frame: object) -> None:
    """(signal handler) Ctrl-C, with nothing open that would have to be closed. The terminal shows ^C: end that line."""
    try:
        os.write(2, b"\n")
    finally:
        os._exit(INTERRUPTED)


def runs_until_stopped(words: list[str]) -> bool:
    """Tell whether this command line, without the program's name, is of such a command."""
    return words[:1] != [] and words[0] in UNTIL_STOPPED


def leave_as_asked(argv: list[str]) -> None:
    """Leave on the first signal, until the command has handlers of its own. Only where this process is a command of
    ours, in its main thread, and has no handler yet."""
    if not argv or os.path.basename(argv[0]) not in _PROGRAMS:
        return
    try:
        if runs_until_stopped(argv[1:]):
            leave_on_interrupt(leave)
            for number in _SIGNALS:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, leave)
        else:
            leave_on_interrupt()
    except ValueError:  # not the main thread (asked this way, as threading takes its time to import)
        pass


def leave_on_interrupt(handler: Handler = leave_interrupted) -> None:
    """From now on Ctrl-C ends this process at once, unless somebody ignores or handles it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, handler)


def is_leaving() -> bool:
    """Tell whether Ctrl-C ends this process at once."""
    return signal.getsignal(signal.SIGINT) in (leave, leave_interrupted)


def raise_on_interrupt() -> None:
    """Let Ctrl-C be a KeyboardInterrupt again, where it was to end this process."""
    if is_leaving():
        signal.signal(signal.SIGINT, signal.default_int_handler)
