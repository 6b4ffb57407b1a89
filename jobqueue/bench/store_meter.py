"""Measure what the store costs and how far away it is, by its own counters and a PING."""

from __future__ import annotations

import os
import statistics
import time

import psutil

from jobqueue.compare.noise import is_nearby
from jobqueue.store.connection import redis
from jobqueue.store.open import Store

PINGS = 100


class StoreMeter:
    """Reads one store. is_near: it runs on this machine."""

    def __init__(self, store: Store, client: redis.Redis) -> None:
        self._client = client
        self.is_near = is_nearby(store)
        self._is_child = self.is_near and self._is_ours()

    def cpu(self) -> float | None:
        """Return the CPU seconds of the store so far; None if it does not report them."""
        try:
            cpu = self._client.info("cpu")
            return float(cpu["used_cpu_sys"]) + float(cpu["used_cpu_user"])
        except (redis.ResponseError, KeyError, ValueError):  # forbidden, or a server of another kind
            return None

    def unseen(self) -> float:
        """Return the CPU seconds that the store, which is no child of ours, used on this machine: they work for us."""
        return (self.cpu() or 0.0) if self.is_near and not self._is_child else 0.0

    def round_trip(self) -> float:
        """Return the seconds of one PING, the median of many."""
        times = []
        for _ in range(PINGS):
            began = time.perf_counter()
            self._client.ping()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def _is_ours(self) -> bool:
        """Say whether this program has started it, so that its CPU time counts as ours anyway."""
        try:
            pid = int(self._client.info("server")["process_id"])
        except (redis.ResponseError, KeyError, ValueError):
            return False
        return pid in {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}
