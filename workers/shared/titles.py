"""Set process titles: `ps` and `top` tell a worker's processes apart if setproctitle is installed (the extra
``titles``)."""

from __future__ import annotations

import os
from collections.abc import Callable

from jobqueue.words import TITLE


class Title:
    """The title of this process: which of the worker's processes it is, and what it is doing.

    The environment keeps its place after the arguments, where others read it (/proc/PID/environ): a title is cut off
    at the length of the command line.
    """

    def __init__(self, worker: str, role: str) -> None:
        """Show the title. Make it once per process, before it runs any code of the user's."""
        self._text = f"{TITLE}{role} of {worker}"
        before = os.environ.get("SPT_NOENV")
        os.environ["SPT_NOENV"] = "1"  # read when the first title is set
        self._set: Callable[[str], object] | None = None
        try:
            from setproctitle import setproctitle

            self._set = setproctitle
            self.show()
        except ImportError:
            pass
        finally:
            if before is None:
                del os.environ["SPT_NOENV"]
            else:
                os.environ["SPT_NOENV"] = before

    def show(self, doing: str = "") -> None:
        """Show what this process is doing; "": nothing to show. Does nothing if setproctitle is missing."""
        if self._set is not None:
            self._set(f"{self._text}, {doing}" if doing else self._text)

    @property
    def is_shown(self) -> bool:
        """Whether setproctitle is installed."""
        return self._set is not None
