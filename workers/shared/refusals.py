"""What the store refuses: of everybody for now, or one outcome for good.

    the store itself      full, read-only, loading, no rights: everything waits until that is over
    one outcome           larger than the server takes, or anything else that it answers with an error: that job fails,
                          and what went with it goes through

A server that is sent too much closes the connection, and says why at best: so an outcome that went down with its
connection is sent alone, until it passed or it is clear that it never will.
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
UNSAID, FULL, ENOUGH = 5, 10, 20  # attempts, alone: its limits unknown; it said OOM; whatever it may be

_OF_THE_STORE = (
    *(AuthenticationError, ClusterDownError, MasterDownError, NoPermissionError, OutOfMemoryError, ReadOnlyError),
    TryAgainError,
)
_CODES = ("MISCONF", "NOREPLICAS", "BUSY", "NOQUORUM", "UNKILLABLE")


def of_the_store(error: BaseException) -> bool:
    """It would say so of any outcome: it is full, read-only, cut off. Other errors are of what was sent."""
    return isinstance(error, _OF_THE_STORE) or without_script(error).startswith(_CODES)


def refused_text(size: int, error: BaseException | str) -> str:
    """Say it of a job whose outcome has so many bytes."""
    why = str(error).rstrip(".")
    return (
        f"jobqueue.errors.OutcomeRefused: The store refused what the job returned or raised ({size:,} bytes): {why}. "
        "Return less: keep large data elsewhere, and return where it is."
    )


def never_taken(size: int, error: BaseException, losses: int) -> bool:
    """What was sent, with an outcome of so many bytes, will never be taken: the store said so, or closed the connection
    so often."""
    if isinstance(error, ResponseError):
        return not of_the_store(error)
    return size >= LARGE and losses >= UNSAID


class SuspectOutcome:
    """An outcome that was on its way when the store refused something."""

    def __init__(self) -> None:
        self.attempts = 0  # alone
        self.not_before = 0.0  # monotonic seconds
        self.backoff = Backoff(most=1.0)


class Refusals:
    """Finds the outcomes that the store does not take. The consumer's lock guards it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._suspects: dict[int, SuspectOutcome] = {}  # by claim
        self.largest = 0  # bytes that the server takes, as it says; 0: not known

    def __bool__(self) -> bool:
        return bool(self._suspects)

    def portion(self, finished: Sequence[JobOutcome]) -> list[JobOutcome]:
        """What may be sent with the next request: a suspect alone, or else those that are none."""
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
        """These were on their way. True: there is one, and the store will never take it."""
        answered = isinstance(error, ResponseError)
        if not answered and sum(len(outcome.payload) for outcome in outcomes) < LARGE:
            return False  # the connection was lost, that is all
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
