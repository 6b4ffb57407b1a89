"""Which threads of a child have come by at the consumer since they were last asked to."""

from __future__ import annotations

import threading


class RollCall:
    """Counts rounds, and notes for each thread the last one that it has answered. The consumer's lock guards the
    writing; ``has_answered`` may be asked at any time."""

    def __init__(self) -> None:
        self._round = 0
        self._answered: dict[int, int] = {}  # by thread: the last round

    def begin(self) -> int:
        """Ask all threads anew; return the number of this round."""
        self._round += 1
        return self._round

    def answer(self) -> None:
        """Say that the calling thread is here."""
        self._answered[threading.get_ident()] = self._round

    def has_answered(self, thread: int | None, number: int) -> bool:
        """Tell whether this thread has answered in this round or in a later one."""
        return thread is not None and self._answered.get(thread, 0) >= number
