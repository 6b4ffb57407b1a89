"""Judge which other trees are dead, by their leases.

A tree counts as dead when this process has itself seen the same lease value for the whole lease time, by its own
monotonic clock and over one unbroken connection, and at least three times: after a stop of the whole machine the first
look may come before living trees have renewed. RESCUE carries that value and refuses if the lease has been renewed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import redis

from jobqueue.protocol import keys
from jobqueue.protocol.arguments import bytes_of, text_of
from jobqueue.workers.shared.retry import replies_of
from jobqueue.workers.shared.settings import Settings

DEFAULT_LEASE = 10.0  # seconds
LONGEST_LEASE = 3600.0  # the bounds of JOBQ_LEASE; a longer one was written by another program
ENOUGH_LOOKS = 3
UNWATCHED = 5.0  # seconds between two looks after which the watch starts again


class Seen(NamedTuple):
    """The lease of another tree: its value, since when we have seen it (monotonic seconds), and how often."""

    lease: str
    since: float
    looks: int


class LeaseWatch:
    """Watches the leases of other trees. The rescuer uses it, in the roles thread."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self._settings = settings
        self._client = client
        self._looked = 0.0  # monotonic seconds of the last look
        self._seen: dict[str, Seen] = {}  # by worker

    def look(self, trees: Mapping[str, list[str]], now: float) -> dict[str, str]:
        """Return the lease of each of these trees that can be judged now. trees: the owner names of each."""
        if now - self._looked > UNWATCHED:  # this process was stopped, perhaps with all others: that proves nothing
            self._seen.clear()
        self._looked = now
        leases = self._leases(trees)
        self._seen = {worker: seen for worker, seen in self._seen.items() if worker in leases}
        return leases

    def is_dead(self, worker: str, lease: str, now: float) -> bool:
        """Return whether a tree is dead, by the lease that ``look`` has just returned for it. Call this once for each
        look."""
        seen = self._seen.get(worker)
        if seen is None or seen.lease != lease:
            self._seen[worker] = Seen(lease, now, 1)
            return False
        self._seen[worker] = seen._replace(looks=seen.looks + 1)
        return seen.looks + 1 >= ENOUGH_LOOKS and now - seen.since >= self.lease_of(worker)

    def forget_all(self) -> None:
        """Start the watch again: the store was away, so the earlier looks prove nothing."""
        self._seen.clear()

    def lease_of(self, worker: str) -> float:
        """Return for how many seconds the lease of this tree lasts, as its registration says."""
        written = self._client.hget(bytes_of(keys.worker(worker)), "jobq_lease")
        try:
            seconds = float(written or 0.0)
        except ValueError:
            seconds = 0.0
        return seconds if 0.0 < seconds <= LONGEST_LEASE else max(DEFAULT_LEASE, self._settings.lease)

    def _leases(self, trees: Mapping[str, list[str]]) -> dict[str, str]:
        """Return the leases by worker. A worker without an owner name and without a lease is RQ's; one that has no
        registration either does not exist any more, and is removed from RQ's lists."""
        # one MGET: among sixty idle workers a GET and an EXISTS for each lease were 3,600 commands per second
        leases: Any = self._client.mget([bytes_of(keys.lease(worker)) for worker in trees]) if trees else []
        found: dict[str, str] = {}
        for worker, lease in zip(trees, leases, strict=True):
            if lease is not None or trees[worker]:
                found[worker] = "0" if lease is None else text_of(lease)
        self._take_off_unregistered([worker for worker in trees if worker not in found])
        return found

    def _take_off_unregistered(self, workers: list[str]) -> None:
        """Remove the workers without a registration from RQ's lists."""
        with self._client.pipeline(transaction=False) as pipe:
            for worker in workers:
                pipe.exists(bytes_of(keys.worker(worker)))
            registered = replies_of(pipe) if workers else []
        for worker, is_registered in zip(workers, registered, strict=True):
            if not is_registered:
                self._take_off_lists(worker)

    def _take_off_lists(self, worker: str) -> None:
        """Do what RQ's clean_worker_registry does, where a program calls it, for a worker whose registration has
        expired."""
        key = bytes_of(keys.worker(worker))
        with self._client.pipeline(transaction=False) as pipe:
            pipe.srem(keys.WORKERS, key)
            for name in self._settings.queues:
                pipe.srem(keys.workers_of(name), key)
            replies_of(pipe)  # a list of another type does not keep the worker in the others


def owners_by_tree(owners: Iterable[bytes], workers: Iterable[bytes]) -> dict[str, list[str]]:
    """Return the owner names of each tree, also of a tree without one: it may have died before its first child, or
    between two. The ``workers`` include RQ's, which have no lease."""
    trees: dict[str, list[str]] = {text_of(key).removeprefix(keys.worker("")): [] for key in workers}
    for name in owners:
        owner = text_of(name)
        trees.setdefault(owner.rpartition(":")[0], []).append(owner)
    return trees
