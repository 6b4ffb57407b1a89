"""Measure how many of the usable cores other programs take during a measurement.

On a busy machine all figures are low and uneven, some rows more than others; such a comparison says more about the
other programs than about threads and processes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace

import psutil

from jobqueue.compare.figures import Sample
from jobqueue.compare.measure import CpuMeter
from jobqueue.insight.capacity import cores as usable_cores
from jobqueue.store.connection import redis
from jobqueue.store.open import Store
from jobqueue.words import count

NOISY = 0.15  # share of the usable cores taken by other programs, above which a conclusion is not certain
FIRST_LOOK = 0.3  # seconds


class Others:
    """Counts the cores that other programs take, from now on.

    Not counted as others: this process and all that it started, and ``more``, the CPU seconds so far of something else
    that works for the comparison.
    """

    def __init__(self, more: Callable[[], float] = lambda: 0.0) -> None:
        self._ours = CpuMeter(os.getpid())
        self._more = more
        self._cores, self._all = usable_cores(), psutil.cpu_count() or 1
        self._seen = _busy_seconds() - more()

    def lap(self) -> float:
        """Return how many of the usable cores other programs took, on average, since the last lap."""
        ours, wall = self._ours.lap()
        seen = _busy_seconds() - self._more()
        others, self._seen = (seen - self._seen - ours) / max(wall, 1e-3), seen
        return taken(others, self._cores, self._all)

    def during(self, run: Callable[[], Sample]) -> Sample:
        """Run something and return its sample, completed with what other programs took during the run."""
        self.lap()
        sample = run()
        return replace(sample, others=self.lap())

    def look(self) -> float:
        """Wait for a moment and return how many cores other programs take in it."""
        self.lap()
        time.sleep(FIRST_LOOK)
        return self.lap()


def taken(others: float, ours: int, machine: int) -> float:
    """Return how many of ``ours`` cores are not left when other programs use ``others`` of the machine's cores."""
    return min(float(ours), max(0.0, others - (machine - ours)))


def is_noisy(cores_taken: float, cores: int) -> bool:
    return cores_taken >= NOISY * cores


def in_words(cores_taken: float, cores: int) -> str:
    return f"other programs used {cores_taken:.1f} of {count(cores, 'core')} meanwhile"


def _busy_seconds() -> float:
    """Return the CPU seconds of the whole machine since it started. A guest's are part of its host's."""
    t = psutil.cpu_times()
    return float(sum(getattr(t, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq")))


def is_nearby(store: Store) -> bool:
    """Say whether the store runs on this machine, by its address."""
    url = store.address.url or ""
    return store.local is not None or any(place in url for place in ("localhost", "127.0.0.1", "[::1]", "unix:"))


def cpu_of_a_store_nearby(store: Store) -> Callable[[], float]:
    """Return a function that reads the CPU seconds of a store on this machine that this process did not start; it
    returns 0 for any other store."""
    if store.local is not None or not is_nearby(store):
        return lambda: 0.0
    client = store.client()

    def seconds() -> float:
        try:
            cpu = client.info("cpu")
            return float(cpu["used_cpu_sys"]) + float(cpu["used_cpu_user"])
        except (redis.RedisError, KeyError, ValueError):  # an ACL forbids INFO
            return 0.0

    return seconds
