"""Look for the outcomes of many jobs over one connection, in the collector's thread.

    outstanding ──┬─ window: its first 128, one XREAD BLOCK, which the bell ends ──┬──► ended
                  ├─ sweep: all others, 4 times a second ──────────────────────────┤
                  └─ check: states of 1024, once a second ─────────────────────────┘

The window makes the usual case fast: jobs end more or less in the order in which they were submitted. The sweep makes
it fair: a job outside of the window, because 128 others take long, is seen all the same. When a sweep finds something,
others have overtaken the window, and its jobs go to the end of the line. A large executor is swept in parts, so that a
sweep costs the store some milliseconds.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from jobqueue.executor.private_queue import new_name
from jobqueue.model import Outcome
from jobqueue.protocol import keys
from jobqueue.results.streams import Bell, Streams
from jobqueue.results.waiter import GATHER, WINDOW
from jobqueue.store.connection import redis

BLOCK = 1.0  # seconds that one XREAD waits at most, and between two checks of states
SWEEP = 0.25  # seconds between two sweeps of what is outside the window
SWEEP_AT_ONCE = 8192  # jobs of one sweep
CHECK_AT_ONCE = 1024  # jobs of one check


class ResultReader:
    """The outstanding jobs of an executor. One thread reads; any other may ``ring``."""

    def __init__(
        self, client: redis.Redis, other: redis.Redis, loads: Callable[[bytes], Any], has_new: Callable[[], bool]
    ) -> None:
        """client: waits for results, and is closed at the end; other: rings the bell, from any thread, and stays open;
        has_new: returns whether jobs have been added that are not watched yet."""
        self._client, self._other = client, other
        self._has_new = has_new
        self._streams = Streams(client, _contained(loads))
        self._bell = Bell(keys.bell(new_name("executor")))
        self._rung_at = 0.0
        self._deaf = True  # the thread is not in a wait that the bell should end
        self._over = False  # the reading thread has ended
        self._next_sweep = self._next_check = 0.0
        self._to_sweep: deque[str] = deque()
        self._to_check: deque[str] = deque()

    # -- from any thread -------------------------------------------------------------------------------------------

    def ring(self) -> None:
        """End the reading thread's wait, if it is waiting."""
        if self._deaf:
            return
        self._deaf = True  # one ring is enough until the thread waits again
        try:
            with self._other.pipeline(transaction=False) as pipe:
                pipe.xadd(self._bell.key, {"new": 1}, maxlen=1, approximate=False)
                pipe.expire(self._bell.key, 3600)
                pipe.execute()
        except redis.RedisError:  # the wait ends by itself after a second
            pass
        if self._over:  # the thread has ended before the ring
            self._take_down_bell()

    def _take_down_bell(self) -> None:
        try:
            self._other.delete(self._bell.key)
        except redis.RedisError:  # it expires
            pass

    # -- from the reading thread -----------------------------------------------------------------------------------

    def watch(self, job_id: str) -> None:
        """Look for this job's outcome from now on."""
        self._streams.watch(job_id)

    def forget(self, job_id: str) -> None:
        """Stop looking for this job's outcome."""
        self._streams.outstanding.pop(job_id, None)

    def take(self) -> dict[str, Outcome]:
        """Return the outcomes found since the last call, by job."""
        ended, self._streams.ended = self._streams.ended, {}
        return ended

    def begin(self) -> None:
        """Start the time to the next sweep and check now, after a time without any jobs."""
        now = time.monotonic()
        self._next_check, self._next_sweep = now + BLOCK, now + SWEEP

    def look(self) -> None:
        """Look once, waiting for a second at most. Raises what redis-py raises."""
        now = time.monotonic()
        others = len(self._streams.outstanding) - WINDOW
        until = min(self._next_check, self._next_sweep) if others > 0 else self._next_check
        window = list(itertools.islice(self._streams.outstanding, WINDOW))
        found = self._read(window, min(BLOCK, until - now))
        now = time.monotonic()
        if others > 0 and now >= self._next_sweep:
            self._sweep(window)
            self._next_sweep = time.monotonic() + max(SWEEP, 5 * (time.monotonic() - now))
        if now >= self._next_check:
            self._next_check = now + BLOCK
            self._streams.check(self._next_of(self._to_check, CHECK_AT_ONCE))
        if 0 < found < WINDOW // 4 and len(self._streams.outstanding) > 1:
            time.sleep(GATHER * min(4, found))  # more will come soon: gather several for one read

    def _read(self, window: list[str], block: float) -> int:
        self._deaf = len(window) >= WINDOW  # a new job would not fit into the window
        if self._has_new():  # it was added while the bell was off
            self._deaf, block = True, 0.0
        heard = self._bell.heard
        found = self._streams.read(window, block if block > 0 else None, self._bell)
        self._deaf = True
        if self._bell.heard != heard:
            if time.monotonic() < self._rung_at + 5 * GATHER:
                time.sleep(GATHER)  # a caller submits one job after the other: do not let it ring for each
            self._rung_at = time.monotonic()
        return found

    def _sweep(self, window: list[str]) -> None:
        inside = set(window)
        some = [i for i in self._next_of(self._to_sweep, SWEEP_AT_ONCE) if i not in inside]
        if some and self._streams.sweep(some):
            for job_id in window:  # later jobs have ended before these, so let the next ones into the window
                if (seen := self._streams.outstanding.pop(job_id, None)) is not None:
                    self._streams.outstanding[job_id] = seen

    def _next_of(self, line: deque[str], most: int) -> list[str]:
        """Return the next ``most`` of all outstanding jobs, starting over at the end."""
        if not line:
            line.extend(self._streams.outstanding)
        taken = [line.popleft() for _ in range(min(most, len(line)))]
        return [job_id for job_id in taken if job_id in self._streams.outstanding]

    def close(self) -> None:
        """Close the connection; a later ring leaves nothing behind in the store."""
        self._over = True
        self._take_down_bell()
        self._client.close()


def _contained(loads: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return a reader of results whose errors are Exceptions: a SystemExit or KeyboardInterrupt that a result raises
    while it is read must not end the thread that reads for all."""

    def read(data: bytes) -> Any:
        try:
            return loads(data)
        except Exception:
            raise
        except BaseException as e:
            raise RuntimeError(f"it raised {type(e).__name__}") from None

    return read
