"""Enqueue the due occurrences of one set of schedules, and return when the next one is due."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from redis.exceptions import ResponseError

from jobqueue.schedules.timetable import GONE, NOT_ENQUEUED, Due, Timetable
from jobqueue.schedules.timing import BadSchedule
from jobqueue.store.error_texts import is_away

log = logging.getLogger(__name__)

AT_ONCE = 100  # occurrences that are read in one request
LONGEST = 1.0  # seconds between two looks: a schedule may be added at any time
SHORTEST = 0.005  # seconds between two looks, at least
REMEMBERED = 10_000  # entries that could not be enqueued
LOOK_AGAIN = 60.0  # seconds until such an entry is tried again, if it has not changed


class ScheduleTicker:
    """Enqueues occurrences; one thread uses it. A step that was cut short, or done twice, by any process, enqueues no
    occurrence twice. An entry that cannot be read or enqueued (an older version, RQ or any other program may have
    written it) is named in a warning and skipped, so that the others are enqueued.
    """

    def __init__(self, timetable: Timetable, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._timetable = timetable
        self._bad: dict[
            str, tuple[Due, str, float]
        ] = {}  # by id: what was read, what is wrong with it, until when it is not read again

    def step(self) -> float:
        """Enqueue the due occurrences; return the seconds until there is something to do again."""
        skip = 0
        while True:
            now, later, due = self._timetable.upcoming(AT_ONCE, skip)
            for one in due:
                if self._passed_over(one):
                    skip += 1
                    continue
                try:
                    after = self._enqueue(one, now)
                except BadSchedule as e:
                    self._complain(one, str(e))
                    skip += 1
                    continue
                if after > now:
                    later = min(later or after, after)
            if len(due) < AT_ONCE or not skip:
                wait = LONGEST if later is None else later - now
                return max(SHORTEST, min(LONGEST, wait))

    def _enqueue(self, one: Due, now: float) -> float:
        """Enqueue an occurrence, once; return the next time. Raises BadSchedule."""
        if one.problem == GONE:
            self._timetable.tick(one, now)  # this deletes the entry
            return 0.0
        if one.problem:
            raise BadSchedule(one.problem)
        try:
            after = one.timing.after(float(one.due), now)
            said = self._timetable.tick(one, after)
        except ResponseError as e:
            if is_away(e):
                raise
            raise BadSchedule(f"The store refuses it: {e}") from e
        self._bad.pop(one.id, None)
        if said == "overlap":
            log.warning("schedule %s: the last job has not ended, and it takes no overlap: skipped", one.id)
        elif said not in NOT_ENQUEUED:
            log.debug("schedule %s: enqueued %s", one.id, said)
        return after

    def _passed_over(self, one: Due) -> bool:
        """Return whether the entry is unchanged since it could not be enqueued a short while ago: a new attempt each
        second would cost too much."""
        seen = self._bad.get(one.id)
        return seen is not None and seen[0] == one and self._clock() < seen[2]

    def _complain(self, one: Due, problem: str) -> None:
        """Warn of an entry once for each problem, and remember it."""
        seen = self._bad.get(one.id)
        if seen is None or seen[1] != problem:
            log.warning(
                "the schedule %s is skipped: %s `jobq schedule delete` removes it, submitting it again replaces it",
                ascii(one.id),
                problem,
            )
        if len(self._bad) >= REMEMBERED:
            self._bad.clear()
        self._bad[one.id] = (one, problem, self._clock() + LOOK_AGAIN)
