"""The tree's life signs: one RQ worker for RQ's readers, one lease for jobq's rescuers, one list of owners."""

from __future__ import annotations

import logging
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from jobqueue import __version__
from jobqueue.protocol import keys
from jobqueue.protocol.protocol import Protocol
from jobqueue.workers.shared.clock import rq_time
from jobqueue.workers.shared.deaths import EXECUTION_TTL
from jobqueue.workers.shared.retry import replies_of
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)

WORKER_TTL = 480  # seconds: rq.defaults.DEFAULT_WORKER_TTL + 60
RENEW_EXECUTIONS = 30.0
SAFE = 0.7  # of the lease: a rescuer calls the tree dead after the whole of it


def renewal_timeout(lease: float) -> float:
    """Return the seconds that a renewal may take: a connection that died without a word must not cost the lease."""
    return max(1.0, 0.3 * lease)


class Heartbeat:
    """Birth, death and the time between. Steps in a thread of its own, in which nothing else can be slow; birth and
    death come from the roles thread."""

    def __init__(self, settings: Settings, client: redis.Redis, is_busy: Callable[[], bool]) -> None:
        self.every = min(3.0, settings.lease / 3)
        self._settings = settings
        self._client = client
        self._protocol = Protocol(client)
        self._is_busy = is_busy
        self._renew_at = 0.0
        self._born = False
        self._stepping = threading.Lock()  # a renewal under way would register again what death has taken off
        self._unlisted = False  # and said so
        self._birth = ""  # in RQ's text; it stays what it was when the tree registers again
        self.lapses = 0  # how often a renewal came so late that somebody may have taken over
        self.renewed = 0.0  # monotonic seconds of the last renewal that the store confirmed; 0: none yet

    def birth(self) -> None:
        """Register the tree; before that it may not own anything. Doing it twice is doing it once."""
        self._birth = self._birth or rq_time(time.time())
        self._beat({"birth": self._birth, "state": "started", **self._registration()})
        self._born = True

    def _registration(self) -> dict[str, Any]:
        return {
            "last_heartbeat": rq_time(time.time()),
            "queues": ",".join(self._settings.queues),
            "pid": os.getpid(),
            "hostname": socket.gethostname(),
            "ip_address": "unknown",
            "version": f"jobq {__version__}",
            "python_version": f"{platform.python_version()} {sys.version}",
            "jobq_lease": self._settings.lease,  # each tree is judged by its own
            "jobq_on_crash": self._settings.on_crash,
        }

    def step(self, now: float) -> None:
        """Renew the lease and make the registration true again, all of it: it may have been flushed, or somebody who
        took this tree for dead has taken it off the lists. Every 30 s renew the entries of the running jobs too."""
        with self._stepping:
            if self._born:
                self._renew(now)

    def _renew(self, now: float) -> None:
        state = "busy" if self._is_busy() else "idle"
        if self._beat({"last_heartbeat": rq_time(time.time()), "state": state}) != self._birth.encode():
            self._beat({"birth": self._birth, "state": state, **self._registration()})  # flushed, or away for too long
        if state == "idle" and self._is_busy():  # a job began meanwhile, and its mark may have come before ours
            self._client.hset(keys.worker(self._settings.worker), "state", "busy")
        self._renew_executions(now, EXECUTION_TTL)

    def _renew_executions(self, now: float, ttl: int) -> None:
        if now >= self._renew_at:
            self._protocol.heartbeat(self._settings.worker, ttl)
            self._renew_at = now + RENEW_EXECUTIONS

    def _beat(self, fields: dict[str, Any], ttl: int = WORKER_TTL) -> bytes | None:
        """Renew the lease, write ``fields`` into the registration and the name into RQ's lists; return the birth that
        stood on the registration. What stands in the place of one of our own keys and is no such thing is deleted; an
        outage is raised.
        """
        worker, asked = self._settings.worker, time.monotonic()
        registration = keys.worker(worker)
        with self._client.pipeline(transaction=False) as pipe:
            pipe.incr(keys.lease(worker))
            pipe.hget(registration, "birth")
            pipe.hset(registration, mapping=fields)  # type: ignore[arg-type]  # redis-py's mapping type is invariant
            pipe.hdel(registration, "death")  # of a rescuer who took us for dead
            pipe.expire(registration, ttl)
            pipe.expire(keys.lease(worker), WORKER_TTL)  # the last of all trees has nobody to take it away
            for name in (keys.WORKERS, *map(keys.workers_of, self._settings.queues)):
                pipe.sadd(name, registration)
            replies = replies_of(pipe)
        errors = [reply for reply in replies if isinstance(reply, Exception)]
        if not isinstance(replies[0], Exception):
            if self.renewed and time.monotonic() - self.renewed > SAFE * self._settings.lease:
                self.lapses += 1  # before the time below: who sees that has to see this
            self.renewed = asked
        if errors:
            self._clear(replies)
        return replies[1] if isinstance(replies[1], bytes) else None

    def _clear(self, replies: list[Any]) -> None:
        """Somebody wrote something else to where our registration stands: the next heartbeat writes it anew."""
        worker = self._settings.worker
        ours = [keys.lease(worker), *[keys.worker(worker)] * 4]
        broken = {key for key, reply in zip(ours, replies, strict=False) if isinstance(reply, Exception)}
        if broken:
            log.warning("deleted what stood in the place of our registration: %s", ", ".join(sorted(broken)))
            self._client.delete(*broken)
        elif not self._unlisted:
            log.warning("RQ's lists of workers cannot be written (%s): rq info will not show this one", replies)
        self._unlisted = not broken

    def reconnected(self) -> None:
        self._renew_at = 0.0

    def add_owner(self, owner: str) -> None:
        """A child of this name may claim from now on."""
        self._client.sadd(keys.OWNERS, owner)

    def death(self) -> None:
        """The tree is gone and owns nothing: take its name off every list, as RQ's register_death."""
        with self._stepping:
            self._born = False
        s = self._settings
        key = keys.worker(s.worker)
        with self._client.pipeline() as pipe:
            pipe.delete(keys.lease(s.worker), keys.worker_executions(s.worker))
            pipe.srem(keys.WORKERS, key)
            for name in s.queues:
                pipe.srem(keys.workers_of(name), key)
            pipe.hset(key, mapping={"death": rq_time(time.time()), "state": "idle"})
            pipe.expire(key, 60)
            refused = [it for it in replies_of(pipe) if isinstance(it, Exception)]
        if refused:
            log.warning(
                "some of our registration could not be taken off RQ's lists (%s); jobq doctor names the key", refused[0]
            )
