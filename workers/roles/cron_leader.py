"""Enqueue the entries of RQ's cron files. Of all processes that have loaded such a file, one leads and does it.

    take the lead (a lock in the store, with an expiry) ──► store the entries, delete those of an older file ──► tick

The entries come as data; a process of its own has loaded the file. They stand in the store with their next time, so
that a new leader goes on where the last one died. Every write carries the leader's name: a process that has lost the
lead without noticing it, because it was stopped or cut off, enqueues nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import redis

from jobqueue.schedules.timetable import Schedule, Timetable
from jobqueue.store.error_texts import is_away
from jobqueue.workers.roles.schedule_ticker import LONGEST, ScheduleTicker

log = logging.getLogger(__name__)

LEAD = 5.0  # seconds after which a lead ends unless it is renewed
LOOK = 10.0  # seconds between two looks of a process that does not lead at the leader's entries


class CronLeader:
    """The role of the cron leader; runs in the roles thread of a worker, or of ``jobq cron``."""

    def __init__(
        self, name: str, entries: Sequence[Schedule], client: redis.Redis, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.every = LONGEST
        self._entries = entries
        self._timetable = Timetable(client, leader=name)
        self._ticker = ScheduleTicker(self._timetable, clock)
        self._stored = False
        self._resigned = False
        self._look_at = 0.0  # monotonic seconds; 0: it leads, or has not stepped yet
        self._missed: list[str] = []

    def step(self, now: float) -> bool:
        """Take or renew the lead unless another process has it, and enqueue what is due; return whether it leads."""
        if self._resigned:
            return False
        lead = self._timetable.lead(LEAD)
        if lead != 2:  # newly taken: another process may have led, with another file
            self._stored = False
        if lead and not self._stored:
            self._stored = self._store()
        self._stand_by(now, bool(lead))
        self.every = self._ticker.step() if self._stored else LONGEST
        return bool(lead)

    def _store(self) -> bool:
        """Store all entries, and delete those of an older file; return False if another process leads. May be
        repeated."""
        now = self._timetable.now()
        for entry in self._entries:
            if not self._put(entry, now):
                return False
        if not self._timetable.keep_only(entry.id for entry in self._entries):
            return False
        log.info("leads the cron files: %d entries", len(self._entries))
        return True

    def _put(self, entry: Schedule, now: float) -> bool:
        """Store one entry; return False if another process leads. An entry that the store does not accept is logged and
        skipped, so that the others are stored."""
        try:
            return self._timetable.put(entry, entry.timing.first(now)) is not None
        except redis.ResponseError as e:
            if is_away(e):
                raise
            log.error("the cron entry %s cannot be stored: %s", entry.name, e)
            return True

    def _stand_by(self, now: float, leads: bool) -> None:
        """Warn if another process leads with another file: entries that only ours has are not enqueued."""
        if leads or not self._look_at:
            self._look_at = 0.0 if leads else now + LOOK
            return
        if now < self._look_at:
            return
        self._look_at = now + LOOK
        names = {entry.id: entry.name for entry in self._entries}
        missed = sorted(names[one] for one in self._timetable.missing(list(names)))
        if missed and missed != self._missed:
            log.warning(
                "another process leads the cron files, with another file: %s will not be enqueued. A store has one "
                "cron file; to have several, let one import the others.",
                ", ".join(missed),
            )
        self._missed = missed

    def reconnected(self) -> None:
        """Store the entries again: the store may have lost them."""
        self._stored = False

    def resign(self) -> None:
        """Give up the lead, so that another process can take it at once. This one does not take it again."""
        self._resigned = True
        self._timetable.resign()
