"""The health file: alive means able to claim. A container probes it with ``jobq worker-health FILE``.

Written from the main loop about once a second, whole (a temporary file that is renamed), so that a reader never sees
half of it: {"time": seconds since the epoch, "able": true | false, "why": text, "pid": the supervisor's}. It is removed
when the worker ends. ``jobqueue/cli/worker.py`` reads it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

EVERY = 1.0  # seconds


class Health:
    """Runs in the supervisor's main loop."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self._due = 0.0

    def step(self, now: float, why_not: str) -> None:
        """``why_not``: the reason why this worker cannot claim, "" when it can."""
        if self._path is None or now < self._due:
            return
        self._due = now + EVERY
        report = {"time": time.time(), "able": not why_not, "why": why_not or "able to claim", "pid": os.getpid()}
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        fresh.write_text(json.dumps(report))
        fresh.replace(self._path)

    def remove(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
