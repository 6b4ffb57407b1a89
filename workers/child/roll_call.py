"""Find out which threads of a child have called the consumer since they were last asked to."""

from __future__ import annotations

from _thread import get_ident  # that of the thread, also where gevent patches threading


class RollCall:
    """Counts rounds, and keeps for each thread the last round that it has answered. The consumer's lock guards the
    writes; ``has_answered`` may be called at any time."""

    def __init__(self) -> None:
        self._round = 0
        self._answered: dict[int, int] = {}  # by thread: the last round that it answered

    def begin(self) -> int:
        """Start a new round; return its number."""
        self._round += 1
        return self._round

    def answer(self) -> None:
        """Note that the calling thread has answered."""
        self._answered[get_ident()] = self._round

    def has_answered(self, thread: int | None, number: int) -> bool:
        """Return whether this thread has answered in this round or in a later one."""
        return thread is not None and self._answered.get(thread, 0) >= number
