"""Retry a request with backoff until Redis answers. It acts under a token, so that twice is once. What Redis hears
and refuses (a key of another type, say) is not helped by saying it for ever: it is raised."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from redis.exceptions import RedisError

from jobqueue.network.backoff import Backoff
from jobqueue.store.error_texts import is_away

log = logging.getLogger(__name__)
T = TypeVar("T")

REFUSALS = 3  # repeated so often, in case that somebody is just mending it


def replies_of(pipe: Any) -> list[Any]:
    """Execute a pipeline; what Redis refuses (a key of another type, say) stands among the replies as an exception, and
    the other commands are done. Raises an outage."""
    replies: list[Any] = pipe.execute(raise_on_error=False)
    if outage := next((it for it in replies if isinstance(it, Exception) and is_away(it)), None):
        raise outage
    return replies


def retry_request(request: Callable[[], T], what: str) -> T:
    """Return what ``request`` returns; repeat it with backoff (0.05 s to 2 s, with jitter) while Redis is away. Raises
    what it refuses, after a few attempts."""
    backoff, refused = Backoff(), 0
    while True:
        try:
            return request()
        except (RedisError, OSError) as e:
            refused += not is_away(e)
            if refused > REFUSALS:
                raise
            pause = backoff.failed()
            log.debug("%s: %s, again in %.2f s", what, e, pause)
            time.sleep(pause)
