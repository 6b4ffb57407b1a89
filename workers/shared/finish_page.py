"""Show what a finish process or helper process runs and until when, so that its parent can kill one that holds still.

    the process writes     its beats (they change at each step), the claim of the job that it ends, what runs, the
                           deadline of this (monotonic seconds; 0: none of the user's code runs), whether it is done
    its parent reads

The pages of the finish processes are at the end of the file of the children's shared pages (journal.py).
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from math import inf

from jobqueue.clock import monotonic
from jobqueue.workers.shared.endings import RECORDING

BEATS, CLAIM, WHAT, DEADLINE, DONE = range(5)
SIZE = 8 * 5
PAGES = 64  # finish processes of a worker that can be watched at the same time
AREA = PAGES * SIZE


class FinishPage:
    """The page of one process. Every word is written by one aligned store."""

    def __init__(self, view: memoryview, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._words = view.cast("Q")
        self._seconds = view.cast("d")

    # -- the process writes --

    def begin(self, claim: int) -> None:
        """Show which job is being ended."""
        self._words[CLAIM] = claim
        self.beat()

    def show(self, what: int, limit: float) -> None:
        """Show which code runs under which limit, in seconds. RECORDING without a limit: no code of the user's runs;
        other code without a limit may take as long as it likes."""
        self._seconds[DEADLINE] = 0.0
        self._words[WHAT] = what
        self._seconds[DEADLINE] = self._clock() + limit if limit > 0 else 0.0 if what == RECORDING else inf
        self.beat()

    def beat(self) -> None:
        """Show that this process still does something."""
        self._words[BEATS] += 1

    def set_done(self) -> None:
        """Show that all work is done."""
        self.show(RECORDING, 0.0)
        self._words[DONE] = 1

    # -- its parent reads --

    @property
    def beats(self) -> int:
        return self._words[BEATS]

    @property
    def claim(self) -> int:
        """The claim of the job that is being ended; 0: none yet."""
        return self._words[CLAIM]

    @property
    def what(self) -> int:
        return self._words[WHAT]

    @property
    def deadline(self) -> float:
        return self._seconds[DEADLINE]

    @property
    def is_done(self) -> bool:
        return bool(self._words[DONE])

    def wipe(self) -> None:
        """Clear the page for a new process."""
        for word in range(SIZE // 8):
            self._words[word] = 0


def pages_in_file(file: int) -> list[FinishPage]:
    """Return the pages at the end of the shared file, by their numbers."""
    area = memoryview(mmap.mmap(file, 0))[-AREA:]
    return [FinishPage(area[at : at + SIZE]) for at in range(0, AREA, SIZE)]


def anonymous_page() -> FinishPage:
    """Return a page that a process which is forked later shares."""
    return FinishPage(memoryview(mmap.mmap(-1, SIZE)))
