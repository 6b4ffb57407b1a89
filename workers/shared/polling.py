"""Wait for descriptors by ``poll``: ``select`` accepts none above 1023, which a process with many open files has."""

from __future__ import annotations

import math
import select
from collections.abc import Iterable

LONGEST = 2_000_000.0  # seconds


def readable(fds: Iterable[int], timeout: float | None) -> list[int]:
    """Return those of ``fds`` that can be read or are at their end; wait for one for at most ``timeout`` seconds, None:
    without an end."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(None if timeout is None else _milliseconds(timeout))]


def _milliseconds(timeout: float) -> int:
    """Return the timeout in ms, rounded up so that no wait ends too early; poll accepts at most 24 days."""
    return math.ceil(max(0.0, min(timeout, LONGEST)) * 1000)
