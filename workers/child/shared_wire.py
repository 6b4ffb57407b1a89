"""Share the one connection on which a child settles and claims among its threads: one request at a time, and nobody
holds the lock while Redis is waited for.

    free ── send ──► sending ──► awaiting ── read ──► reading ──► free
                        └───────────── broken ◄─────────┘
    broken, free ──────────────► mending ──► free; where an attempt fails, mending again

Who changes the state holds the consumer's lock, gives it away while it talks to Redis, and holds it again on return.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from redis.exceptions import RedisError, ResponseError

from jobqueue.clock import monotonic
from jobqueue.network.backoff import Backoff
from jobqueue.protocol.cycle import Cycle, CycleRequest
from jobqueue.protocol.wire import Wire
from jobqueue.store.error_texts import without_script
from jobqueue.workers.shared.journal import SharedPage

log = logging.getLogger(__name__)
T = TypeVar("T")


class WireState(Enum):
    """The state of the connection, which says what may be done with it."""

    FREE = "free"
    SENDING = "sending"
    AWAITING = "awaiting"
    READING = "reading"
    BROKEN = "broken"
    MENDING = "mending"


class SharedWire:
    """The connection and its state. An exception that interrupts the calling thread, and is not an error of Redis,
    leaves the state as it was during the wait."""

    def __init__(self, wire: Wire, lock: threading.Condition, page: SharedPage) -> None:
        self._wire = wire
        self._page = page
        self._lock = lock
        self._backoff = Backoff(first=0.1, free=1)  # the first time at once
        self.state = WireState.BROKEN  # not connected yet: the first slot mends it

    def send(self, request: CycleRequest) -> Exception | None:
        """Send CYCLE while the connection is free; return the error, or None."""
        self.state = WireState.SENDING
        error = self._unlocked(lambda: self._wire.send(request))
        if isinstance(error, Exception):
            self._broke(error)
            return error
        self.state = WireState.AWAITING
        return None

    def read(self) -> Cycle | Exception:
        """Wait for the reply to the request; return it, or the error."""
        self.state = WireState.READING
        reply = self._unlocked(self._wire.receive)
        if isinstance(reply, Exception):
            self._broke(reply)
            return reply
        self.state = WireState.FREE
        if self._backoff.failures:
            log.info("the store answers again")
            self._backoff.reset()
        return reply

    # -- mending, step by step (see mender.py) -------------------------------------------------------------------------

    def begin_to_mend(self) -> None:
        self.state = WireState.MENDING

    def wait_before_attempt(self) -> bool:
        """Wait as long as the number of failed attempts requires. Return whether there were any."""
        if pause := self._backoff.pause():
            self._lock.wait(pause)
        return self._backoff.failures > 0

    def attempt(self, talk: Callable[[Wire], T]) -> T | Exception:
        """Call ``talk`` with the wire; return its answer, or the error."""
        result = self._unlocked(lambda: talk(self._wire))
        if isinstance(result, Exception):
            self._broke(result)
            self.state = WireState.MENDING
            self._page.set_unanswered(self._page.unanswered_since or monotonic())
        return result

    def mended(self) -> None:
        self.state = WireState.FREE
        self._page.set_unanswered(0.0)
        self._lock.notify_all()

    def stay_broken(self) -> None:
        """Note that mending has failed for now."""
        self.state = WireState.BROKEN
        self._lock.notify_all()

    def _broke(self, error: Exception) -> None:
        if not self._backoff.failures:
            what = "refuses what it is asked" if isinstance(error, ResponseError) else "does not answer"
            log.warning("the store %s (%s); running jobs go on, and we wait for it", what, without_script(error))
        self._backoff.failed()
        self.state = WireState.BROKEN

    def _unlocked(self, talk: Callable[[], T]) -> T | Exception:
        """Call ``talk`` without the lock. An error is returned, not raised, so that the lock is held again in any
        case."""
        self._lock.release()
        try:
            return talk()
        except (RedisError, OSError) as e:
            return e
        finally:
            self._lock.acquire()
