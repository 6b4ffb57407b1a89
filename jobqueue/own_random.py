"""A generator of our own: the numbers of Python's global one belong to the user's jobs, which may have seeded it."""

from __future__ import annotations

import random

own_random = random.SystemRandom()  # of the operating system, so no fork repeats it
