"""Say it again until Redis has heard it: for errands that act under a token, so that twice is once."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from redis.exceptions import RedisError

log = logging.getLogger(__name__)
T = TypeVar("T")


def insist(errand: Callable[[], T], what: str) -> T:
    """Return what ``errand`` returns; repeat it with backoff (0.05 s to 2 s, with jitter) while Redis is away."""
    delay = 0.05
    while True:
        try:
            return errand()
        except (RedisError, OSError) as e:
            log.debug("%s: %s, again in about %.2f s", what, e, delay)
            time.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(2.0, 2 * delay)
