"""A tree that has not renewed its lease for a while may be called dead soon: it starts nothing new until it has.

Claims stop by themselves when the store is away; this is about the jobs that the children hold already. While a region
is frozen, its slots ask Redis before they start a job, and the answer waits for the store.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from workers.heartbeat import Heartbeat
from workers.journal import FROZEN, Region
from workers.settings import Settings

log = logging.getLogger(__name__)

SAFE = 0.7  # of the lease: a rescuer calls the tree dead after the whole of it


class Freezer:
    """Runs in the supervisor's main loop: it knows how long ago the registrar last heard from the store."""

    def __init__(self, settings: Settings, heartbeat: Heartbeat, regions: Sequence[Region]) -> None:
        self._limit = SAFE * settings.lease
        self._heartbeat = heartbeat
        self._regions = regions
        self.frozen = False

    def step(self, now: float) -> None:
        renewed = self._heartbeat.renewed
        frozen = bool(renewed) and now - renewed > self._limit
        if frozen != self.frozen:
            self.frozen = frozen
            if frozen:
                log.warning("no word from the store for %g s: nothing new is started", self._limit)
            for region in self._regions:
                region.set(FROZEN, int(frozen))
