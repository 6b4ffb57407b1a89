"""Find the threads and open files that the import of the served modules left in this process.

A fork does not copy threads, also those of native code (polars, OpenMP): code that waits for one waits for ever. A fork
shares open connections, pipes and files: two children that read from one get each other's answers. Where either is
found, each child imports the modules itself instead of being forked from a process that has.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

from jobqueue.clock import monotonic
from jobqueue.workers.running.open_descriptors import hazards_among, open_descriptors, opened_since
from jobqueue.workers.running.randomness import modules_of, name_of
from jobqueue.workers.shared.bare import attributes_of, has

_TASKS = "/proc/self/task"
MOST = 5  # how many of them a message names
LINGERS = 0.2  # seconds for which the kernel may still list a thread that was joined
TRIAL = 5.0  # seconds that a process has which only exits


class ForkHazards:
    """Compare the process as it is when ``found`` is called with what it was when this object was made."""

    def __init__(self) -> None:
        self._descriptors = open_descriptors()
        self._python_threads = threading.active_count()
        self._threads = _count_threads()

    def found(self, served: Iterable[str]) -> list[str]:
        """Return the hazards that were added meanwhile, in words; empty: a fork is safe."""
        opened = hazards_among(opened_since(self._descriptors))
        names = names_of(opened, served)
        what = in_words([f"{text} ({names[number]})" if number in names else text for number, text in opened.items()])
        more = f" and {len(what) - MOST} more" if len(what) > MOST else ""
        left = f"left open {', '.join(what[:MOST])}{more}" if what else ""
        return [text for text in (self._started(), left) if text]

    def _started(self) -> str:
        if threading.active_count() > self._python_threads:
            return "started threads"
        if not self._more_threads() or self._a_fork_ends_them():
            return ""
        return f"started threads of native code{_names_of_threads()}"

    def _more_threads(self) -> bool:
        deadline = monotonic() + LINGERS
        while _count_threads() > self._threads:
            if monotonic() > deadline:
                return True
            time.sleep(0.01)
        return False

    def _a_fork_ends_them(self) -> bool:
        """Return whether the threads end before a fork and are started again when needed, as OpenBLAS (part of numpy)
        does: only a trial fork can tell."""
        return _forks_well() and _count_threads() <= self._threads


def in_words(texts: Iterable[str]) -> list[str]:
    """Return each different text once, with its count."""
    return [text if n == 1 else f"{text} ({n} times)" for text, n in Counter(texts).items()]


def names_of(opened: Iterable[int], served: Iterable[str]) -> dict[int, str]:
    """Return the names under which the served modules keep open descriptors, by the descriptor's number."""
    wanted = set(opened)
    found: dict[int, str] = {}
    for module in modules_of(served) if wanted else ():
        for name, value in list(attributes_of(module).items()):
            if (number := _number_of(value)) in wanted:
                found.setdefault(number, f"{name_of(module)}.{name}")
    return found


def _number_of(value: Any) -> int:
    if not has(type(value), "fileno"):  # ask the class: asking a lazy object itself might create it
        return -1
    try:
        number = value.fileno()
    except BaseException:  # it is closed, or has no descriptor; or the user's own code raised
        return -1
    return number if isinstance(number, int) else -1


def _count_threads() -> int:
    try:
        return len(os.listdir(_TASKS))
    except OSError:  # not Linux
        import psutil

        return psutil.Process().num_threads()


def _names_of_threads() -> str:
    names = set()
    try:
        for task in os.listdir(_TASKS):
            if int(task) != os.getpid():
                with open(f"{_TASKS}/{task}/comm") as file:
                    names.add(file.read().strip())
    except OSError:  # a thread has just ended, or this is not Linux
        pass
    return f" ({', '.join(sorted(names)[:3])})" if names else ""


def _forks_well() -> bool:
    """Fork a process that exits at once; return whether it did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of a fork in a process with threads
        pid = os.fork()
    if pid == 0:
        os._exit(0)
    with contextlib.suppress(ChildProcessError):  # where SIGCHLD is ignored, the kernel has collected it already
        return _ends(pid)
    return True


def _ends(pid: int) -> bool:
    deadline = monotonic() + TRIAL
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        if monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return False
        time.sleep(0.002)
    return True
