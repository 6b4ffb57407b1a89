"""Wait for all futures of an executor in one thread, over one connection.

    submit ──► inbox ──► futures ──► ResultReader ──► outcome ──► future
       └── ring: ends the reader's wait

The thread takes in new futures, lets the reader look for outcomes, and sets them; an outage of the store is a pause, an
error that cannot pass ends all futures.
"""

from __future__ import annotations

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
from jobqueue.executor.result_reader import ResultReader
from jobqueue.network.backoff import Backoff
from jobqueue.results.waiter import OUTAGE
from jobqueue.store.connection import redis
from jobqueue.store.open import Store

log = logging.getLogger(__name__)

TURN = "the collector's turn failed"


class Collector:
    """The futures of an executor without an outcome. Any thread may add futures; the collector's own thread sets their
    outcomes. It ends after ``close`` when no future is left, or at ``abandon``."""

    def __init__(
        self,
        store: Store,
        client: redis.Redis,
        loads: Callable[[bytes], Any],
        on_settled: Callable[[JobFuture], None],
        on_turn: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        """client: rings the bell, from any thread; it stays open. on_settled: called when a future has its outcome.
        on_turn: called once a second or more often; what it raises ends all futures. on_end: called at the end of the
        thread."""
        self._store = store
        self._reader = ResultReader(store.client(), client, loads, self._has_new)
        self._on_settled, self._on_turn, self._on_end = on_settled, on_turn, on_end
        self._futures: dict[str, JobFuture] = {}
        self._inbox: deque[JobFuture] = deque()
        self._gone: deque[JobFuture] = deque()  # futures that were canceled
        self._news = threading.Condition()
        self._closing = False
        self._broken: BrokenWorkers | None = None  # the error that ended the thread too early
        self._ended = threading.Event()
        self._entering = 0  # number of threads that are about to add futures
        self._away_since: float | None = None
        self._backoff = Backoff(most=1.0)
        self.thread = threading.Thread(target=self._run, name="jobq-executor", daemon=True)

    # -- from other threads ----------------------------------------------------------------------------------------

    @contextmanager
    def open_for_more(self) -> Iterator[None]:
        """Inside, futures may be added and the thread does not end. Raises RuntimeError after ``close``."""
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
        """Add futures to wait for."""
        with self._news:
            self._inbox.extend(futures)
            self._news.notify()
        if self._broken is not None:  # the thread has ended in the meantime
            self.abandon(self._broken)
        self._ring()

    def _ring(self) -> None:
        if threading.current_thread() is not self.thread:
            self._reader.ring()

    def _has_new(self) -> bool:
        with self._news:
            return bool(self._inbox)

    def forget(self, futures: Iterable[JobFuture]) -> None:
        """Drop futures that were canceled."""
        with self._news:
            self._gone.extend(futures)
            self._news.notify()
        self._ring()

    def close(self) -> None:
        """End the thread when no future is left. (No ring is needed: as long as the thread waits for results, some are
        left.)"""
        with self._news:
            self._closing = True
            self._news.notify()

    def pending(self) -> list[JobFuture]:
        """Return the futures that have no outcome yet, oldest first."""
        with self._news:
            return [f for f in [*self._futures.values(), *self._inbox] if not f.done()]

    def abandon(self, error: BaseException) -> None:
        """End all futures that have no outcome with ``error``, and with them the wait."""
        futures = self.pending()
        for future in futures:
            try:
                future.set_exception(error)
            except InvalidStateError:  # it got its outcome at this very moment
                continue
            except BaseException as e:
                if threading.current_thread() is not self.thread:  # Ctrl-C
                    raise
                _tell_of_callback(future, e)
        self.forget(futures)

    def join(self) -> None:
        """Wait until the thread has called ``on_end``. (Not Thread.join: before Python 3.13, a join that Ctrl-C has
        interrupted marks the thread as ended, and the next join does not wait.)"""
        self._ended.wait()

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._await_work():
                self._turn()
        except BaseException as e:  # a bug of jobq's, or no memory: no caller may wait for ever for this thread
            log.exception("The executor's thread failed: its futures end with this error, and it accepts no more jobs.")
            self._broken = BrokenWorkers(f"The executor's thread failed: {type(e).__name__}: {e}")
            self.close()
            self.abandon(self._broken)
        finally:
            self._reader.close()
            try:
                self._on_end()
            finally:
                self._ended.set()

    def _await_work(self) -> bool:
        """Take in what is new; wait while there is no future. Return False at the end."""
        with self._news:
            while True:
                self._admit()
                if self._futures:
                    return True
                if self._closing and not self._entering:
                    return False
                self._news.wait()
                self._reader.begin()

    def _admit(self) -> None:
        while self._inbox:
            future = self._inbox.popleft()
            self._futures[future.job_id] = future
            self._reader.watch(future.job_id)
        while self._gone:
            job_id = self._gone.popleft().job_id
            self._reader.forget(job_id)
            if job_id in self._futures:
                self._on_settled(self._futures.pop(job_id))

    def _turn(self) -> None:
        """Look once and set the outcomes found. An outage is a pause; an error that cannot pass ends all futures."""
        try:
            self._on_turn()
            self._reader.look()
            self._away_since = None
            self._backoff.reset()
        except redis.AuthenticationError as e:
            self.abandon(StoreRefused(f"The store refuses us: {e}"))
        except (redis.ConnectionError, redis.TimeoutError) as e:
            self._be_patient(e)
        except redis.RedisError as e:
            self.abandon(StoreRefused(f"The store refuses to read results: {e}"))
        except Exception as e:  # the workers are broken; or a bug of jobq's, which must not leave a caller waiting
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

    def _deliver(self) -> None:
        for job_id, outcome in self._reader.take().items():
            with self._news:
                future = self._futures.pop(job_id, None)
            if future is not None:
                try:
                    future.settle(outcome)
                except BaseException as e:
                    # Raised by a callback; Future lets it pass, and it must not end the thread for all other futures.
                    _tell_of_callback(future, e)
                self._on_settled(future)


def _tell_of_callback(future: JobFuture, error: BaseException) -> None:
    log.error("a callback of the future of job %s raised %s", future.job_id, type(error).__name__)
