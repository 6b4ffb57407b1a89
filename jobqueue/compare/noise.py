"""What other programs do to a measurement: how many of the cores that we may use they took meanwhile.

A busy machine makes all figures low and uneven, and those of one row more than those of another: then a comparison says
more about its neighbours than about threads and processes.
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

NOISY = 0.15  # of our cores taken by others: from there on a conclusion is not certain
FIRST_LOOK = 0.3  # seconds


class Others:
    """Counts the cores that others take from us, from now on. Ours are this process and all that it started, and
    ``more``: CPU seconds so far of something else that works for us."""

    def __init__(self, more: Callable[[], float] = lambda: 0.0) -> None:
        self._ours = CpuMeter(os.getpid())
        self._more = more
        self._cores, self._all = usable_cores(), psutil.cpu_count() or 1
        self._seen = _busy_seconds() - more()

    def lap(self) -> float:
        """Return how many of our cores others took, on average, since the last lap."""
        ours, wall = self._ours.lap()
        seen = _busy_seconds() - self._more()
        others, self._seen = (seen - self._seen - ours) / max(wall, 1e-3), seen
        return taken(others, self._cores, self._all)

    def during(self, run: Callable[[], Sample]) -> Sample:
        """Return the sample of a run, and in it what others took meanwhile."""
        self.lap()
        sample = run()
        return replace(sample, others=self.lap())

    def look(self) -> float:
        """Wait for a moment and return what others take in it."""
        self.lap()
        time.sleep(FIRST_LOOK)
        return self.lap()


def taken(others: float, ours: int, machine: int) -> float:
    """Of ``ours`` cores of a machine, how many are not left when others use so many of the machine's."""
    return min(float(ours), max(0.0, others - (machine - ours)))


def is_noisy(cores_taken: float, cores: int) -> bool:
    return cores_taken >= NOISY * cores


def in_words(cores_taken: float, cores: int) -> str:
    return f"other programs used {cores_taken:.1f} of {count(cores, 'core')} meanwhile"


def _busy_seconds() -> float:
    """CPU seconds of the whole machine since it started; a guest's are in its host's already."""
    t = psutil.cpu_times()
    return float(sum(getattr(t, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq")))


def cpu_of_a_store_nearby(store: Store) -> Callable[[], float]:
    """The CPU seconds of a store that somebody else started on this machine: it works for us. Else nothing."""
    url = store.address.url or ""
    if store.local is not None or not any(f"{place}" in url for place in ("localhost", "127.0.0.1", "[::1]", "unix:")):
        return lambda: 0.0
    client = store.client()

    def seconds() -> float:
        try:
            cpu = client.info("cpu")
            return float(cpu["used_cpu_sys"]) + float(cpu["used_cpu_user"])
        except (redis.RedisError, KeyError, ValueError):  # forbidden
            return 0.0

    return seconds
