"""The one timed loop: a thread that does errands as they come and steps when they are due."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from redis.exceptions import RedisError

from jobqueue.backoff import Backoff
from jobqueue.errors import JobqError

log = logging.getLogger(__name__)


class Step(Protocol):
    """A role: does one turn when it is due."""

    every: float  # seconds

    def step(self, now: float) -> object: ...

    def reconnected(self) -> None:
        """The store was away: what was seen before proves nothing."""


class Periodic:
    """Runs errands in order, each until it succeeds, and steps on time. While the store is away it waits with backoff
    and says so once; afterwards every role hears of it before it steps again."""

    def __init__(self, name: str, steps: Sequence[Step], on_away: Callable[[], object] = lambda: None) -> None:
        self._steps = steps
        self._on_away = on_away  # a local store is started again; somebody else's is waited for
        self._due = [0.0 for _ in steps]
        self._errands: queue.Queue[Callable[[], object]] = queue.Queue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._backoff = Backoff()
        self._away: set[int] = set()  # who failed and has not succeeded since; a store may answer some and not others

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Finish the errands that are there; False: the time was not enough. Stopping twice is fine."""
        if not self._stop.is_set():
            self._stop.set()
            self._errands.put(lambda: None)
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def do(self, errand: Callable[[], object]) -> None:
        self._errands.put(errand)

    def _run(self) -> None:
        while not (self._stop.is_set() and self._errands.empty()):
            try:
                errand = self._errands.get(timeout=self._until_due())
            except queue.Empty:
                self._step()
                continue
            while not self._attempt(-1, errand):
                pass
            self._step()

    def _until_due(self) -> float:
        return max(0.0, min(self._due, default=3600.0) - time.monotonic())

    def _step(self) -> None:
        if self._stop.is_set():
            return
        for i, role in enumerate(self._steps):
            now = time.monotonic()
            if now >= self._due[i] and self._attempt(i, lambda role=role, now=now: role.step(now)):  # type: ignore[misc]
                self._due[i] = now + role.every

    def _attempt(self, who: int, errand: Callable[[], object]) -> bool:
        try:
            if self._backoff.failures:
                for role in self._steps:
                    role.reconnected()
            errand()
        except (RedisError, OSError) as e:
            self._wait(who, e)
            return False
        self._away.discard(who)
        if self._backoff.failures and not self._away:
            log.info("the store answers again")
            self._backoff.reset()
        return True

    def _wait(self, who: int, error: Exception) -> None:
        if not self._away:
            log.warning("the store does not answer (%s); running jobs go on, and we wait for it", error)
        self._away.add(who)
        time.sleep(self._backoff.failed())
        try:
            self._on_away()
        except JobqError as e:
            log.debug("%s", e)
