"""Undo the resource limits that a job lowers (``resource.setrlimit``): they would end its process while another job
runs there, or fail that job.

``watch`` puts functions of ours in the place of ``setrlimit`` and ``prlimit``, which note that they were called: so a
job that does not call them costs no system call.

CPU         its end is SIGXCPU, or SIGKILL, which no process can handle
AS, DATA    a later job fails with MemoryError, or no thread can be started
NOFILE      no file and no connection can be opened
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from functools import wraps
from typing import Any

_KINDS = {name: int(getattr(resource, name)) for name in ("RLIMIT_CPU", "RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_NOFILE")}
_set, _get = resource.setrlimit, resource.getrlimit


class ResourceLimits:
    """The limits of this process as they are before a job."""

    def __init__(self) -> None:
        self.were_set = False  # since the last ``keep`` or ``put_back``
        self.stuck: list[str] = []  # those that could not be put back
        self._before: dict[str, tuple[int, int]] = {}

    def watch(self) -> None:
        """Notice from now on when limits are set. Called before user code is imported, which may take the functions
        from their module; twice is harmless."""
        for name in ("setrlimit", "prlimit"):
            function = getattr(resource, name, None)  # macOS has no prlimit
            if function is not None and not hasattr(function, "__wrapped__"):
                setattr(resource, name, self._noting(function))
        self.keep()

    def _noting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def note_and_set(*args: Any) -> Any:
            self.were_set = True
            return function(*args)

        return note_and_set

    def keep(self) -> None:
        """Take the limits as they are now for those that hold between jobs: modules may set them at their import."""
        self.were_set, self.stuck = False, []
        self._before = {name: _get(kind) for name, kind in _KINDS.items()}

    def put_back(self) -> None:
        """Raise the limits again that are lower than before, and note those that cannot be raised: only root raises a
        hard limit."""
        self.were_set, self.stuck = False, []
        for name, before in self._before.items():
            now = _get(_KINDS[name])
            if any(_is_lower(*pair) for pair in zip(now, before, strict=True)):
                try:
                    _set(_KINDS[name], before)
                except (ValueError, OSError):
                    self.stuck.append(name)


def _is_lower(now: int, before: int) -> bool:
    """Compare two limits, of which any may be unlimited."""
    return now != before and now != resource.RLIM_INFINITY and (before == resource.RLIM_INFINITY or now < before)


resource_limits = ResourceLimits()  # of this process
