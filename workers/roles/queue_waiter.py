"""Wait for jobs while children have nothing to do: one waiter for the whole tree.

``BLMOVE q q LEFT LEFT`` on each queue wakes when something is pushed and takes nothing away: it moves the head onto
itself. One push wakes one child that is out of work, which claims with CYCLE like always; if more is there, the next
BLMOVE returns at once and wakes the next. So N idle children cost the store one blocked client per queue, not N (50
idle waiters cost 570 us of the store's CPU per push, measured), and a push is not 50 claims.

Each BLMOVE is a connection. The first queues have one each; those behind them are looked at four times a second, in one
request, so that a worker of 1,000 queues does not hold 1,000 connections.

Each wait has a limit of its own here, beside the one that it has in the store: a connection may have died without a
word. Then nobody knows whether something was pushed: a child is woken as if it had been, and asks over its own one.

A push ends the BLMOVE of every worker that waits for the queue. Where many serve it, each waits for a moment of its own
length before it wakes a child, and looks whether the job is still there: few claim in vain.

While everything is suspended or paused it must not enter the wait, which would return at once for ever: it looks once
a second, as RQ does.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import redis
from redis.exceptions import RedisError, ResponseError

from jobqueue.network.backoff import Backoff
from jobqueue.protocol import keys
from jobqueue.workers.shared.failures import Failures, keep_going
from jobqueue.workers.shared.polling import readable

log = logging.getLogger(__name__)

ROUND = 5.0  # seconds that one BLMOVE waits
LATE = 3.0  # seconds that its answer may be late
LOOK = 1.0  # seconds between two looks whether a pause is over
WHO = "waiting for jobs"
WATCHED = 32  # queues that have a connection each, the first ones that are open
LOOK_AT_REST = 0.25  # seconds between two looks at the others
CROWD = 8  # workers of a queue; where there are more, each of them waits for up to so many times SPREAD
SPREAD, MOST_SPREAD = 0.0005, 0.03  # seconds
OUT_OF_SERVICE = 5.0  # seconds without a wait that worked after which this worker cannot be called able to claim


class Wait(NamedTuple):
    """A BLMOVE that is pending on a connection, and when its answer is overdue (monotonic seconds)."""

    connection: Any
    overdue: float


class QueueWaiter:
    """A thread of the supervisor, with connections of its own."""

    def __init__(self, client: redis.Redis, queues: tuple[str, ...], failures: Failures | None = None) -> None:
        self._client = client
        self._queues = queues
        self._waiting: deque[Callable[[], None]] = deque()
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[0], False)
        self._stop = False
        self._failures = failures or Failures()
        self._over = threading.Event()
        self._waits: dict[str, Wait] = {}
        self._idle: dict[str, Any] = {}  # queue → connection without a pending BLMOVE
        self._workers = 0  # how many serve the first queue
        self._open: list[str] = []  # the queues that are not paused, as of the last look
        self._look_again = 0.0  # monotonic seconds at which that is looked up anew
        self._spoiled: dict[str, float] = {}  # queue whose key is no list → until when it is left alone
        self._complained: set[str] = set()
        self._failing_since = 0.0  # monotonic seconds; 0.0: the last turn worked
        self._failure = ""
        self._thread = threading.Thread(
            target=keep_going, args=[WHO, self._run, self._failures, self._over], name="jobq-queue-waiter", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self, poke: bool = True) -> None:
        """Stopping twice is fine. ``poke`` False: our pipe is not ours any more, and the thread sees it by itself."""
        if not self._stop:
            self._stop = True
            self._over.set()
            if poke:
                self._poke()

    def call_at_push(self, wake: Callable[[], None]) -> None:
        """A child has nothing to do; ``wake`` is called once when there may be something."""
        self._waiting.append(wake)
        self._poke()

    def why_not(self, now: float) -> str:
        """Why nobody would notice a new job; "" when somebody would, or when it is not known for long enough."""
        since = self._failing_since
        return f"it cannot wait for jobs: {self._failure}" if since and now - since > OUT_OF_SERVICE else ""

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
                self._failing_since = 0.0
            except (RedisError, OSError) as e:
                self._failed(e)
                self._sleep(backoff.failed())
        self._disconnect()

    def _failed(self, error: Exception) -> None:
        log.debug("waiting for jobs failed: %s", error)
        self._failure = str(error)
        self._failing_since = self._failing_since or time.monotonic()
        self._disconnect()
        if _out_of_files(error):
            self._complain("files", "too many open files to wait for jobs: raise the limit (ulimit -n)")
        if self._waiting and (isinstance(error, redis.TimeoutError) or _out_of_files(error)):
            self._waiting.popleft()()  # it asks over its own connection

    def _complain(self, about: str, text: str) -> None:
        if about not in self._complained:
            self._complained.add(about)
            log.warning("%s", text)

    # -- one turn ------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        if not self._waiting:
            self._sleep(None)
        elif open_queues := self._open_queues():
            if self._pushed(open_queues):
                self._look_again = 0.0  # should all be paused, the wait would return at once for ever
                self._waiting.popleft()()
        else:
            self._sleep(LOOK)

    def _open_queues(self) -> list[str]:
        """Ask which queues are not paused, at most once a second as long as no child is woken."""
        now = time.monotonic()
        if not self._open or now >= self._look_again:
            self._open, self._look_again = self._ask_open_queues(), now + LOOK
        return [name for name in self._open if name not in self._spoiled]

    def _ask_open_queues(self) -> list[str]:
        with self._client.pipeline(transaction=False) as pipe:
            pipe.exists(keys.SUSPENDED)
            pipe.smembers(keys.PAUSED)
            pipe.scard(keys.workers_of(self._queues[0]))
            suspended, paused, workers = pipe.execute(raise_on_error=False)
        for reply in (suspended, paused):
            if isinstance(reply, Exception):
                raise reply
        self._workers = 0 if isinstance(workers, Exception) else workers
        now = time.monotonic()
        self._spoiled = {name: until for name, until in self._spoiled.items() if now < until}
        is_open = [name for name in self._queues if name.encode() not in paused and name not in self._spoiled]
        return [] if suspended else is_open

    def _pushed(self, queues: list[str]) -> bool:
        """Wait until one of the queues has a job, or may have one (True), or until it is time to look again."""
        watched, others = queues[:WATCHED], queues[WATCHED:]
        self._wait_for(watched)
        if others and self._client.exists(*map(keys.queue, others)):
            return True
        look_after = LOOK_AT_REST if others else LOOK if len(queues) < len(self._queues) else None
        overdue = min(self._waits[name].overdue for name in watched)
        limit = overdue - time.monotonic()
        names = {self._waits[name].connection._sock.fileno(): name for name in watched}
        ready = readable([*names, self._pipe[0]], limit if look_after is None else min(limit, look_after))
        if self._pipe[0] in ready:
            os.read(self._pipe[0], 4096)
        pushed = [names[fd] for fd in ready if fd != self._pipe[0] and self._answer(names[fd])]
        overdue = self._overdue()
        return overdue or (bool(pushed) and self._is_still_there(pushed))

    def _is_still_there(self, queues: list[str]) -> bool:
        """Return whether the others of a crowd have left something."""
        if self._workers <= CROWD:
            return True
        time.sleep(random.uniform(0, min(MOST_SPREAD, self._workers * SPREAD)))
        return bool(self._client.exists(*map(keys.queue, queues)))

    def _wait_for(self, queues: list[str]) -> None:
        """Have a BLMOVE pending on each of these, and on no other."""
        for name in (self._waits.keys() | self._idle.keys()).difference(queues):
            self._close(name)
        for name in queues:
            if name not in self._waits:
                connection = self._idle.pop(name, None) or self._connect()
                connection.send_command(
                    "BLMOVE", keys.queue(name), keys.queue(name), "LEFT", "LEFT", ROUND, check_health=False
                )
                self._waits[name] = Wait(connection, time.monotonic() + ROUND + LATE)

    def _answer(self, name: str) -> bool:
        connection = self._waits.pop(name).connection
        self._idle[name] = connection
        try:
            return connection.read_response() is not None
        except ResponseError as e:
            if not str(e).startswith("WRONGTYPE"):
                raise
            self._spoiled[name] = time.monotonic() + ROUND
            self._complain(name, f"the queue {name!r} cannot be read, its key is no list: {keys.queue(name)}")
            return False

    def _overdue(self) -> bool:
        """Give up the connections whose answers do not come: what they should have said may have been a push."""
        now = time.monotonic()
        late = [name for name, wait in self._waits.items() if now >= wait.overdue]
        for name in late:
            log.debug("no answer about the queue %s: its connection is made again", name)
            self._close(name)
        return bool(late)

    def _connect(self) -> Any:
        connection = self._client.connection_pool.make_connection()
        connection.connect()
        return connection

    def _close(self, name: str) -> None:
        wait, idle = self._waits.pop(name, None), self._idle.pop(name, None)
        for connection in (wait and wait.connection, idle):
            if connection is not None:
                connection.disconnect()

    def _disconnect(self) -> None:
        for name in [*self._waits, *self._idle]:
            self._close(name)

    def _sleep(self, seconds: float | None) -> None:
        """Until somebody pokes, or for so long."""
        if readable([self._pipe[0]], seconds):
            os.read(self._pipe[0], 4096)


def _out_of_files(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
