"""Copies of a process that runs jobs: user code may call ``os.fork`` and return twice.

The copy has every socket and every page of its original, and would go on as a second worker of the same name. So it
ends where the user's code ends, as a child of ``multiprocessing`` does: with the exit code that the code gave it, and
without a word to the store, the supervisor, or the page.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from os import getpid

_original = 0  # the process that runs jobs here; 0: none yet


def this_is_the_original() -> None:
    """Called where a process begins to run user code; what is forked in that code is a copy."""
    global _original
    _original = getpid()


def end_copy() -> None:
    """Called behind user code, also when that raised: in a copy of the process it does not return."""
    if getpid() != _original != 0:
        _leave(sys.exc_info()[1])


def end_copy_of(original: int) -> None:
    """Likewise, where the process in which that code began is not one that runs jobs."""
    if getpid() != original:
        _leave(sys.exc_info()[1])


def _leave(error: BaseException | None) -> None:
    """Without clean-up: what is registered for the end of the process is the original's."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(5)  # the lock of a stream, held by another thread at the fork, is held for ever here
    code = 0
    with contextlib.suppress(BaseException):
        code = _exit_code(error)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _exit_code(error: BaseException | None) -> int:
    """As Python's own end of a program."""
    if error is None:
        return 0
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
        return 1
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    print(error.code, file=sys.stderr)
    return 1
