"""End the copies that user code makes of a process that runs jobs: ``os.fork`` returns in both.

The copy has every socket and the shared page of its original, and would continue as a second worker of the same name.
So it ends where the user's code returns, as a child of ``multiprocessing`` does: with the exit code that this code asks
for, and without sending or writing anything to the store, the supervisor or the page.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from os import getpid

_original = 0  # the pid of the process that runs jobs; 0: not known yet


def this_is_the_original() -> None:
    """Note this process as the original. Call it before the process runs user code."""
    global _original
    _original = getpid()


def end_copy() -> None:
    """Exit if this process is a copy. Call it after user code, also after an exception."""
    if getpid() != _original != 0:
        _leave(sys.exc_info()[1])


def end_copy_of(original: int) -> None:
    """Exit if this process is not the one with the pid ``original``: for code outside of processes that run jobs."""
    if getpid() != original:
        _leave(sys.exc_info()[1])


def _leave(error: BaseException | None) -> None:
    """Exit without clean-up: the exit handlers are the original's."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(5)  # ends this process if a flush hangs: a stream's lock that another thread held stays held here
    code = 0
    with contextlib.suppress(BaseException):
        code = _exit_code(error)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _exit_code(error: BaseException | None) -> int:
    """Return the exit code that Python gives a program that ends with this exception; print what it prints."""
    if error is None:
        return 0
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
        return 1
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    print(error.code, file=sys.stderr)
    return 1
