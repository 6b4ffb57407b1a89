"""Set process titles: `ps` and `top` tell a worker's processes apart if setproctitle is installed (the extra
``titles``)."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from jobqueue.words import TITLE


class Title:
    """The title of this process: which of the worker's processes it is, and what it is doing.

    The environment keeps its place after the arguments, where others read it (/proc/PID/environ): a title is cut off
    at the length of the command line. Where it would be, it has no worker's name.
    """

    def __init__(self, worker: str, role: str) -> None:
        """Show the title. Make it once per process, before it runs any code of the user's."""
        self._role, self._worker, self._room = f"{TITLE}{role}", worker, _room()
        before = os.environ.get("SPT_NOENV")
        os.environ["SPT_NOENV"] = "1"  # read when the first title is set
        self._set = setter()
        try:
            self.show()
        finally:
            if before is None:
                del os.environ["SPT_NOENV"]
            else:
                os.environ["SPT_NOENV"] = before

    def show(self, doing: str = "") -> None:
        """Show what this process is doing; "": nothing to show. Does nothing if setproctitle is missing."""
        if self._set is not None:
            end = f", {doing}" if doing else ""
            text = f"{self._role} of {self._worker}{end}"
            self._set(text if len(text.encode()) <= self._room else f"{self._role}{end}")

    @property
    def is_shown(self) -> bool:
        """Whether setproctitle is installed."""
        return self._set is not None


@cache
def setter() -> Callable[[str], object] | None:
    """Return setproctitle's function; None: it is not installed. Forked processes need not look for it again."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        return None
    set_title: Callable[[str], object] = setproctitle
    return set_title


@cache
def _room() -> int:
    """Return how long a title may be. Called before the first one is set; a forked process has the same room."""
    try:
        return len(Path("/proc/self/cmdline").read_bytes()) - 1
    except OSError:  # another system, where the titles have other places
        return 1 << 16
