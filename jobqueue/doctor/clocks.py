"""Find schedules that a change of the clocks affects soon."""

from __future__ import annotations

import time
from collections.abc import Iterator

from jobqueue.doctor.finding import Finding
from jobqueue.errors import UsageError
from jobqueue.schedules.schedules import Schedules, ScheduleView
from jobqueue.store.connection import redis

AHEAD = 14 * 86_400.0  # seconds
MOST = 1_000  # schedules that are read


def examine_clocks(client: redis.Redis) -> Iterator[Finding]:
    """Iterate over a note on schedules that will pause when the clocks are set back within two weeks."""
    pauses = [text for view in Schedules(client).recurring()[:MOST] if (text := pause_of(view, time.time()))]
    if pauses:
        text = f"{pauses[0]}{f' So do {len(pauses) - 1:,} others.' if len(pauses) > 1 else ''}"
        yield Finding("clocks", "note", text, "Where no pause may be, use an interval (--every) or --tz UTC.")


def pause_of(view: ScheduleView, now: float) -> str:
    """Return a sentence about its pause when the clocks are set back within two weeks; "" when there is none."""
    try:
        found = view.pause(now, AHEAD)
    except UsageError:  # its timing is invalid, which another finding says
        return ""
    if found is None:
        return ""
    before, after = found
    minutes = (after - before).total_seconds() / 60
    return (
        f"The schedule {view.id} pauses for {minutes:.0f} minutes, from {before:%Y-%m-%d %H:%M} to {after:%H:%M} UTC: "
        "the clocks are set back, and of an hour that comes twice only the first pass counts."
    )
