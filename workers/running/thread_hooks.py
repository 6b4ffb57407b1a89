"""Put back what ``threading`` calls in each new thread (``threading.settrace``, ``threading.setprofile``).

A job that leaves a hook there which raises would end each thread that is started later, before it has begun.
"""

from __future__ import annotations

import threading


class ThreadHooks:
    """Make it before the first job of a process with one slot: neighbours in other slots would lose theirs."""

    def __init__(self) -> None:
        self._trace, self._profile = threading.gettrace(), threading.getprofile()

    def put_back(self) -> None:
        """Undo what the last job set."""
        if threading.gettrace() is not self._trace:
            threading.settrace(self._trace)
        if threading.getprofile() is not self._profile:
            threading.setprofile(self._profile)
