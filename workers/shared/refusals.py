"""Tell whether the store refuses all outcomes for now, or one outcome for good.

    all outcomes          the store is full, read-only, loading, or grants no rights: all wait until that is over
    one outcome           is larger than the server accepts, or gets another error: its job fails, and the outcomes that
                          were sent with it are recorded

A server that is sent too much closes the connection, at best with an error. So an outcome whose connection was lost is
sent alone, until it is accepted or it is clear that it never will be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from jobqueue.network.backoff import Backoff
from jobqueue.protocol.outcomes import JobOutcome
from jobqueue.store.error_texts import without_script

LARGE = 256 * 1024  # bytes; no server has a limit below 1 MB
UNSAID, FULL, ENOUGH = 5, 10, 20  # attempts alone, if: the server's limits are unknown; it answered OOM; in any case

_OF_THE_STORE = (
    *(AuthenticationError, ClusterDownError, MasterDownError, NoPermissionError, OutOfMemoryError, ReadOnlyError),
    TryAgainError,
)
_CODES = ("MISCONF", "NOREPLICAS", "BUSY", "NOQUORUM", "UNKILLABLE")


def of_the_store(error: BaseException) -> bool:
    """Return whether the store would refuse any outcome with this error: it is full, read-only, cut off."""
    return isinstance(error, _OF_THE_STORE) or without_script(error).startswith(_CODES)


def refused_text(size: int, error: BaseException | str) -> str:
    """Return the text for a job whose outcome has so many bytes."""
    why = str(error).rstrip(".")
    return (
        f"jobqueue.errors.OutcomeRefused: The store refused what the job returned or raised ({size:,} bytes): {why}. "
        "Return less: keep large data elsewhere, and return where it is."
    )


def never_taken(size: int, error: BaseException, losses: int) -> bool:
    """Return whether the store will never accept an outcome of so many bytes: it says so, or has closed the connection
    so often."""
    if isinstance(error, ResponseError):
        return not of_the_store(error)
    return size >= LARGE and losses >= UNSAID


class SuspectOutcome:
    """An outcome that was in a request which the store refused."""

    def __init__(self) -> None:
        self.attempts = 0  # alone
        self.not_before = 0.0  # monotonic seconds
        self.backoff = Backoff(most=1.0)


class Refusals:
    """Find the outcomes that the store refuses. The consumer's lock protects it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._suspects: dict[int, SuspectOutcome] = {}  # by claim
        self.largest = 0  # bytes that the server accepts, from its settings; 0: unknown

    def __bool__(self) -> bool:
        return bool(self._suspects)

    def portion(self, finished: Sequence[JobOutcome]) -> list[JobOutcome]:
        """Return what to send with the next request: a suspect alone, or else those that are no suspects."""
        now = self._clock()
        for outcome in finished:
            suspect = self._suspects.get(outcome.claim)
            if suspect and suspect.not_before <= now:
                return [outcome]
        return [outcome for outcome in finished if outcome.claim not in self._suspects]

    def passed(self, outcomes: Sequence[JobOutcome]) -> None:
        for outcome in outcomes:
            self._suspects.pop(outcome.claim, None)

    def refused(self, outcomes: Sequence[JobOutcome], error: Exception) -> bool:
        """Note that a request with these outcomes failed. Return True if it had one, which is never accepted."""
        answered = isinstance(error, ResponseError)
        if not answered and sum(len(outcome.payload) for outcome in outcomes) < LARGE:
            return False  # only the connection was lost
        if answered and of_the_store(error) and not isinstance(error, OutOfMemoryError):
            return False
        if len(outcomes) > 1:
            for outcome in outcomes:
                self._suspects.setdefault(outcome.claim, SuspectOutcome())
            return False
        return bool(outcomes) and self._refused_alone(outcomes[0], error)

    def _refused_alone(self, outcome: JobOutcome, error: Exception) -> bool:
        suspect = self._suspects.setdefault(outcome.claim, SuspectOutcome())
        suspect.attempts += 1
        suspect.not_before = self._clock() + suspect.backoff.failed()
        size = len(outcome.payload)
        if isinstance(error, OutOfMemoryError):
            never = suspect.attempts >= FULL and size >= LARGE
        elif isinstance(error, ResponseError):
            never = True
        elif size < LARGE:
            never = False
        elif self.largest and size > self.largest:
            never = True
        else:
            never = suspect.attempts >= (ENOUGH if self.largest else UNSAID)
        if never:
            del self._suspects[outcome.claim]
        return never
