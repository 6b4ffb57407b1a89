"""Start no job while the lease has not been renewed for a while, as rescuers may soon count this tree as dead.

Without a store no child claims a job; this is about jobs that the children have claimed already. Each shared page says
until when these are safe. After that a slot asks Redis before it starts a job, so it waits for the store. This is also
true when the whole worker was stopped (SIGSTOP, a paused container) and a child continues before its supervisor.

When the lease is renewed after such a time, a rescuer may have given the claimed jobs away: the pages are revoked, as
that of a child that held still, and a slot asks Redis before it starts a job until its child has dropped its buffer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from jobqueue.workers.roles.heartbeat import SAFE, Heartbeat
from jobqueue.workers.shared.journal import SharedPage
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)


class SelfFencing:
    """Revokes pages and limits how long they are safe. The supervisor's main loop steps it; it reads from the heartbeat
    when the lease was renewed."""

    def __init__(
        self,
        settings: Settings,
        heartbeat: Heartbeat,
        pages: Sequence[SharedPage],
        on_lapse: Callable[[], object] = lambda: None,
    ) -> None:
        """on_lapse: called when pages are revoked, so that the children look at them."""
        self._limit = SAFE * settings.lease
        self._heartbeat = heartbeat
        self._pages = pages
        self._on_lapse = on_lapse
        self._lapses = 0
        self.active = False

    def step(self, now: float) -> None:
        """Compare the time with the last renewal, and write into the pages until when their jobs are safe."""
        renewed, lapses = self._heartbeat.renewed, self._heartbeat.lapses
        active = bool(renewed) and now - renewed > self._limit
        if active and not self.active:
            log.warning("the store has not answered for %g s: no further job is started", self._limit)
        self.active = active
        if lapses != self._lapses:
            self._lapses = lapses
            log.warning("the lease may have expired: jobs that were claimed before are given back and claimed again")
            for page in self._pages:
                page.revoke()
            self._on_lapse()
        for page in self._pages if renewed else ():
            page.stay_fresh(renewed + self._limit)
