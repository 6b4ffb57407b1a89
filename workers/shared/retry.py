"""Retry a request with backoff until Redis answers. The request checks a token, so it may be executed twice. An error
with which Redis refuses it (a key of another type, say) is raised after a few attempts, and so is one of this process:
where jobs have used up the descriptors, or lowered the limit on them, waiting does not help."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from redis.exceptions import RedisError

from jobqueue.network.backoff import Backoff
from jobqueue.store.error_texts import is_away, is_own_fault
from jobqueue.workers.shared.spare_descriptors import spare_descriptors

log = logging.getLogger(__name__)
T = TypeVar("T")

REFUSALS = 3  # how often a refused request is repeated, as the cause may be removed meanwhile
OWN_FAULTS = 3  # attempts in a row that failed in this process itself, after which it counts as cut off


class CutOff(Exception):
    """This process cannot open a connection to the store any more."""


def replies_of(pipe: Any) -> list[Any]:
    """Execute a pipeline. The reply to a command that Redis refuses (a key of another type, say) is an exception, and
    the other commands are executed. Raises an error if Redis does not answer."""
    replies: list[Any] = pipe.execute(raise_on_error=False)
    if outage := next((it for it in replies if isinstance(it, Exception) and is_away(it)), None):
        raise outage
    return replies


def retry_request(request: Callable[[], T], what: str) -> T:
    """Return what ``request`` returns; repeat it with backoff (0.05 s to 2 s, with jitter) while Redis does not answer.
    After a few attempts, raise the error of a request that Redis refuses; CutOff where this process cannot open a
    connection, not even after it has given up its spare descriptors."""
    backoff, refused, own_faults = Backoff(), 0, 0
    while True:
        try:
            return request()
        except (RedisError, OSError) as e:
            refused += not is_away(e)
            if refused > REFUSALS:
                raise
            own_faults = own_faults + 1 if is_own_fault(e) else 0
            if own_faults == OWN_FAULTS:
                if not spare_descriptors.release():
                    raise CutOff(str(e)) from e
                own_faults = 0
            pause = backoff.failed()
            log.debug("%s: %s, again in %.2f s", what, e, pause)
            time.sleep(pause)
