"""Compute when a schedule is due: at an interval of seconds, or by a cron expression in a time zone.

A cron expression means the same as in RQ: croniter's five fields (six with seconds at the end), in local time; a time
that a change of the clocks skips comes once, one that it repeats comes only the first time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from math import floor
from pathlib import Path

from jobqueue.errors import UsageError
from jobqueue.protocol import bounds

_A_WALL_HOUR = 3600.0  # seconds


class BadSchedule(UsageError):
    """A schedule that is impossible: no such time, no such zone, no interval between two occurrences."""


@dataclass(frozen=True)
class Timing:
    """The times of a schedule: ``every`` number of seconds, or ``cron``, in the zone ``tz`` ("" is this machine's local
    time)."""

    every: float = 0.0
    cron: str = ""
    tz: str = ""

    def check(self) -> Timing:
        """Return itself. Raises BadSchedule with a sentence for the user."""
        if bool(self.every) == bool(self.cron):
            raise BadSchedule("A schedule needs either an interval or a cron expression.")
        if not isinstance(self.cron, str):
            raise BadSchedule(
                f"A cron expression is a text such as '*/5 * * * *', not of type {type(self.cron).__name__}."
            )
        if not self.cron and bounds.EVERY.read(self.every) is None:
            raise BadSchedule(f"An interval of {self.every!r} is not possible: give {bounds.EVERY.describe()}.")
        if self.cron:
            self.after(0.0, datetime.now(UTC).timestamp())
        return self

    def first(self, now: float) -> float:
        """Return the first time: now for an interval, as in RQ; else the expression's next time. Seconds since 1970."""
        return now if self.every else self._next_match(now)

    def after(self, due: float, now: float) -> float:
        """Return the first time after ``now`` in the sequence from ``due``; missed times are skipped. Raises
        BadSchedule, because the store may hold anything."""
        try:
            found = self._next_match(max(due, now)) if self.cron else self._next_round(due, now)
        except (ArithmeticError, ValueError, OSError) as e:
            raise BadSchedule(f"It has no next time: {e}.") from None
        if not now < found <= max(due, now) + bounds.LONGEST:
            raise BadSchedule(f"Its next time is not possible: {found:g} seconds since 1970.")
        return found

    def _next_round(self, due: float, now: float) -> float:
        return due + self.every * (floor(max(0.0, now - due) / self.every) + 1)

    def _next_match(self, now: float) -> float:
        from croniter import CroniterError, croniter  # imported here: `jobq submit` needs it for --cron only

        zone = zone_of(self.tz)
        local = datetime.fromtimestamp(now, UTC).astimezone(zone).replace(tzinfo=None)
        try:
            times = croniter(self.cron, local)
            while True:
                found = times.get_next(datetime).replace(tzinfo=zone, fold=0).timestamp()
                if found > now:
                    return float(found)
        except (CroniterError, ValueError, KeyError, AttributeError) as e:
            raise BadSchedule(
                f"The cron expression {self.cron[:60]!r} is not valid: {_printable(e)[:200].rstrip('.')}."
            ) from None

    def pause(self, now: float, ahead: float) -> tuple[float, float] | None:
        """Return (last time before, first time after) of the next pause within ``ahead`` seconds; None if there is
        none.

        When the clocks are set back, an hour comes twice, and its second pass has no occurrences. None also for an
        expression whose times are further apart than that.
        """
        if not self.cron or (changed := _set_back(zone_of(self.tz), now, now + ahead)) is None:
            return None
        moment, seconds = changed
        before = self._next_match(moment - _A_WALL_HOUR - 1.0)  # the result is strictly later than the argument
        while (after := self._next_match(before)) < moment:
            before = after
        is_dense = before < moment and after - before - seconds <= _A_WALL_HOUR
        return (before, after) if is_dense else None

    def describe(self) -> str:
        if self.every:
            return f"every {self.every:g} s"
        return f"{self.cron} ({self.tz})" if self.tz else self.cron


def _printable(error: Exception) -> str:
    """Return the error's text, which quotes the expression, without characters that a terminal would obey."""
    return str(error).encode(errors="backslashreplace").decode()


def _set_back(zone: tzinfo | None, start: float, end: float) -> tuple[float, float] | None:
    """Return the first moment in this time at which the zone's clocks are set back (seconds since 1970), and by how
    much."""

    def offset(moment: float) -> float:
        found = datetime.fromtimestamp(moment, UTC).astimezone(zone).utcoffset()
        return found.total_seconds() if found else 0.0

    early = start
    while early < end:
        late = min(early + 3600.0, end)
        if offset(late) < offset(early):
            while late - early > 1.0:
                middle = (early + late) / 2
                early, late = (early, middle) if offset(middle) < offset(start) else (middle, late)
            return float(floor(late)), offset(early) - offset(late)
        early = late
    return None


def zone_of(name: str) -> tzinfo | None:
    """Return the zone; None, which is the machine's own, for "". Raises BadSchedule."""
    if not name:
        return None
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # imported here: most workers never see a cron expression

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError):
        raise BadSchedule(f"There is no time zone {name!r} on this machine; one is called Europe/Berlin.") from None


def local_zone() -> str:
    """Return the name of the machine's zone, so that all machines compute alike; "" when it cannot be found."""
    linked = os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2]
    written = Path("/etc/timezone")
    named = written.read_text().strip() if written.is_file() else ""
    for name in (os.environ.get("TZ", "").removeprefix(":"),) if os.environ.get("TZ") else (linked, named):
        if _is_the_local(name):
            return name
    return "UTC" if _is_the_local("UTC") else ""


def _is_the_local(name: str) -> bool:
    """Return whether the zone of this name has the machine's offsets in winter and in summer."""
    try:
        zone = zone_of(name) if name else None
    except BadSchedule:
        return False
    year = datetime.now(UTC).year
    days = [datetime(year, month, 15, tzinfo=UTC) for month in range(1, 13)]
    return zone is not None and all(day.astimezone(zone).utcoffset() == day.astimezone().utcoffset() for day in days)
