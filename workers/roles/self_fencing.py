"""A tree that has not renewed its lease for a while may be called dead soon: it starts nothing new until it has.

Claims stop by themselves when the store is away; this is about the jobs that the children hold already. Each page says
until when they are safe. Later than that a slot asks Redis before it starts a job, and the answer waits for the store.
That holds too when the whole worker stood still (SIGSTOP, a paused container) and a child wakes before its supervisor.

When the lease is renewed after such a time, somebody may have given the buffers away: they are revoked, as those of a
child that held still, and nothing starts unasked before the child has dropped its buffer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from jobqueue.workers.roles.heartbeat import SAFE, Heartbeat
from jobqueue.workers.shared.journal import SharedPage
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)


class SelfFencing:
    """Runs in the supervisor's main loop: it knows how long ago the roles thread last heard from the store."""

    def __init__(
        self,
        settings: Settings,
        heartbeat: Heartbeat,
        pages: Sequence[SharedPage],
        on_lapse: Callable[[], object] = lambda: None,
    ) -> None:
        """on_lapse: called when the children shall look at their pages."""
        self._limit = SAFE * settings.lease
        self._heartbeat = heartbeat
        self._pages = pages
        self._on_lapse = on_lapse
        self._lapses = 0
        self.active = False

    def step(self, now: float) -> None:
        renewed, lapses = self._heartbeat.renewed, self._heartbeat.lapses
        active = bool(renewed) and now - renewed > self._limit
        if active and not self.active:
            log.warning("no word from the store for %g s: nothing new is started", self._limit)
        self.active = active
        if lapses != self._lapses:
            self._lapses = lapses
            log.warning("the lease may have been over: what was claimed before is given back, and claimed anew")
            for page in self._pages:
                page.revoke()
            self._on_lapse()
        for page in self._pages if renewed else ():
            page.stay_fresh(renewed + self._limit)
