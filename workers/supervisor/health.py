"""Write the health file, which says whether this worker is able to claim jobs.

A container's liveness probe reads it with ``jobq worker-health FILE`` (``jobqueue/cli/worker.py``).

It is written about once a second, and when the answer changes, always as a whole (a temporary file is renamed), so that
a reader never sees half of it: {"time": seconds since the epoch, "able": true | false, "why": text, "pid": the
supervisor's}. It is removed when the worker ends.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

log = logging.getLogger(__name__)

EVERY = 1.0  # seconds
STANDSTILL = 10.0  # seconds; the main loop turns at least every second


class Health:
    """The health file. The supervisor's main loop steps it."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self._due = 0.0
        self._said: str | None = None
        self._is_broken = False
        self._stepped = 0.0  # monotonic seconds
        self._why_not = "it is starting"

    def why_not(self, now: float) -> str:
        """(any thread) Return why this worker cannot claim, as far as the main loop has said; "" when it can."""
        return self._why_not or ("its main loop stands still" if now - self._stepped > STANDSTILL else "")

    def step(self, now: float, why_not: str) -> None:
        """Write the file if that is due. why_not: why this worker cannot claim, "" if it can."""
        self._stepped, self._why_not = now, why_not
        if self._path is None or (now < self._due and why_not == self._said):
            return
        self._due, self._said = now + EVERY, why_not
        report = {"time": time.time(), "able": not why_not, "why": why_not or "able to claim", "pid": os.getpid()}
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            fresh.write_text(json.dumps(report))
            fresh.replace(self._path)
            self._is_broken = False
        except OSError as e:  # a full disk, for example: go on working, the probe will find the file too old
            if not self._is_broken:
                log.warning("the health file %s cannot be written: %s", self._path, e.strerror)
            self._is_broken = True

    def remove(self) -> None:
        """Remove the file. May be called twice."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
