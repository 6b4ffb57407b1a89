"""One thread that waits for all futures of an executor, over one connection.

    submit ──► inbox ──► futures ──► ResultReader ──► outcome ──► future
       └── ring: ends the reader's wait

The thread takes in new futures, lets the reader look for outcomes, and hands those out; an outage of the store is a
pause, an error that cannot pass ends all futures.
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
        self._reader = ResultReader(store.client(), client, loads, self._has_new)
        self._on_settled, self._on_turn, self._on_end = on_settled, on_turn, on_end
        self._futures: dict[str, JobFuture] = {}
        self._inbox: deque[JobFuture] = deque()
        self._gone: deque[JobFuture] = deque()  # done without us: canceled
        self._news = threading.Condition()
        self._closing = False
        self._broken: BrokenWorkers | None = None  # what ended the thread before its time
        self._ended = threading.Event()
        self._entering = 0  # threads that are about to add futures
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

    def _ring(self) -> None:
        if threading.current_thread() is not self.thread:
            self._reader.ring()

    def _has_new(self) -> bool:
        with self._news:
            return bool(self._inbox)

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
            self._reader.close()
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
        """Look once, and tell what was seen. An outage is a pause; what cannot pass ends all futures."""
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

    def _deliver(self) -> None:
        for job_id, outcome in self._reader.take().items():
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
