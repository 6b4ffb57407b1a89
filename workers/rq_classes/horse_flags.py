"""Three flags that an RQ worker's process and its horse share."""

from __future__ import annotations

import mmap

STOP, LEFT, LEAVING = range(3)


class HorseFlags:
    """Shared memory: make it before the fork. Each flag is written by one of the two processes and read by both."""

    def __init__(self) -> None:
        self._bytes = mmap.mmap(-1, 3)

    def clear(self) -> None:
        """(parent, before each fork)"""
        self._bytes[:] = bytes(len(self._bytes))

    @property
    def stop(self) -> bool:
        """Set by the parent before it sends SIGTERM. A SIGTERM without it comes from a job that signals its group."""
        return bool(self._bytes[STOP])

    def set_stop(self) -> None:
        self._bytes[STOP] = 1

    @property
    def leaving(self) -> bool:
        """Set by the horse when it ends its threads: its pulse stands still from then on."""
        return bool(self._bytes[LEAVING])

    def set_leaving(self) -> None:
        self._bytes[LEAVING] = 1

    @property
    def left(self) -> bool:
        """Set by the horse as its last action. An end without it, with exit code 0 too, was caused by a job."""
        return bool(self._bytes[LEFT])

    def set_left(self) -> None:
        self._bytes[LEFT] = 1
