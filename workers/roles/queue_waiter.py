"""Wait for jobs while children are out of work: one thread for the whole worker.

It has a BLMOVE pending on each queue (see pending_waits.py). One push wakes one child that is out of work, which claims
with CYCLE as ever; if there is more, the next BLMOVE returns at once and wakes the next child. So N idle children cost
the store one blocked client per queue and not N (50 idle waiters cost 570 us of the store's CPU per push, measured),
and a push is not answered by 50 claims.

The first 32 queues have a connection each; the other ones are looked at four times a second, in one request, so that a
worker of 1,000 queues does not hold 1,000 connections.

Each wait has a limit of its own here, beside the one that it has in the store: a connection may have died without a
word. Then it is not known whether something was pushed: a child is woken as if it had been, and asks on a connection of
its own.

A push ends the BLMOVE of every worker that waits for the queue. Where many workers serve it, each pauses for a random
moment before it wakes a child, and looks whether the job is still there: few children claim in vain.

While everything is suspended or paused a BLMOVE would return at once for ever: so the thread looks once a second
whether the pause is over, as RQ does.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import redis
from redis.exceptions import RedisError

from jobqueue.network.backoff import Backoff
from jobqueue.own_random import own_random
from jobqueue.protocol import keys
from jobqueue.store.error_texts import causes
from jobqueue.workers.roles.pending_waits import ROUND, NoList, PendingWaits
from jobqueue.workers.shared.failures import Failures, keep_going
from jobqueue.workers.shared.own_thread import OwnThread
from jobqueue.workers.shared.polling import readable

log = logging.getLogger(__name__)

LOOK = 1.0  # seconds between two looks whether a pause is over
WHO = "waiting for jobs"
WATCHED = 32  # queues that have a connection each, the first ones that are open
LOOK_AT_REST = 0.25  # seconds between two looks at the others
CROWD = 8  # workers of a queue; if there are more, each waits for up to SPREAD times their number
SPREAD, MOST_SPREAD = 0.0005, 0.03  # seconds
OUT_OF_SERVICE = 5.0  # seconds without a successful wait after which this worker does not count as able to claim


class QueueWaiter:
    """A thread of the supervisor, with its own connections. Other threads may call the public methods."""

    def __init__(
        self,
        client: redis.Redis,
        queues: tuple[str, ...],
        failures: Failures | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._queues = queues
        self._clock = clock
        self._waiting: deque[Callable[[], None]] = deque()  # one for each child that is out of work
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[0], False)
        self._stop = False
        self._failures = failures or Failures()
        self._over = threading.Event()
        self._pending = PendingWaits(client, clock)
        self._workers = 0  # how many workers serve the first queue
        self._open: list[str] = []  # the queues that were not paused at the last look
        self._look_again = 0.0  # monotonic seconds of the next such look
        self._spoiled: dict[str, float] = {}  # queue whose key has another type → until when it is left alone
        self._complained: set[str] = set()
        self._failing_since = 0.0  # monotonic seconds; 0.0: the last turn worked
        self._failure = ""
        body = partial(keep_going, WHO, self._run, self._failures, self._over)
        self._thread = OwnThread(body, "jobq-queue-waiter")  # also where a job has patched Python's threads

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, poke: bool = True) -> None:
        """End the thread. May be called twice. poke False: do not write into the pipe, which a job has closed; the
        thread sees the end by itself."""
        if not self._stop:
            self._stop = True
            self._over.set()
            if poke:
                self._poke()

    def call_at_push(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` once, in this thread, when a job may be there for a child that is out of work."""
        self._waiting.append(wake)
        self._poke()

    def why_not(self, now: float) -> str:
        """Return why a push would not be noticed; "" if it would be, or if that has lasted for a few seconds only."""
        since = self._failing_since
        return f"it cannot wait for jobs: {self._failure}" if since and now - since > OUT_OF_SERVICE else ""

    def _poke(self) -> None:
        os.write(self._pipe[1], b"!")

    def _run(self) -> None:
        backoff = Backoff()
        self._pending.disconnect()  # left by an earlier call of this method, which an unexpected exception has ended
        while not self._stop:
            try:
                self._turn()
                backoff.reset()
                self._failures.works(WHO)
                self._failing_since = 0.0
            except (RedisError, OSError) as e:
                self._failed(e)
                self._sleep(backoff.failed())
        self._pending.disconnect()

    def _failed(self, error: Exception) -> None:
        log.debug("waiting for jobs failed: %s", error)
        self._failure = str(error)
        self._failing_since = self._failing_since or self._clock()
        self._pending.disconnect()
        if _out_of_files(error):
            self._complain("files", "too many open files to wait for jobs: raise the limit (ulimit -n)")
        if self._waiting and (isinstance(error, redis.TimeoutError) or _out_of_files(error)):
            self._waiting.popleft()()  # the child asks over its own connection

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
                self._look_again = 0.0  # if all are paused, each wait would return at once
                self._waiting.popleft()()
        else:
            self._sleep(LOOK)

    def _open_queues(self) -> list[str]:
        """Ask which queues are not paused, at most once a second as long as no child is woken."""
        now = self._clock()
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
        now = self._clock()
        self._spoiled = {name: until for name, until in self._spoiled.items() if now < until}
        is_open = [name for name in self._queues if name.encode() not in paused and name not in self._spoiled]
        return [] if suspended else is_open

    def _pushed(self, queues: list[str]) -> bool:
        """Wait until one of the queues has a job, or may have one (True), or until it is time to look again."""
        watched, others = queues[:WATCHED], queues[WATCHED:]
        self._pending.hold(watched)
        if others and self._client.exists(*map(keys.queue, others)):
            return True
        look_after = LOOK_AT_REST if others else LOOK if len(queues) < len(self._queues) else None
        limit = self._pending.first_overdue() - self._clock()
        names = self._pending.files()
        ready = readable([*names, self._pipe[0]], limit if look_after is None else min(limit, look_after))
        if self._pipe[0] in ready:
            os.read(self._pipe[0], 4096)
        pushed = [names[fd] for fd in ready if fd != self._pipe[0] and self._has_job(names[fd])]
        return self._pending.give_up_overdue() or (bool(pushed) and self._is_still_there(pushed))

    def _is_still_there(self, queues: list[str]) -> bool:
        """Return whether these queues still have a job, where many workers serve them."""
        if self._workers <= CROWD:
            return True
        time.sleep(own_random.uniform(0, min(MOST_SPREAD, self._workers * SPREAD)))
        return bool(self._client.exists(*map(keys.queue, queues)))

    def _has_job(self, name: str) -> bool:
        """Read the answer about a queue. One whose key is no list is left alone for a while."""
        try:
            return self._pending.answer(name)
        except NoList:
            self._spoiled[name] = self._clock() + ROUND
            self._complain(name, f"the queue {name!r} cannot be read, its key is no list: {keys.queue(name)}")
            return False

    def _sleep(self, seconds: float | None) -> None:
        """Sleep for this long (None: for ever), or until another thread writes into the pipe."""
        if readable([self._pipe[0]], seconds):
            os.read(self._pipe[0], 4096)


def _out_of_files(error: BaseException) -> bool:
    """Return whether an OSError behind this one says that there are too many open files."""
    return any(isinstance(it, OSError) and it.errno in (errno.EMFILE, errno.ENFILE) for it in causes(error))
