"""Find a horse that runs no job and does not work either: it would keep its claimed jobs for ever."""

from __future__ import annotations

from jobqueue.workers.rq_classes.horse_flags import HorseFlags
from jobqueue.workers.shared.journal import PULSE, SharedPage
from jobqueue.workers.shared.process_state import is_stopped
from jobqueue.workers.supervisor.birth_watch import KILLED
from jobqueue.workers.supervisor.idle_watch import SILENT, STOPPED_FOR, UNWATCHED


class HorseWatch:
    """The parent calls ``step`` between two waits, in its main thread."""

    def __init__(self, page: SharedPage, flags: HorseFlags) -> None:
        self._page = page
        self._flags = flags
        self._looked_at = 0.0  # monotonic seconds, as all of these: the last step
        self._stopped_since = 0.0  # 0.0: the horse is not stopped by a signal
        self._pulse, self._heard_at = 0, 0.0  # the last pulse, and when it changed

    def forked(self, now: float) -> None:
        """Start the watch of a new horse."""
        self._heard_at = now

    def step(self, pid: int, now: float) -> str:
        """Return why the horse has to be replaced: "is stopped", "does not react"; "": it does not."""
        if now - self._looked_at > UNWATCHED:  # this process may have been stopped itself
            self._forget(now)
        self._looked_at = now
        if self._page.running():  # a running job has its own time limit
            self._forget(now)
            return ""
        return self._judge(pid, now)

    def _forget(self, now: float) -> None:
        self._stopped_since, self._heard_at = 0.0, now

    def _judge(self, pid: int, now: float) -> str:
        if not is_stopped(pid):
            self._stopped_since = 0.0
        elif not self._stopped_since:
            self._stopped_since = now
        elif now - self._stopped_since >= STOPPED_FOR:
            return "is stopped"
        if (pulse := self._page.get(PULSE)) != self._pulse or self._flags.leaving:
            self._pulse, self._heard_at = pulse, now
        elif now - self._heard_at >= (SILENT if pulse else KILLED):
            return "does not react"
        return ""
