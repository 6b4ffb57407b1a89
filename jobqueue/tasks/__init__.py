"""The built-in tasks, at the import path by which workers find them (``jobqueue.tasks.square``).

The functions here are thin: httpx2 and bs4 are imported when a job runs, so that a producer that only names a task does
not pay for them.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

BUILTIN: dict[str, str] = {
    "square": "jobqueue.tasks.square",
    "heavy": "jobqueue.tasks.heavy",
    "sleep": "jobqueue.tasks.sleep",
    "download": "jobqueue.tasks.download",
    "scrape": "jobqueue.tasks.scrape",
}

_SLICE = 0.05  # seconds; see sleep


def square(n: int | float) -> int | float:
    """Return n², the smallest job there is."""
    return _number("square", n) * n


def heavy(n: int | float) -> int:
    """Compute for about n milliseconds in pure Python, holding the GIL; return the same number for the same n."""
    from jobqueue.tasks.cpu import burn

    if not 0 <= _number("heavy", n) < 1e9:
        raise ValueError(f"heavy takes a number of milliseconds from 0 to a billion, not {n!r}.")
    return burn(n)


def sleep(seconds: int | float) -> int | float:
    """Sleep for so many seconds and return them.

    It sleeps in slices: an exception thrown into a thread (a time limit, a stop) arrives between two bytecodes and
    would otherwise have to wait for the whole sleep.
    """
    if not 0 <= _number("sleep", seconds) < 1e9:
        raise ValueError(f"sleep takes a number of seconds from 0 to a billion, not {seconds!r}.")
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, _SLICE))
    return seconds


def download(url: str, *, max_bytes: int | None = None, timeout: float = 60.0) -> dict[str, Any]:
    """Download a URL into ``JOBQ_DOWNLOAD_DIR`` (else ./downloads): {url, status, bytes, sha256, path}.

    max_bytes lowers the worker's own limit (``JOBQ_DOWNLOAD_MAX_MB``, 100); timeout is for the whole download, in
    seconds. Raises jobqueue.tasks.net.FetchFailed with a sentence for every cause, and then leaves no file.
    """
    found: dict[str, Any] = _fetch("download").download_to_disk(url, max_bytes, timeout)
    return found


def scrape(url: str, *, timeout: float = 60.0) -> dict[str, Any]:
    """Read an HTML page: {url, title, links}; links are absolute http(s) addresses, each once, in their order.

    Raises jobqueue.tasks.net.FetchFailed with a sentence for every cause.
    """
    found: dict[str, Any] = _fetch("scrape").read_page(url, timeout)
    return found


def _fetch(task: str) -> Any:
    """Import the module of the web tasks. Raises ExtraMissing."""
    from jobqueue.errors import ExtraMissing
    from jobqueue.tasks import extra

    try:
        from jobqueue.tasks import fetch
    except ModuleNotFoundError as e:
        if e.name in extra.LIBRARIES:
            raise ExtraMissing(f"{extra.missing([task])}.") from None
        raise
    return fetch


# -- for the demo and `jobq compare` -----------------------------------------------------------------------------

_count = 0
_count_lock = threading.Lock()


def count_here(seconds: float = 0.02) -> dict[str, int]:
    """Add one to a counter of this module; return the pid and the count. It waits so that other consumers get jobs too.

    Where consumers share their memory, all jobs see one counter; where they do not, each process has its own.
    """
    global _count
    with _count_lock:
        _count += 1
        seen = _count
    time.sleep(seconds)
    return {"pid": os.getpid(), "thread": threading.get_ident(), "count": seen}


def _number(task: str, value: Any) -> int | float:
    """Return the value if it is a number, else raise: ``jobq submit square abc`` sends a text, and its user needs a
    sentence."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{task} takes a number, not {value!r}.")
    return value
