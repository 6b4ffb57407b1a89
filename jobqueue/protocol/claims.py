"""Who holds a job, and by what right it writes about it."""

from __future__ import annotations

from typing import NamedTuple


class Token(NamedTuple):
    """The right to write about a job: the store knows that ``owner`` holds job ``id`` of ``queue`` under ``claim``."""

    owner: str
    id: str
    claim: int
    queue: str
