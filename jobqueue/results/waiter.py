"""Wait for results: one connection, one XREAD over a window of jobs, outcomes in the order of the ids.

    ids ──► window (at most 128 outstanding) ──XREAD BLOCK──► ended ──► outcomes, in order
                 ▲                                              │
                 └── each second: states of the window ─────────┘  canceled, stopped, deleted: not in a stream

``streams.py`` reads the streams and the states.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from jobqueue.errors import ResultTimeout, StoreRefused, StoreUnreachable
from jobqueue.model import Outcome
from jobqueue.network.backoff import Backoff
from jobqueue.protocol import bounds
from jobqueue.results.stalled import StallReporter, why_stalled
from jobqueue.results.streams import Streams, last_line
from jobqueue.serializers import Auto
from jobqueue.store.connection import bounded, redis

__all__ = ["Waiter", "last_line"]

log = logging.getLogger(__name__)

WINDOW = 128  # outstanding jobs that one XREAD watches
MOST_AHEAD = 2048  # outcomes kept behind a job that has not ended; the rest stay in their streams
BLOCK = 1.0  # seconds without an entry after which the states are read
# Seconds until the states are read first, so that the outcome of a canceled job takes less than a second.
FIRST_CHECK = 0.1
GATHER = 0.004  # seconds of a pause that gathers several results for one read, while the window is full
OUTAGE = 300.0  # seconds after which a store that does not answer is an error

T = TypeVar("T")


def _warn(reason: str) -> None:
    log.warning("Waiting for results, but %s.", reason)


class Waiter:
    """Waits for any number of jobs over one client. Not for several threads at once; make one Waiter for each."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        loads: Callable[[bytes], Any] = Auto.loads,
        window: int = WINDOW,
        known: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """known: the store has answered the caller before, so that an error at once is an outage too. say: called once
        with the reason when no result comes (no worker, a paused queue); without it that is a warning in the log."""
        client = bounded(client)
        self._streams = Streams(client, loads)
        self._window = window
        self._known = known
        self._answered = False  # whether the store has answered before, so that an error now is an outage
        self._next_check = 0.0
        self._silence = StallReporter(
            lambda: why_stalled(client, next(iter(self._streams.outstanding), "")), say or _warn
        )
        socket_timeout = client.connection_pool.connection_kwargs.get("socket_timeout")
        self._block = min(BLOCK, socket_timeout / 2) if socket_timeout else BLOCK

    def outcomes(self, ids: Iterable[str | None], timeout: float | None = None) -> Iterator[Outcome]:
        """Iterate over the outcomes of the jobs in their order. timeout: in seconds, for all.

        A None among the ids means that there are no more right now; the iterable is asked again later. Raises
        ResultTimeout at the first job that has no outcome in time, StoreUnreachable, StoreRefused.
        """
        timeout = bounds.wait(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        source, order = iter(ids), deque[str]()
        more = True
        streams = self._streams
        streams.outstanding, streams.ended, self._next_check = {}, {}, time.monotonic() + FIRST_CHECK
        while True:
            more, waiting = self._fill(source, order, more)
            while order and order[0] in streams.ended:
                yield streams.ended.pop(order.popleft())
            if not order and not more:
                return
            if not streams.outstanding and not waiting:
                # All outcomes were yielded: fill the window again before waiting.
                continue
            if not order or deadline is None or time.monotonic() < deadline:
                self._step(deadline, 0.05 if waiting else self._block)
            elif not self._look_once_more(order[0], deadline):
                raise ResultTimeout(f"Job {order[0]} has no result after {timeout:g} s; it goes on.", order[0])

    def _fill(self, source: Iterator[str | None], order: deque[str], more: bool) -> tuple[bool, bool]:
        """Move ids into the window; return whether there are more, and whether those are only to come later."""
        while more and len(self._streams.outstanding) < self._window and len(order) < MOST_AHEAD:
            try:
                job_id = next(source)
            except StopIteration:
                return False, False
            if job_id is None:
                return True, True
            self._streams.watch(job_id)
            order.append(job_id)
        return more, False

    def _step(self, deadline: float | None, block: float) -> None:
        if not self._streams.outstanding:
            return time.sleep(block)
        until = self._next_check if deadline is None else min(deadline, self._next_check)
        block = max(0.001, min(block, until - time.monotonic()))
        full = len(self._streams.outstanding) >= self._window
        found = self._retry_request(lambda: self._read(block), deadline)
        if time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + BLOCK
            self._retry_request(lambda: self._streams.check(self._streams.outstanding), deadline)
            self._silence.step(bool(self._streams.ended))
        elif full and 0 < found < self._window // 4:
            time.sleep(GATHER)

    def _look_once_more(self, job_id: str, deadline: float) -> bool:
        """Return whether the job has ended, by one more look: a caller whose time is over gets what there is."""
        streams = self._streams
        self._retry_request(lambda: streams.read(streams.outstanding, None), deadline)
        if job_id not in streams.ended:
            self._retry_request(lambda: streams.check([job_id]), deadline)
        return job_id in streams.ended

    def _read(self, block: float) -> int:
        # the first read does not block, so that a store that goes away later has answered once: an outage, not an error
        return self._streams.read(self._streams.outstanding, block if self._answered else None)

    # -- outages ---------------------------------------------------------------------------------------------------

    def _retry_request(self, read: Callable[[], T], deadline: float | None) -> T | int:
        """Read; while the store does not answer, try again, so that an outage is a pause. Reading twice changes
        nothing."""
        backoff, until = Backoff(most=1.0), time.monotonic() + OUTAGE
        while True:
            try:
                found = read()
                self._answered = True
                return found
            except redis.AuthenticationError as e:
                raise StoreRefused(f"The store refuses us: {e}") from e
            except (redis.ConnectionError, redis.TimeoutError) as e:
                if not (self._answered or self._known) or time.monotonic() > until:
                    raise StoreUnreachable(f"The store does not answer: {e}") from e
                if not backoff.failures:
                    log.warning("The store does not answer (%s); waiting on, results stay there.", e)
            except redis.ResponseError as e:
                raise StoreRefused(f"The store refuses to read results: {e}") from e
            pause = backoff.failed()
            if deadline is not None and time.monotonic() + pause > deadline:
                time.sleep(max(0.0, deadline - time.monotonic()))
                return 0
            time.sleep(pause)
