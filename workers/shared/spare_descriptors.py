"""Keep some descriptors in reserve, for the case that jobs have used up all others: then one more connection can be
opened, over which the jobs' outcomes are recorded, and the process is replaced."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from jobqueue.workers.shared.journal import inode_of

PIPES = 3  # of two descriptors each: a connection needs one, RQ's finish a second one beside it, and the log a file


class SpareDescriptors:
    """The reserve of one process."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, tuple[int, int]]] = []  # with the file that each is: a job may have closed it
        self._on_used: Callable[[], object] = lambda: None

    def keep(self, on_used: Callable[[], object]) -> None:
        """Open the reserve in this process; ``on_used`` is called when it is given up. A process that has no descriptor
        left has none."""
        self.release_silently()
        self._on_used = on_used
        with contextlib.suppress(OSError):
            for _ in range(PIPES):
                self._kept += [(fd, inode_of(fd)) for fd in os.pipe()]

    def release(self) -> bool:
        """Close the reserve; return False if there was none any more."""
        had_some = self.release_silently()
        if had_some:
            self._on_used()
        return had_some

    def release_silently(self) -> bool:
        """Close the reserve without telling; return whether there was one."""
        closed = 0
        while self._kept:
            fd, inode = self._kept.pop()
            with contextlib.suppress(OSError):
                if inode_of(fd) == inode:
                    os.close(fd)
                    closed += 1
        return closed > 0


spare_descriptors = SpareDescriptors()  # of this process
