"""One thread and one connection that wait for all futures of an executor.

    submit ──► inbox ──► outstanding ──┬─ window: its first 128, one XREAD BLOCK ──┬──► outcome ──► future
       └── bell: ends the XREAD ───────┤                                           │
                                       ├─ sweep: all others, 4 times a second ─────┤
                                       └─ check: states of 1024, once a second ────┘

The window makes the usual case fast: jobs end more or less in the order in which they were submitted. The sweep makes
it fair: a job whose turn in the window does not come, because 128 others take long, is seen all the same. Where a sweep
finds something, the window has been passed, and its jobs go to the end of the line. A large executor is swept in
parts, so that a sweep costs the store some milliseconds.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import InvalidStateError
from contextlib import contextmanager
from typing import Any

from jobqueue.errors import BrokenWorkers, StoreError, StoreRefused, StoreUnreachable
from jobqueue.executor.futures import JobFuture
from jobqueue.executor.private_queue import new_name
from jobqueue.network.backoff import Backoff
from jobqueue.protocol import keys
from jobqueue.results.streams import Bell, Streams
from jobqueue.results.waiter import GATHER, OUTAGE, WINDOW
from jobqueue.store.connection import redis
from jobqueue.store.open import Store

log = logging.getLogger(__name__)

BLOCK = 1.0  # seconds that one XREAD waits at most, and between two checks of states
SWEEP = 0.25  # seconds between two looks at what is outside the window
SWEEP_AT_ONCE = 8192  # jobs
CHECK_AT_ONCE = 1024  # jobs
TURN = "the collector's turn failed"


class Collector:
    """Futures come in from any thread; their outcomes are set by the thread of this one, which ends at ``close`` when
    nothing is outstanding, or at ``abandon``."""

    def __init__(
        self,
        store: Store,
        client: redis.Redis,
        loads: Callable[[bytes], Any],
        on_settled: Callable[[JobFuture], None],
        on_turn: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        """client: for the bell, whichever thread rings it; it stays open. on_settled: a future has its outcome.
        on_turn: once a second or more often; may raise what then ends all futures. on_end: the last thing that the
        thread does."""
        self._store = store
        self._client = store.client()  # waits for results
        self._other = client
        self._streams = Streams(self._client, _contained(loads))
        self._on_settled, self._on_turn, self._on_end = on_settled, on_turn, on_end
        self._futures: dict[str, JobFuture] = {}
        self._inbox: deque[JobFuture] = deque()
        self._gone: deque[JobFuture] = deque()  # done without us: canceled
        self._news = threading.Condition()
        self._bell = Bell(keys.bell(new_name("executor")))
        self._rung_at = 0.0
        self._deaf = True  # the thread is not in a wait that a bell would have to end
        self._closing = False
        self._broken: BrokenWorkers | None = None  # what ended the thread before its time
        self._over = False  # nobody hears the bell any more
        self._ended = threading.Event()
        self._entering = 0  # threads that are about to add futures
        self._next_sweep = self._next_check = 0.0
        self._to_sweep: deque[str] = deque()
        self._to_check: deque[str] = deque()
        self._away_since: float | None = None
        self._backoff = Backoff(most=1.0)
        self.thread = threading.Thread(target=self._run, name="jobq-executor", daemon=True)

    # -- from other threads ----------------------------------------------------------------------------------------

    @contextmanager
    def open_for_more(self) -> Iterator[None]:
        """While inside, futures may be added and the thread does not end. Raises RuntimeError after ``close``."""
        with self._news:
            if self._broken:
                raise BrokenWorkers(str(self._broken))
            if self._closing:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._entering += 1
        try:
            yield
        finally:
            with self._news:
                self._entering -= 1
                self._news.notify()

    def add(self, futures: Iterable[JobFuture]) -> None:
        """Wait for these too."""
        with self._news:
            self._inbox.extend(futures)
            self._news.notify()
        if self._broken is not None:  # the thread has ended meanwhile
            self.abandon(self._broken)
        self._ring()

    def forget(self, futures: Iterable[JobFuture]) -> None:
        """These were canceled: nobody waits for them any more."""
        with self._news:
            self._gone.extend(futures)
            self._news.notify()
        self._ring()

    def close(self) -> None:
        """End the thread when nothing is outstanding. (No bell: who waits for results has some to wait for.)"""
        with self._news:
            self._closing = True
            self._news.notify()

    def pending(self) -> list[JobFuture]:
        """The futures that have no outcome yet, oldest first."""
        with self._news:
            return [f for f in [*self._futures.values(), *self._inbox] if not f.done()]

    def abandon(self, error: BaseException) -> None:
        """End all futures that have no outcome with ``error``, and with them the wait."""
        futures = self.pending()
        for future in futures:
            try:
                future.set_exception(error)
            except InvalidStateError:  # it got its outcome this very moment
                continue
            except BaseException as e:
                if threading.current_thread() is not self.thread:  # Ctrl-C
                    raise
                _tell_of_callback(future, e)
        self.forget(futures)

    def join(self) -> None:
        """Wait until the thread has done the last thing that it does. (Not Thread.join: before Python 3.13, one that
        Ctrl-C has interrupted takes the thread for ended, and the next one does not wait.)"""
        self._ended.wait()

    def _ring(self) -> None:
        if self._deaf or threading.current_thread() is self.thread:
            return
        self._deaf = True  # one ring is enough for all who come until the thread waits again
        try:
            with self._other.pipeline(transaction=False) as pipe:
                pipe.xadd(self._bell.key, {"new": 1}, maxlen=1, approximate=False)
                pipe.expire(self._bell.key, 3600)
                pipe.execute()
        except redis.RedisError:  # the wait ends by itself after a second
            pass
        if self._over:  # the thread had left before it was rung for
            self._take_down_bell()

    def _take_down_bell(self) -> None:
        try:
            self._other.delete(self._bell.key)
        except redis.RedisError:  # it expires
            pass

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._await_work():
                self._turn()
        except BaseException as e:  # a mistake of ours, or memory is short: nobody may wait for ever for this thread
            log.exception("The executor's thread failed: its futures end with this error, and it takes no more.")
            self._broken = BrokenWorkers(f"The executor's thread failed: {type(e).__name__}: {e}")
            self.close()
            self.abandon(self._broken)
        finally:
            self._over = True
            self._take_down_bell()
            self._client.close()
            try:
                self._on_end()
            finally:
                self._ended.set()

    def _await_work(self) -> bool:
        """Take in what is new; wait while there is nothing to wait for. False: it is over."""
        with self._news:
            while True:
                self._admit()
                if self._futures:
                    return True
                if self._closing and not self._entering:
                    return False
                self._news.wait()
                now = time.monotonic()
                self._next_check, self._next_sweep = now + BLOCK, now + SWEEP

    def _admit(self) -> None:
        while self._inbox:
            future = self._inbox.popleft()
            self._futures[future.job_id] = future
            self._streams.watch(future.job_id)
        while self._gone:
            job_id = self._gone.popleft().job_id
            self._streams.outstanding.pop(job_id, None)
            if job_id in self._futures:
                self._on_settled(self._futures.pop(job_id))

    def _turn(self) -> None:
        """Look once, and tell what was seen. An outage is a pause; what cannot pass ends all futures."""
        try:
            self._on_turn()
            self._look()
            self._away_since = None
            self._backoff.reset()
        except redis.AuthenticationError as e:
            self.abandon(StoreRefused(f"The store refuses us: {e}"))
        except (redis.ConnectionError, redis.TimeoutError) as e:
            self._be_patient(e)
        except redis.RedisError as e:
            self.abandon(StoreRefused(f"The store refuses to read results: {e}"))
        except Exception as e:  # the workers are broken; or a mistake of ours, which must not leave anybody waiting
            log.debug(TURN, exc_info=True)
            self.abandon(e)
        self._deliver()

    def _be_patient(self, error: Exception) -> None:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            log.warning("The store does not answer (%s); waiting on, results stay there.", error)
        if now > self._away_since + OUTAGE:
            self.abandon(StoreUnreachable(f"The store does not answer: {error}"))
        time.sleep(self._backoff.failed())
        try:
            self._store.ensure()
        except StoreError:  # the next turn tries again
            pass

    def _look(self) -> None:
        now = time.monotonic()
        others = len(self._futures) - WINDOW
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
            time.sleep(GATHER * min(4, found))  # there is more to come: take it in handfuls

    def _read(self, window: list[str], block: float) -> int:
        self._deaf = len(window) >= WINDOW  # who comes now has no place in it
        with self._news:
            if self._inbox:  # it came while the bell was off
                self._deaf, block = True, 0.0
        heard = self._bell.heard
        found = self._streams.read(window, block if block > 0 else None, self._bell)
        self._deaf = True
        if self._bell.heard != heard:
            if time.monotonic() < self._rung_at + 5 * GATHER:
                time.sleep(GATHER)  # somebody submits one after the other: not a ring for each
            self._rung_at = time.monotonic()
        return found

    def _sweep(self, window: list[str]) -> None:
        inside = set(window)
        some = [i for i in self._next_of(self._to_sweep, SWEEP_AT_ONCE) if i not in inside]
        if some and self._streams.sweep(some):
            for job_id in window:  # others have passed them: they take long, and the next ones should have the window
                if (seen := self._streams.outstanding.pop(job_id, None)) is not None:
                    self._streams.outstanding[job_id] = seen

    def _next_of(self, line: deque[str], most: int) -> list[str]:
        """The next ones of all outstanding jobs, round and round."""
        if not line:
            line.extend(self._streams.outstanding)
        taken = [line.popleft() for _ in range(min(most, len(line)))]
        return [job_id for job_id in taken if job_id in self._streams.outstanding]

    def _deliver(self) -> None:
        ended, self._streams.ended = self._streams.ended, {}
        for job_id, outcome in ended.items():
            with self._news:
                future = self._futures.pop(job_id, None)
            if future is not None:
                try:
                    future.settle(outcome)
                except BaseException as e:  # Future lets these pass; they must not end the thread for all others
                    _tell_of_callback(future, e)
                self._on_settled(future)


def _tell_of_callback(future: JobFuture, error: BaseException) -> None:
    log.error("a callback of the future of job %s raised %s", future.job_id, type(error).__name__)


def _contained(loads: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Let what reading a result raises be no SystemExit or KeyboardInterrupt of the thread that reads it for all."""

    def read(data: bytes) -> Any:
        try:
            return loads(data)
        except Exception:
            raise
        except BaseException as e:
            raise RuntimeError(f"it raised {type(e).__name__}") from None

    return read
