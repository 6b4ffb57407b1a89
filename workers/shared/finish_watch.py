"""Judge from outside whether a finish process or helper process has to be killed, as its own code may not be able to
end it.

    code of the user's is past its limit             its own timers end it; 4 s after the limit its parent kills it
    it is stopped (SIGSTOP), outside of such code    killed after 2 s, as an idle child is
    it has shown nothing new for 60 s                killed, unless the store does not answer: it may wait for that

After the parent itself held still, the watch begins again.
"""

from __future__ import annotations

from jobqueue.workers.shared.endings import HARD, SUBJECTS
from jobqueue.workers.shared.finish_page import FinishPage
from jobqueue.workers.shared.process_state import is_stopped

SLOW = 2.0  # seconds after the process should have ended by itself, which is HARD after a limit
STOPPED_FOR = 2.0  # seconds
SILENT = 60.0  # seconds
UNWATCHED = 3.0  # seconds between two looks after which the watch starts again


class FinishWatch:
    """Watches one process; its parent calls ``step`` about once a second."""

    def __init__(self, page: FinishPage, now: float, imports: bool = False, silent: float = SILENT) -> None:
        """imports: the process imports the served modules first, which may take any time. silent: seconds for which it
        may show nothing new."""
        self._page = page
        self._imports, self._silent = imports, silent
        # all of these in monotonic seconds
        self._looked = now
        self._stopped = 0.0  # since when it has been stopped; 0: it is not
        self._beats, self._heard = 0, now  # the last beats, and when they changed

    def step(self, pid: int, now: float, is_away: bool = False) -> str:
        """Return why the process has to be killed, "" if it need not be. is_away: the store does not answer."""
        page = self._page
        if now > self._looked + UNWATCHED:
            self._stopped, self._heard = 0.0, now
        self._looked = now
        beats = page.beats
        if beats != self._beats or is_away or (self._imports and not beats):
            self._beats, self._heard = beats, now
        if deadline := page.deadline:
            self._stopped = 0.0
            late = now > deadline + HARD + SLOW
            return f"{_subject(page.what)} did not react at its time limit" if late else ""
        self._stopped = (self._stopped or now) if is_stopped(pid) else 0.0
        if self._stopped and now - self._stopped >= STOPPED_FOR:
            return "it is stopped"
        return f"it has done nothing for {self._silent:.0f} s" if now - self._heard >= self._silent else ""


def _subject(what: int) -> str:
    words = SUBJECTS[what] if what < len(SUBJECTS) else SUBJECTS[0]
    return words[0].lower() + words[1:]
