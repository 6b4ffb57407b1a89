"""Run threads in turns: one at a time, and the test decides which is next.

An actor ends its turn where the code under test lets other threads continue anyway: where it waits for its lock's
condition, and where the fake wire talks to the store. So every order of these moments can be tried and repeated. Time
passes only while a thread waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

IDLE, WAITS = "idle", "waits"
DEADLINE = 30.0  # seconds until a turn that does not end is an error


class Abandoned(BaseException):
    """The history is over; no code of ours catches this."""


class Actor:
    """A thread that does one request after the other, each in as many turns as it takes."""

    def __init__(self, turns: Turns, name: str) -> None:
        self.name = name
        self.place = IDLE
        self.timeout: float | None = None  # while it waits: for this long at most
        self.notified = False
        self._turns = turns
        self._request: Callable[[], None] = lambda: None
        self._is_over = False
        self._error: BaseException | None = None
        self._turn = threading.Lock()
        self._turn.acquire()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def __repr__(self) -> str:
        return f"{self.name} ({self.place})"

    @property
    def can_go_on(self) -> bool:
        """Return whether there is something to do that does not wait for another thread."""
        if self.place == WAITS:
            return self.notified or self.timeout is not None
        return self.place != IDLE

    def do(self, request: Callable[[], None]) -> None:
        """Start a request, and run to the first place where it ends its turn, or to its end."""
        assert self.place == IDLE, self
        self._request = request
        self.go_on()

    def go_on(self) -> None:
        """Run to the next such place."""
        self._give_turn()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def abandon(self) -> None:
        """End the thread, wherever it is."""
        self._is_over = True
        self._give_turn()

    def park(self, place: str) -> None:
        """End the actor's turn at this place; return when it has the turn again. The actor calls it."""
        self.place = place
        self._turns.back.release()
        self._turn.acquire()
        if self._is_over:
            raise Abandoned

    def _give_turn(self) -> None:
        self._turns.current = self
        self._turn.release()
        if not self._turns.back.acquire(timeout=DEADLINE):
            raise AssertionError(f"{self} neither ends nor gives its turn away")
        self._turns.current = None

    def _run(self) -> None:
        self._turn.acquire()
        while not self._is_over:
            try:
                self._request()
            except Abandoned:
                break
            except BaseException as e:
                self._error = e
            self.place = IDLE
            self._turns.back.release()
            self._turn.acquire()
        self.place = IDLE
        self._turns.back.release()


class Turns:
    """The thread that has the turn, and the time."""

    def __init__(self) -> None:
        self.current: Actor | None = None  # None: the test itself
        self.back = threading.Lock()
        self.back.acquire()
        self.now = 1000.0  # monotonic seconds
        self.lock = OneLock(self)

    def monotonic(self) -> float:
        return self.now


class OneLock:
    """Stand in for a ``threading.Condition``. The thread that has the turn finds it free: otherwise a thread has ended
    its turn while holding it, and all others would wait for Redis."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._holder: Actor | str | None = None
        self._waiting: list[Actor] = []

    def acquire(self) -> None:
        assert self._holder is None, f"{self._holder} holds the lock and lets others run"
        self._holder = self._turns.current or "the test"

    def release(self) -> None:
        assert self._holder is not None, "released twice"
        self._holder = None

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def wait(self, timeout: float | None = None) -> bool:
        actor = self._turns.current
        assert actor is not None, "the test itself must not wait"
        assert self._holder is actor
        self._holder, actor.notified, actor.timeout = None, False, timeout
        self._waiting.append(actor)
        try:
            actor.park(WAITS)
        finally:
            if actor in self._waiting:
                self._waiting.remove(actor)
            self.acquire()
        if not actor.notified:
            assert timeout is not None, f"{actor} was woken by nobody"
            self._turns.now += timeout
        return actor.notified

    def notify(self, number: int = 1) -> None:
        assert self._holder is not None
        for actor in self._waiting[:number]:
            actor.notified = True
        del self._waiting[:number]

    def notify_all(self) -> None:
        self.notify(len(self._waiting))
