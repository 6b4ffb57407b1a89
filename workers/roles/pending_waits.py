"""Keep BLMOVEs pending in the store, one for each of some queues, each on a connection of its own.

``BLMOVE q q LEFT LEFT`` returns when a job is pushed and removes none: it moves the first one to its own place.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import redis
from redis.exceptions import ResponseError

from jobqueue.protocol import keys

log = logging.getLogger(__name__)

ROUND = 5.0  # seconds that one BLMOVE waits
LATE = 3.0  # seconds by which its answer may be late


class Wait(NamedTuple):
    """A BLMOVE that is pending on a connection, and when its answer is overdue (monotonic seconds)."""

    connection: Any
    overdue: float


class NoList(Exception):
    """The queue's key has another type."""


class PendingWaits:
    """The pending BLMOVEs. The queue waiter uses them, in its thread."""

    def __init__(self, client: redis.Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._waits: dict[str, Wait] = {}
        self._idle: dict[str, Any] = {}  # queue → connection without a pending BLMOVE

    def hold(self, queues: Sequence[str]) -> None:
        """Have a BLMOVE pending on each of these queues, and on no other."""
        for name in (self._waits.keys() | self._idle.keys()).difference(queues):
            self._close(name)
        for name in queues:
            if name not in self._waits:
                connection = self._idle.pop(name, None) or self._connect()
                connection.send_command(
                    "BLMOVE", keys.queue(name), keys.queue(name), "LEFT", "LEFT", ROUND, check_health=False
                )
                self._waits[name] = Wait(connection, self._clock() + ROUND + LATE)

    def files(self) -> dict[int, str]:
        """Return the descriptors that become readable when an answer comes, each with its queue."""
        return {wait.connection._sock.fileno(): name for name, wait in self._waits.items()}

    def first_overdue(self) -> float:
        """Return when the next answer is overdue (monotonic seconds). There must be a pending BLMOVE."""
        return min(wait.overdue for wait in self._waits.values())

    def answer(self, name: str) -> bool:
        """Read the answer about this queue; return whether there is a job. Raises NoList."""
        connection = self._waits.pop(name).connection
        self._idle[name] = connection
        try:
            return connection.read_response() is not None
        except ResponseError as e:
            if not str(e).startswith("WRONGTYPE"):
                raise
            raise NoList(name) from e

    def give_up_overdue(self) -> bool:
        """Close the connections whose answers are overdue; return whether there were any, as a push may have been
        missed."""
        now = self._clock()
        late = [name for name, wait in self._waits.items() if now >= wait.overdue]
        for name in late:
            log.debug("no answer about the queue %s: its connection is made again", name)
            self._close(name)
        return bool(late)

    def disconnect(self) -> None:
        """Close all connections."""
        for name in [*self._waits, *self._idle]:
            self._close(name)

    def _connect(self) -> Any:
        connection = self._client.connection_pool.make_connection()
        connection.connect()
        return connection

    def _close(self, name: str) -> None:
        wait, idle = self._waits.pop(name, None), self._idle.pop(name, None)
        for connection in (wait and wait.connection, idle):
            if connection is not None:
                connection.disconnect()
