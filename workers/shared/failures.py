"""Handle unexpected failures in this process: log each once with its traceback, try again with backoff, and report it
to the health check until it works again.

If a thread or a role ended with an unexpected exception, the process would look alive and do nothing. So every thread
runs under ``keep_going``, and every role with the same record: after an exception they pause and continue. A thread
that cannot continue ends the process itself.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable

from jobqueue.network.backoff import Backoff

log = logging.getLogger(__name__)

FIRST, MOST = 0.5, 30.0  # seconds between two attempts after an unexpected failure


class Failures:
    """The failures that have not ended. Any thread may call it. ``on_change`` is called when ``why`` has changed."""

    def __init__(self, on_change: Callable[[], object] = lambda: None) -> None:
        self._on_change = on_change
        self._backoffs: dict[str, Backoff] = {}
        self._said: dict[str, str] = {}

    def failed(self, who: str, error: BaseException) -> float:
        """Record that ``who`` failed; return the seconds to wait before the next attempt."""
        backoff = self._backoffs.setdefault(who, Backoff(FIRST, MOST))
        pause, text = backoff.failed(), describe(error)
        if self._said.get(who) != text:
            log.error("%s failed and is tried again: %s", who, text, exc_info=None if is_a_shortage(error) else error)
            self._said[who] = text
            self._on_change()
        elif backoff.failures & (backoff.failures - 1) == 0:  # log the 2nd, 4th, 8th, ... failure only
            log.warning("%s failed again (%d times in a row): %s", who, backoff.failures, text)
        return pause

    def works(self, who: str) -> None:
        """Record that ``who`` works again."""
        if self._said.pop(who, None) is not None:
            del self._backoffs[who]
            log.info("%s works again", who)
            self._on_change()

    def why(self) -> str:
        """Return what fails now and why; "" when nothing does."""
        return "; ".join(f"{who} fails: {text}" for who, text in sorted(self._said.items()))


def is_a_shortage(error: BaseException) -> bool:
    """Return whether the system has no more memory, threads or files: a traceback would not explain that."""
    if isinstance(error, OSError):
        return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
    return isinstance(error, MemoryError) or "can't start new thread" in str(error)


def describe(error: BaseException) -> str:
    """Return the error's class and its first line, shortened."""
    try:
        said = (str(error).splitlines() or [""])[0]
    except Exception as e:
        said = f"its text cannot be had: {type(e).__name__}"
    return f"{type(error).__name__}: {said[:200]}" if said else type(error).__name__


def keep_going(who: str, body: Callable[[], object], failures: Failures, over: threading.Event) -> None:
    """Call ``body`` until it returns. When it raises, call it again with backoff, until ``over`` is set."""
    while not over.is_set():
        try:
            body()
        except Exception as e:
            over.wait(failures.failed(who, e))
        else:
            return
