"""Hold the connection on which a child claims and settles: sending CYCLE and reading its reply are two steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import redis
from redis.exceptions import NoScriptError

from jobqueue.clock import monotonic
from jobqueue.network.silence import FIRST_ANSWER, SILENCE
from jobqueue.protocol import keys
from jobqueue.protocol.cycle import Cycle, CycleRequest, parse_cycle
from jobqueue.protocol.lua import packed_head, source


class Wire:
    """One connection for CYCLE, with sending and receiving apart: the reply is read when it is needed.

    The caller makes sure that one thread at a time sends or receives. Raises what redis-py raises.
    """

    def __init__(self, client: redis.Redis, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._connection = client.connection_pool.make_connection()  # not connected: reconnect() does it
        self._sent = 0, b""  # number of arguments, and these packed
        self._heard = 0.0  # monotonic seconds of the last answer
        self._was_silent = False

    def send(self, request: CycleRequest) -> None:
        self._sent = request.packed()
        self._was_silent = self._clock() - self._heard > SILENCE
        self._send(by_digest=True)

    def _send(self, by_digest: bool) -> None:
        count, packed = self._sent
        command = b"*%d\r\n%b%b" % (count + 2, packed_head("cycle", by_digest), packed)
        self._connection.send_packed_command([command], check_health=False)

    def receive(self) -> Cycle:
        if self._was_silent and not self._connection.can_read(FIRST_ANSWER):  # it may have died since without a word
            raise redis.TimeoutError("no answer after a silence")
        try:
            reply = self._connection.read_response()
        except NoScriptError:  # it did not run, so sending the whole text repeats nothing
            self._send(by_digest=False)
            reply = self._connection.read_response()
        self._heard = self._clock()
        return parse_cycle(reply)

    def largest(self) -> int:
        """Return how many bytes the server accepts at once; 0: it does not say."""
        try:
            found = [self._limit(name) for name in ("proto-max-bulk-len", "client-query-buffer-limit")]
        except redis.ResponseError:  # servers do not tell every user
            return 0
        return min((limit for limit in found if limit > 0), default=0)

    def _limit(self, name: str) -> int:
        self._connection.send_command("CONFIG", "GET", name)
        reply = self._connection.read_response()
        values = list(reply.values()) if isinstance(reply, dict) else reply[1:2]
        return int(values[0]) if values else 0

    def reconnect(self) -> None:
        self._connection.disconnect()
        self._connection.connect()

    def reconcile(self, owner: str, worker: str, claims: Iterable[int]) -> int:
        """Give back what the owner holds and does not know; -1: the owner is fenced."""
        self._connection.send_command("EVAL", source("reconcile"), 1, keys.own(owner), owner, worker, *claims)
        answer = int(self._connection.read_response())
        self._heard = self._clock()
        return answer
