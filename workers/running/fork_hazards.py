"""Find what importing the served modules left in this process that a fork would not copy, or would share.

Threads are not copied: who waits for one waits for ever, also those that native code started (polars, OpenMP). Open
connections, pipes and files are shared: two children that read from one get each other's answers. Where either is
found, children import for themselves instead of being forked.
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

import psutil

from jobqueue.workers.running.open_descriptors import hazards_among, open_descriptors, opened_since
from jobqueue.workers.running.randomness import modules_of, name_of
from jobqueue.workers.shared.bare import attributes_of, has

_TASKS = "/proc/self/task"
MOST = 5  # that are named
LINGERS = 0.2  # seconds that the kernel may still list a thread that was joined
TRIAL = 5.0  # seconds for a process that only has to exit


class ForkHazards:
    """Looks at the process when it is made, and again when ``found`` is called."""

    def __init__(self) -> None:
        self._descriptors = open_descriptors()
        self._python_threads = threading.active_count()
        self._threads = _count_threads()

    def found(self, served: Iterable[str]) -> list[str]:
        """Return what the imports in between did, in words; empty: a fork is safe."""
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
        deadline = time.monotonic() + LINGERS
        while _count_threads() > self._threads:
            if time.monotonic() > deadline:
                return True
            time.sleep(0.01)
        return False

    def _a_fork_ends_them(self) -> bool:
        """Some libraries (OpenBLAS, which numpy brings) end their threads before a fork and start them again when they
        need them. Only a fork can tell."""
        return _forks_well() and _count_threads() <= self._threads


def in_words(texts: Iterable[str]) -> list[str]:
    """Each once, with how many there are."""
    return [text if n == 1 else f"{text} ({n} times)" for text, n in Counter(texts).items()]


def names_of(opened: Iterable[int], served: Iterable[str]) -> dict[int, str]:
    """Where the served modules keep what is open, by number of the descriptor."""
    wanted = set(opened)
    found: dict[int, str] = {}
    for module in modules_of(served) if wanted else ():
        for name, value in list(attributes_of(module).items()):
            if (number := _number_of(value)) in wanted:
                found.setdefault(number, f"{name_of(module)}.{name}")
    return found


def _number_of(value: Any) -> int:
    if not has(type(value), "fileno"):  # of its class: asking a lazy object itself might make it
        return -1
    try:
        number = value.fileno()
    except BaseException:  # it is closed, or has none; or code of the user's
        return -1
    return number if isinstance(number, int) else -1


def _count_threads() -> int:
    try:
        return len(os.listdir(_TASKS))
    except OSError:  # no Linux
        return psutil.Process().num_threads()


def _names_of_threads() -> str:
    names = set()
    try:
        for task in os.listdir(_TASKS):
            if int(task) != os.getpid():
                with open(f"{_TASKS}/{task}/comm") as file:
                    names.add(file.read().strip())
    except OSError:  # one has just ended, or no Linux
        pass
    return f" ({', '.join(sorted(names)[:3])})" if names else ""


def _forks_well() -> bool:
    """Fork a process that exits at once; tell whether it did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python's, about a fork beside threads: that is what is to be found out
        pid = os.fork()
    if pid == 0:
        os._exit(0)
    with contextlib.suppress(ChildProcessError):  # a module ignores SIGCHLD: the kernel has collected it
        return _ends(pid)
    return True


def _ends(pid: int) -> bool:
    deadline = time.monotonic() + TRIAL
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return False
        time.sleep(0.002)
    return True
