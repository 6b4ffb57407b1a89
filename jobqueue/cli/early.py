"""A signal in the first moments of `jobq worker` and `jobq cron`: to leave as asked is no failure then either.

Imported before everything else of the command line, which takes a good part of a second; it imports next to nothing.
"""

from __future__ import annotations

import os
import signal
import threading

UNTIL_STOPPED = ("worker", "cron")  # commands that run until somebody stops them
_PROGRAMS = ("jobq", "-m", "__main__.py")  # what argv[0] is while this package is imported, and later
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def leave(_number: int, _frame: object) -> None:
    """(signal handler) Nothing is open yet, and nobody has to be told."""
    os._exit(0)


def runs_until_stopped(words: list[str]) -> bool:
    """Tell whether this command line, without the program's name, is of such a command."""
    return words[:1] != [] and words[0] in UNTIL_STOPPED


def leave_as_asked(argv: list[str]) -> None:
    """Leave with 0 on the first signal, until the command has handlers of its own. Only where this process is such a
    command, and has no handler yet."""
    is_ours = bool(argv) and os.path.basename(argv[0]) in _PROGRAMS and runs_until_stopped(argv[1:])
    if is_ours and threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, leave)
