"""Enqueues the occurrences that are due of one set of schedules, and knows when the next one comes."""

from __future__ import annotations

import logging

from jobqueue.timetable import NOT_ENQUEUED, Timetable
from jobqueue.timing import BadSchedule

log = logging.getLogger(__name__)

AT_ONCE = 100
LONGEST = 1.0  # seconds between two looks: a schedule may be added at any time
SHORTEST = 0.005


class Ticker:
    """Used from one thread. A step that was cut short, or done twice, by anybody, enqueues no occurrence twice."""

    def __init__(self, timetable: Timetable) -> None:
        self._timetable = timetable
        self._bad: set[str] = set()  # what was complained of

    def step(self) -> float:
        """Enqueue what is due; return the seconds until there is something to do again."""
        now, later, due = self._timetable.upcoming(AT_ONCE)
        for one in due:
            try:
                after = one.timing.after(float(one.due), now)
            except BadSchedule as e:
                self._complain(one.id, e)
                continue
            said = self._timetable.tick(one, after)
            if said == "overlap":
                log.warning("schedule %s: the last job has not ended, and it takes no overlap: skipped", one.id)
            elif said not in NOT_ENQUEUED:
                log.debug("schedule %s: enqueued %s", one.id, said)
            if after > now:
                later = min(later or after, after)
        wait = LONGEST if later is None else later - now
        return max(SHORTEST, min(LONGEST, wait))

    def _complain(self, schedule_id: str, error: BadSchedule) -> None:
        if schedule_id not in self._bad:
            self._bad.add(schedule_id)
            log.error("schedule %s is left to another worker: %s", schedule_id, error)
