"""Rescue: of our own dead children at once, of dead trees when their lease has stood still for long enough.

A tree is called dead when this process has itself seen the same lease value for the whole lease time of its own
monotonic clock over one unbroken connection. RESCUE carries that value and refuses if it has moved.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import NamedTuple

import redis

from jobqueue import keys
from jobqueue.protocol import HAS_DEPENDENTS, Outcome, Protocol, Rescue
from workers.clock import rq_time
from workers.runner import encode_text
from workers.settings import Settings

log = logging.getLogger(__name__)

MOST_CRASHES = 3
SETTLE_AT_ONCE = 64


def text(reply: bytes | str) -> str:
    return reply.decode() if isinstance(reply, bytes) else reply


class Remains(NamedTuple):
    """What a dead child of ours left in shared memory, and why it died."""

    owner: str
    running: list[int]
    finished: list[Outcome]
    cause: str
    counted: bool


def cause_of_death(pid: int, status: int | None) -> str:
    """A full sentence from a wait status."""
    who = f"ChildKilled: The process that ran this job (pid {pid})"
    if status is None:
        return f"{who} is gone."
    if os.WIFSIGNALED(status):
        return f"{who} was killed by {signal.Signals(os.WTERMSIG(status)).name}."
    return f"{who} exited with status {os.waitstatus_to_exitcode(status)}."


class Rescuer:
    """Runs in the registrar's thread."""

    every = 2.0

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self._settings = settings
        self._client = client
        self._protocol = Protocol(client)
        self._seen: dict[str, tuple[str, float]] = {}  # worker → its lease, and since when it has that value

    # -- our own children ----------------------------------------------------------------------------------------------

    def rescue_own(self, remains: Remains) -> None:
        """Settle what it had finished, give back what it never started, judge what ran. Twice is once."""
        s = self._settings
        for at in range(0, len(remains.finished), SETTLE_AT_ONCE):
            some = remains.finished[at : at + SETTLE_AT_ONCE]
            verdicts = self._protocol.cycle(remains.owner, s.worker, s.queues, some, want=0).verdicts
            if HAS_DEPENDENTS in verdicts:
                log.warning("a finished job with dependents lost its process before it was recorded: it runs again")
        finished = {o.claim for o in remains.finished}
        running = [claim for claim in remains.running if claim not in finished]
        self._report(remains.owner, self._rescue(remains.owner, s.worker, remains.cause, running, remains.counted))

    def _rescue(
        self, owner: str, worker: str, cause: str, running: list[int] | None, counted: bool = True, lease: str = ""
    ) -> Rescue | None:
        now = time.time()
        return self._protocol.rescue(
            owner,
            worker,
            lease=lease,
            running=running,
            on_crash=self._settings.on_crash,
            most=MOST_CRASHES,
            cause=encode_text(cause),
            ended_at=rq_time(now),
            ended=now,
            counted=counted,
        )

    def _report(self, owner: str, rescue: Rescue | None) -> None:
        if rescue and any(rescue):
            log.warning(
                "rescued the jobs of %s: %d given back, %d to run again, %d failed, %d of unknown start", owner, *rescue
            )

    # -- other trees ---------------------------------------------------------------------------------------------------

    def step(self, now: float) -> list[str]:
        """Look at the leases of all other trees; return the names of those that were rescued."""
        trees: dict[str, list[str]] = {}
        for name in self._client.smembers(keys.OWNERS):
            owner = text(name)
            trees.setdefault(owner.rpartition(":")[0], []).append(owner)
        trees.pop(self._settings.worker, None)
        self._seen = {worker: seen for worker, seen in self._seen.items() if worker in trees}
        return [worker for worker, owners in trees.items() if self._is_dead(worker, now) and self._bury(worker, owners)]

    def reconnected(self) -> None:
        self._seen.clear()

    def _is_dead(self, worker: str, now: float) -> bool:
        lease = text(self._client.get(keys.lease(worker)) or b"0")
        value, since = self._seen.get(worker, ("", now))
        if value != lease:
            self._seen[worker] = (lease, now)
            return False
        return now - since >= self._settings.lease

    def _bury(self, worker: str, owners: list[str]) -> bool:
        lease, _ = self._seen[worker]
        cause = (
            f"LeaseExpired: The worker {worker} that ran this job has given no sign of life for "
            f"{self._settings.lease:g} s: it or its machine died."
        )
        rescues = [self._rescue(owner, worker, cause, None, lease=lease) for owner in owners]
        for owner, rescue in zip(owners, rescues, strict=True):
            self._report(owner, rescue)
        if not all(rescues):
            return False
        with self._client.pipeline() as pipe:
            pipe.delete(keys.lease(worker), keys.worker_executions(worker))
            pipe.srem(keys.WORKERS, keys.worker(worker))
            for name in self._settings.queues:
                pipe.srem(keys.workers_of(name), keys.worker(worker))
            pipe.delete(keys.worker(worker))
            pipe.execute()
        return True
