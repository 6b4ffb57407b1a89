"""Say it again until Redis has heard it: for errands that act under a token, so that twice is once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from redis.exceptions import RedisError

from jobqueue.backoff import Backoff

log = logging.getLogger(__name__)
T = TypeVar("T")


def insist(errand: Callable[[], T], what: str) -> T:
    """Return what ``errand`` returns; repeat it with backoff (0.05 s to 2 s, with jitter) while Redis is away."""
    backoff = Backoff()
    while True:
        try:
            return errand()
        except (RedisError, OSError) as e:
            pause = backoff.failed()
            log.debug("%s: %s, again in %.2f s", what, e, pause)
            time.sleep(pause)
