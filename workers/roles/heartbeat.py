"""Renew the worker's signs of life in the store: its registration for RQ's readers, its lease for rescuers."""

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
from jobqueue.workers.shared.deaths import EXECUTION_TTL
from jobqueue.workers.shared.retry import replies_of
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.shared.timestamps import rq_time

log = logging.getLogger(__name__)

WORKER_TTL = 480  # seconds: rq.defaults.DEFAULT_WORKER_TTL + 60
RENEW_EXECUTIONS = 30.0  # seconds between two renewals of the running jobs' executions
LIST_AGAIN = 300.0  # seconds between two writes into RQ's lists of workers: somebody may have removed the name by hand
SAFE = 0.7  # part of the lease after which it may end soon; rescuers count the tree as dead after the whole of it


def renewal_timeout(lease: float) -> float:
    """Return the seconds that a renewal may take: so few that a dead connection does not cost the lease."""
    return max(1.0, 0.3 * lease)


class Heartbeat:
    """The heartbeat role. Steps in a thread of its own, so that nothing else can make it late; ``birth``, ``add_owner``
    and ``death`` are called in the roles thread."""

    def __init__(
        self,
        settings: Settings,
        client: redis.Redis,
        is_busy: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.every = min(3.0, settings.lease / 3)
        self._settings = settings
        self._client = client
        self._protocol = Protocol(client)
        self._is_busy = is_busy
        self._clock = clock
        self._renew_at = self._list_at = 0.0
        self._born = False
        self._stepping = threading.Lock()  # so that a renewal under way does not register again after ``death``
        self._unlisted = False  # RQ's lists of workers could not be written, which was logged
        self._birth = ""  # in RQ's text; it stays what it was when the tree registers again
        self.lapses = 0  # how often a renewal was so late that a rescuer may have taken over
        self.renewed = 0.0  # monotonic seconds of the last renewal that the store confirmed; 0: none yet

    def birth(self) -> None:
        """Register the worker; before that it may own no job. May be repeated."""
        self._birth = self._birth or rq_time(time.time())
        self._beat({"birth": self._birth, "state": "started", **self._registration()})
        self._born = True

    def _registration(self) -> dict[str, Any]:
        """Return the fields by which RQ's readers and jobq's rescuers know this worker."""
        return {
            "last_heartbeat": rq_time(time.time()),
            "queues": ",".join(self._settings.queues),
            "pid": os.getpid(),
            "hostname": socket.gethostname(),
            "ip_address": "unknown",
            "version": f"jobq {__version__}",
            "python_version": f"{platform.python_version()} {sys.version}",
            "jobq_lease": self._settings.lease,  # rescuers judge each tree by its own
            "jobq_on_crash": self._settings.on_crash,
            "jobq_slots": self._settings.children * self._settings.slots,  # for the metrics
        }

    def step(self, now: float) -> None:
        """Renew the lease and the registration. Register again if the store was flushed, or a rescuer took this tree
        for dead and off RQ's lists. Write into these lists, one per queue, every 5 minutes in any case; renew the
        executions of the running jobs every 30 s."""
        with self._stepping:
            if self._born:
                self._renew(now)

    def _renew(self, now: float) -> None:
        state, lists = "busy" if self._is_busy() else "idle", now >= self._list_at
        if lists:
            self._list_at = now + LIST_AGAIN
        if self._beat({"last_heartbeat": rq_time(time.time()), "state": state}, lists=lists) != self._birth.encode():
            self._beat({"birth": self._birth, "state": state, **self._registration()})
        if state == "idle" and self._is_busy():  # its "busy" may have come first
            self._client.hset(keys.worker(self._settings.worker), "state", "busy")
        self._renew_executions(now, EXECUTION_TTL)

    def _renew_executions(self, now: float, ttl: int) -> None:
        if now >= self._renew_at:
            self._protocol.heartbeat(self._settings.worker, ttl)
            self._renew_at = now + RENEW_EXECUTIONS

    def _beat(self, fields: dict[str, Any], ttl: int = WORKER_TTL, lists: bool = True) -> bytes | None:
        """Renew the lease, and write ``fields`` into the registration and (``lists``) the name into RQ's lists. Return
        the registration's "birth"; None if there was none, or if a rescuer has struck the worker off. Delete keys of
        another type in place of our own. Raises an outage."""
        worker, asked = self._settings.worker, self._clock()
        registration = keys.worker(worker)
        with self._client.pipeline(transaction=False) as pipe:
            pipe.incr(keys.lease(worker))
            pipe.hget(registration, "birth")
            pipe.hset(registration, mapping=fields)  # type: ignore[arg-type]  # redis-py's mapping type is invariant
            pipe.hdel(registration, "death")  # written by a rescuer that counted us as dead
            pipe.expire(registration, ttl)
            pipe.expire(keys.lease(worker), WORKER_TTL)  # no other tree rescues the last one
            for name in (keys.WORKERS, *map(keys.workers_of, self._settings.queues)) if lists else ():
                pipe.sadd(name, registration)
            replies = replies_of(pipe)
        errors = [reply for reply in replies if isinstance(reply, Exception)]
        if not isinstance(replies[0], Exception):
            if self.renewed and self._clock() - self.renewed > SAFE * self._settings.lease:
                self.lapses += 1  # before ``renewed``: self-fencing reads both, and has to see this with it
            self.renewed = asked
        if errors:
            self._clear(replies)
        _, birth, _, deaths, *_ = replies
        return birth if isinstance(birth, bytes) and deaths == 0 else None

    def _clear(self, replies: list[Any]) -> None:
        """Delete keys of another type in place of our lease or registration: the next step writes them again."""
        worker = self._settings.worker
        ours = [keys.lease(worker), *[keys.worker(worker)] * 4]
        broken = {key for key, reply in zip(ours, replies, strict=False) if isinstance(reply, Exception)}
        if broken:
            log.warning("deleted keys of another type in the place of our registration: %s", ", ".join(sorted(broken)))
            self._client.delete(*broken)
        elif not self._unlisted:
            log.warning("RQ's lists of workers cannot be written (%s): rq info will not show this worker", replies)
        self._unlisted = not broken

    def reconnected(self) -> None:
        """Renew everything in the next step."""
        self._renew_at = self._list_at = 0.0

    def add_owner(self, owner: str) -> None:
        """Write an owner name into the store, under which a child may then claim."""
        self._client.sadd(keys.OWNERS, owner)

    def death(self) -> None:
        """Remove the worker from every list, as RQ's register_death does: it has ended and owns nothing."""
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
