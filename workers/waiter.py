"""Waits for jobs while children have nothing to do: one waiter for the whole tree.

``BLMOVE q q LEFT LEFT`` on each queue wakes when something is pushed and takes nothing away: it moves the head onto
itself. One push wakes one hungry child, which claims with CYCLE like always; if more is there, the next BLMOVE returns
at once and wakes the next. So N idle children cost the store one blocked client per queue, not N (50 idle waiters cost
570 us of the store's CPU per push: EVIDENCE C.4), and a push is not 50 claims.

While everything is suspended or paused it must not enter the wait, which would return at once for ever: it looks once
a second, as RQ does.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import redis
from redis.exceptions import RedisError

from jobqueue import keys
from jobqueue.backoff import Backoff
from workers.failures import Failures, keep_going

log = logging.getLogger(__name__)

ROUND = 5.0  # seconds that one BLMOVE waits
LOOK = 1.0  # seconds between two looks whether a pause is over
WHO = "waiting for jobs"


class Waiter:
    """A thread of the supervisor, with connections of its own."""

    def __init__(self, client: redis.Redis, queues: tuple[str, ...], failures: Failures | None = None) -> None:
        self._client = client
        self._queues = queues
        self._hungry: deque[Callable[[], None]] = deque()
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[0], False)
        self._stop = False
        self._failures = failures or Failures()
        self._over = threading.Event()
        self._waits: dict[str, Any] = {}  # queue → connection on which a BLMOVE is pending
        self._idle: dict[str, Any] = {}  # queue → connection without one
        self._thread = threading.Thread(
            target=keep_going, args=[WHO, self._run, self._failures, self._over], name="jobq-waiter", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stopping twice is fine."""
        if not self._stop:
            self._stop = True
            self._over.set()
            self._poke()

    def hungry(self, wake: Callable[[], None]) -> None:
        """A child has nothing to do; ``wake`` is called once when there may be something."""
        self._hungry.append(wake)
        self._poke()

    def _poke(self) -> None:
        os.write(self._pipe[1], b"!")

    def _run(self) -> None:
        backoff = Backoff()
        self._disconnect()  # of the last time, if something else than the store ended it
        while not self._stop:
            try:
                self._turn()
                backoff.reset()
                self._failures.works(WHO)
            except (RedisError, OSError) as e:
                log.debug("waiting for jobs failed: %s", e)
                self._disconnect()
                self._sleep(backoff.failed())
        self._disconnect()

    def _turn(self) -> None:
        if not self._hungry:
            self._sleep(None)
        elif open_queues := self._open_queues():
            if self._pushed(open_queues, ROUND if len(open_queues) == len(self._queues) else LOOK):
                self._hungry.popleft()()
        else:
            self._sleep(LOOK)

    def _open_queues(self) -> list[str]:
        with self._client.pipeline(transaction=False) as pipe:
            pipe.exists(keys.SUSPENDED)
            pipe.smembers(keys.PAUSED)
            suspended, paused = pipe.execute()
        return [] if suspended else [name for name in self._queues if name.encode() not in paused]

    def _pushed(self, queues: list[str], patience: float) -> bool:
        """Wait until one of the queues has a job (True), or for so many seconds at most."""
        for name in queues:
            if name not in self._waits:
                connection = self._idle.pop(name, None) or self._connect()
                connection.send_command("BLMOVE", keys.queue(name), keys.queue(name), "LEFT", "LEFT", ROUND)
                self._waits[name] = connection
        sockets = {self._waits[name]._sock: name for name in queues}
        readable, _, _ = select.select([*sockets, self._pipe[0]], [], [], ROUND + 10 if patience == ROUND else patience)
        if not readable and patience == ROUND:
            raise redis.TimeoutError("no answer to BLMOVE")
        if self._pipe[0] in readable:
            os.read(self._pipe[0], 4096)
        answers = [self._answer(sockets[sock]) for sock in readable if sock != self._pipe[0]]
        return any(answers)

    def _answer(self, name: str) -> bool:
        connection = self._waits.pop(name)
        self._idle[name] = connection
        return connection.read_response() is not None

    def _connect(self) -> Any:
        connection = self._client.connection_pool.make_connection()
        connection.connect()
        return connection

    def _disconnect(self) -> None:
        for connection in (*self._waits.values(), *self._idle.values()):
            connection.disconnect()
        self._waits.clear()
        self._idle.clear()

    def _sleep(self, seconds: float | None) -> None:
        """Until somebody pokes, or for so long."""
        readable, _, _ = select.select([self._pipe[0]], [], [], seconds)
        if readable:
            os.read(self._pipe[0], 4096)
