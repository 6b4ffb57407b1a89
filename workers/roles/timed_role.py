"""Run timed roles in a thread: each steps when it is due, and between steps the thread makes requests as they
arrive."""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Protocol

from jobqueue.errors import JobqError
from jobqueue.network.backoff import Backoff
from jobqueue.network.waits import bounded
from jobqueue.store.error_texts import is_away, without_script
from jobqueue.workers.shared.failures import Failures, keep_going
from jobqueue.workers.shared.own_thread import OwnThread

log = logging.getLogger(__name__)

REQUEST = "a request to the store"


SAME_OUTAGE = 10.0  # seconds after the start of an outage within which other threads may notice it


class TimedRole(Protocol):
    """A duty that is done again and again."""

    every: float  # seconds between two steps

    def step(self, now: float) -> object:
        """Do one turn. ``now``: monotonic seconds."""

    def reconnected(self) -> None:
        """Forget observations from before an outage of the store, which prove nothing."""


class Outage:
    """Logs once that the store is away, for several threads that notice it one after the other. Any thread may call
    it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._said = 0.0  # monotonic seconds of the last warning; 0.0: there was none
        self._over = True

    def begins(self, error: Exception) -> None:
        """Note that a request has failed because the store is away, and log it if that is new."""
        with self._lock:
            now = self._clock()
            is_known = not self._over or (self._said and now < self._said + SAME_OUTAGE)
            self._over = False
            if not is_known:
                self._said = now
                log.warning(
                    "the store does not answer (%s); running jobs go on, and we wait for it", without_script(error)
                )

    def is_over(self) -> None:
        """Note that the store answers, and log it if that is new."""
        with self._lock:
            if not self._over:
                self._over = True
                log.info("the store answers again")


class Attempt(Enum):
    """The result of a step or a request."""

    DONE = "done"
    AWAY = "away"  # the store does not answer, or takes no commands
    FAILED = "failed"  # the store answered; something else is wrong


class RoleThread:
    """A thread. It makes requests in order, each until it succeeds, and lets roles step on time, also while a request
    does not succeed.

    While the store is away the thread waits with backoff and logs that once; afterwards every role is told
    (``reconnected``) before it steps again. A role or a request that fails although the store answers is tried again
    with a backoff of its own, and the others go on (see failures.py).
    """

    def __init__(
        self,
        name: str,
        steps: Sequence[TimedRole],
        on_away: Callable[[], object] = lambda: None,
        failures: Failures | None = None,
        outage: Outage | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """on_away: called while the store is away, before each new attempt; outage: shared with other threads of this
        process, so that only one of them logs it."""
        self._steps = steps
        self._clock = clock
        self._names = [name_of(role) for role in steps]
        self._outage = outage or Outage(clock)
        self._on_away = on_away  # starts a local store again
        self._failures = failures or Failures()
        self._due = [0.0 for _ in steps]
        self._requests: queue.Queue[Callable[[], object]] = queue.Queue()
        self._at_hand: Callable[[], object] | None = None  # the request that was tried when the store was away
        self._set_aside: list[tuple[float, Callable[[], object]]] = []  # failed requests, and when each is tried again
        self._stop = threading.Event()
        body = partial(keep_going, name, self._run, self._failures, threading.Event())
        self._thread = OwnThread(body, name)
        self._backoff = Backoff()
        self._away: set[int] = set()  # roles (-1: requests) that found the store away and have not succeeded since

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """End the thread when it has made the requests that are there; return False if ``timeout`` seconds were not
        enough. May be called twice, and before ``start``."""
        if not self._stop.is_set():
            self._stop.set()
            self._requests.put(lambda: None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def is_away(self) -> bool:
        """Whether the store did not answer the last time that anything was tried. Any thread."""
        return bool(self._away) or self._at_hand is not None

    def do(self, request: Callable[[], object]) -> None:
        """Have the thread make a request, after the earlier ones. Any thread may call this."""
        self._requests.put(request)

    def _run(self) -> None:
        while not (self._stop.is_set() and self._requests.empty() and not self._at_hand and not self._set_aside):
            request = self._next()
            if request is not None:
                self._do(request)
            self._step()

    def _next(self) -> Callable[[], object] | None:
        """Wait until there is a request or a role is due; return the request, or None."""
        if self._at_hand is not None:
            return self._at_hand
        now = self._clock()
        if self._set_aside and (self._set_aside[0][0] <= now or (self._stop.is_set() and self._requests.empty())):
            time.sleep(0.5 if self._set_aside[0][0] > now else 0.0)  # at a stop a failed request is tried again soon
            return self._set_aside.pop(0)[1]
        due = [*self._due, *(when for when, _ in self._set_aside[:1])]
        try:
            return self._requests.get(timeout=bounded(min(due, default=now + 60.0) - now))
        except queue.Empty:
            return None

    def _do(self, request: Callable[[], object]) -> None:
        done, pause = self._attempt(-1, REQUEST, request)
        self._at_hand = request if done is Attempt.AWAY else None
        if done is Attempt.FAILED:  # it may need an operator's help: later requests need not wait for that
            self._set_aside.append((self._clock() + pause, request))
            self._set_aside.sort(key=lambda pair: pair[0])

    def _step(self) -> None:
        if self._stop.is_set():
            return
        for i, role in enumerate(self._steps):
            now = self._clock()
            if now < self._due[i]:
                continue
            done, pause = self._attempt(i, self._names[i], lambda role=role, now=now: role.step(now))  # type: ignore[misc]
            if done is not Attempt.AWAY:
                self._due[i] = now + min(
                    pause or role.every, max(role.every, 1.0)
                )  # however long the pause, the lease has to be renewed

    def _attempt(self, who: int, name: str, work: Callable[[], object]) -> tuple[Attempt, float]:
        """Do a piece of work; return how it went, and after a failure the seconds until the next attempt."""
        try:
            if self._backoff.failures:
                for role in self._steps:
                    role.reconnected()
            work()
        except Exception as e:
            if is_away(e):
                self._wait(who, e)
                return Attempt.AWAY, 0.0
            self._answered(who)
            return Attempt.FAILED, self._failures.failed(name, e)
        self._answered(who)
        if name is not REQUEST or not self._set_aside:
            self._failures.works(name)
        return Attempt.DONE, 0.0

    def _answered(self, who: int) -> None:
        """Note that the store has answered: the outage is over when every role and request that found it away has had
        an answer."""
        self._away.discard(who)
        if self._backoff.failures and not self._away:
            self._outage.is_over()
            self._backoff.reset()

    def _wait(self, who: int, error: Exception) -> None:
        """Log that the store is away, wait, and have a local store started again."""
        if not self._away:
            self._outage.begins(error)
        self._away.add(who)
        time.sleep(self._backoff.failed())
        try:
            self._on_away()
        except JobqError as e:
            log.debug("%s", e)
        except Exception as e:  # whatever may go wrong when a server is started again
            self._failures.failed("starting the store again", e)
        else:
            self._failures.works("starting the store again")


_NEXT_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")


def name_of(role: object) -> str:
    """Return the name of a role for the log, such as "the cron registration"."""
    named = getattr(role, "role", None) or type(role).__name__
    return "the " + _NEXT_WORD.sub(" ", named).lower()
