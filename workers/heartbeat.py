"""The tree's life signs: one RQ worker for RQ's readers, one lease for jobq's rescuers, one list of owners."""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import redis

from jobqueue import __version__, keys
from jobqueue.protocol import Protocol
from workers.clock import rq_time
from workers.deaths import EXECUTION_TTL
from workers.settings import Settings

WORKER_TTL = 480  # seconds: rq.defaults.DEFAULT_WORKER_TTL + 60
RENEW_EXECUTIONS = 30.0


class Heartbeat:
    """Birth, death and the time between. Runs in the registrar's thread."""

    def __init__(self, settings: Settings, client: redis.Redis, is_busy: Callable[[], bool]) -> None:
        self.every = min(3.0, settings.lease / 3)
        self._settings = settings
        self._client = client
        self._protocol = Protocol(client)
        self._is_busy = is_busy
        self._renew_at = 0.0
        self._born = False
        self.renewed = 0.0  # monotonic seconds of the last renewal that the store confirmed; 0: none yet

    def birth(self) -> None:
        """Register the tree; before that it may not own anything. Doing it twice is doing it once."""
        s, now = self._settings, rq_time(time.time())
        with self._client.pipeline() as pipe:
            pipe.incr(keys.lease(s.worker))
            pipe.expire(keys.lease(s.worker), WORKER_TTL)  # the last of all trees has nobody to take it away
            pipe.hset(keys.worker(s.worker), mapping=self._card(now))
            pipe.expire(keys.worker(s.worker), WORKER_TTL)
            pipe.sadd(keys.WORKERS, keys.worker(s.worker))
            for name in s.queues:
                pipe.sadd(keys.workers_of(name), keys.worker(s.worker))
            pipe.execute()
        self._born = True
        self.renewed = time.monotonic()

    def _card(self, now: str) -> Any:  # redis-py's mapping type is invariant
        return {
            "birth": now,
            "last_heartbeat": now,
            "queues": ",".join(self._settings.queues),
            "pid": os.getpid(),
            "hostname": socket.gethostname(),
            "ip_address": "unknown",
            "version": f"jobq {__version__}",
            "python_version": f"{platform.python_version()} {sys.version}",
            "state": "started",
            "jobq_lease": self._settings.lease,  # each tree is judged by its own
            "jobq_on_crash": self._settings.on_crash,
        }

    def step(self, now: float) -> None:
        """Renew the lease and RQ's heartbeat; every 30 s the entries of the running jobs too."""
        if not self._born:
            return
        s = self._settings
        with self._client.pipeline(transaction=False) as pipe:
            pipe.incr(keys.lease(s.worker))
            pipe.exists(keys.worker(s.worker))
            state = "busy" if self._is_busy() else "idle"
            pipe.hset(keys.worker(s.worker), mapping={"last_heartbeat": rq_time(time.time()), "state": state})
            pipe.expire(keys.worker(s.worker), WORKER_TTL)
            pipe.expire(keys.lease(s.worker), WORKER_TTL)
            asked = time.monotonic()
            there = pipe.execute()[1]
        self.renewed = asked
        if state == "idle" and self._is_busy():  # a job began meanwhile, and its mark may have come before ours
            self._client.hset(keys.worker(s.worker), "state", "busy")
        if not there:  # flushed, or away for longer than its TTL
            self.birth()
        if now >= self._renew_at:
            self._protocol.heartbeat(s.worker, EXECUTION_TTL)
            self._renew_at = now + RENEW_EXECUTIONS

    def reconnected(self) -> None:
        self._renew_at = 0.0

    def add_owner(self, owner: str) -> None:
        """A child of this name may claim from now on."""
        self._client.sadd(keys.OWNERS, owner)

    def death(self) -> None:
        """The tree is gone and owns nothing: take its name off every list, as RQ's register_death."""
        s = self._settings
        key = keys.worker(s.worker)
        with self._client.pipeline() as pipe:
            pipe.delete(keys.lease(s.worker), keys.worker_executions(s.worker))
            pipe.srem(keys.WORKERS, key)
            for name in s.queues:
                pipe.srem(keys.workers_of(name), key)
            pipe.hset(key, mapping={"death": rq_time(time.time()), "state": "idle"})
            pipe.expire(key, 60)
            pipe.execute()
