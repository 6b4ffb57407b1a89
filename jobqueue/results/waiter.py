"""Waiting for results: one connection, one XREAD over a window of jobs, outcomes in the order that was asked for.

    ids ──► window (at most 128 outstanding) ──XREAD BLOCK──► ended ──► outcomes, in order
                 ▲                                              │
                 └── each second: states of the window ─────────┘  canceled, stopped, deleted: no stream says so

What a stream says of a job's end is read by streams.py.
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
MOST_AHEAD = 2048  # outcomes kept for a job that holds up the order; the rest stay in their streams
BLOCK = 1.0  # seconds of silence after which the states are read
FIRST_CHECK = 0.1  # seconds until the states are read first: who asks for a canceled job need not wait a second
GATHER = 0.004  # seconds: while a full window shows that there is much to come, results are taken in handfuls
OUTAGE = 300.0  # seconds after which a store that is away is an error

T = TypeVar("T")


def _warn(reason: str) -> None:
    log.warning("Waiting for results, but %s.", reason)


class Waiter:
    """Waits for jobs of any number over one client. Not for several threads at once; make one for each."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        loads: Callable[[bytes], Any] = Auto.loads,
        window: int = WINDOW,
        known: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """``known``: the store has answered the caller before, so that an error at once is an outage too. ``say``: is
        told once why nothing comes (no worker, a paused queue); without it that is a warning in the log."""
        client = bounded(client)
        self._streams = Streams(client, loads)
        self._window = window
        self._known = known
        self._answered = False  # the store has answered us before: an error now is an outage
        self._next_check = 0.0
        self._silence = StallReporter(
            lambda: why_stalled(client, next(iter(self._streams.outstanding), "")), say or _warn
        )
        socket_timeout = client.connection_pool.connection_kwargs.get("socket_timeout")
        self._block = min(BLOCK, socket_timeout / 2) if socket_timeout else BLOCK

    def outcomes(self, ids: Iterable[str | None], timeout: float | None = None) -> Iterator[Outcome]:
        """Iterate over the outcomes of the jobs in their order; timeout in seconds, for all.

        A None among the ids says that there are no more right now; it will be asked again. Raises ResultTimeout at
        the first job that has no outcome in time, StoreUnreachable, StoreRefused.
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
            if not streams.outstanding and not waiting:  # all given out: fill again before waiting for anything
                continue
            if not order or deadline is None or time.monotonic() < deadline:
                self._step(deadline, 0.05 if waiting else self._block)
            elif not self._look_once_more(order[0], deadline):
                raise ResultTimeout(f"Job {order[0]} has no result after {timeout:g} s; it goes on.", order[0])

    def _fill(self, source: Iterator[str | None], order: deque[str], more: bool) -> tuple[bool, bool]:
        """Move ids into the window; tell whether there are more, and whether they are still to come."""
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
        """Tell whether the job has ended. Who gave no time, or had none left, is told what there is."""
        streams = self._streams
        self._retry_request(lambda: streams.read(streams.outstanding, None), deadline)
        if job_id not in streams.ended:
            self._retry_request(lambda: streams.check([job_id]), deadline)
        return job_id in streams.ended

    def _read(self, block: float) -> int:
        # the first read does not block: a store that then goes away has answered, and its outage is a pause
        return self._streams.read(self._streams.outstanding, block if self._answered else None)

    # -- outages ---------------------------------------------------------------------------------------------------

    def _retry_request(self, read: Callable[[], T], deadline: float | None) -> T | int:
        """Read; while the store is away try again, so that an outage is a pause. Reading twice changes nothing."""
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
