"""Make the stored fields of a schedule or a delayed job readable, however damaged they are.

An entry that an older version, RQ, a mistake or an attacker wrote must neither hide the others nor be hidden.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jobqueue.schedules.timing import BadSchedule, Timing
from jobqueue.serializers import decompress


@dataclass(frozen=True)
class ScheduleView:
    """A schedule, a cron entry or a delayed job. Times are aware datetimes (UTC)."""

    id: str
    kind: str  # every | cron | once
    queue: str
    description: str
    next: datetime | None  # None: an entry of a cron file that no worker serves now, or one with a problem
    every: float | None = None
    cron: str | None = None
    tz: str | None = None
    name: str | None = None
    function: str | None = None  # None, as args and kwargs, for a pickle, which is not opened
    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None
    overlap: bool = True
    last: datetime | None = None
    last_job: str | None = None
    runs: int = 0
    skipped: int = 0
    source: str | None = None  # the cron file that registered it
    problem: str | None = None  # why no worker enqueues it

    def pause(self, now: float, ahead: float) -> tuple[datetime, datetime] | None:
        """Return the two times between which it pauses because the clocks are set back, if that is soon; see Timing."""
        if self.next is None or not self.cron or self.problem:
            return None
        found = Timing(cron=self.cron, tz=self.tz or "").pause(now, ahead)
        return (_time(found[0]), _time(found[1])) if found else None

    def when(self) -> str:
        if self.kind == "once":
            return "once"
        return Timing(self.every or 0.0, self.cron or "", self.tz or "").describe() if self.every or self.cron else "?"


def view_of(schedule_id: str, score: float, led: bool, raw: Any, fields: Any) -> ScheduleView:
    """Return the schedule that these replies of the store describe. led: whether a worker serves cron files."""
    if not isinstance(raw, dict) or b"queue" not in raw:
        what = "its key is of another type" if isinstance(raw, Exception) else "its fields are gone"
        return ScheduleView(schedule_id, "every", "?", "(cannot be read)", None, problem=f"{what}.")
    text = {_text(name): _text(value) for name, value in raw.items()}
    source, template = text.get("source") or None, fields if isinstance(fields, list) else (None, None)
    timing, problem = _timing(text)
    due, last = _time_or_none(score), _time_or_none(text.get("last"))
    if not template[0]:
        problem = problem or "what it calls is gone, or of another type."
    if due is None:
        problem = problem or f"its next time is not a date: {score:g}."
    return ScheduleView(
        id=schedule_id,
        kind="cron" if text.get("cron") else "every",
        queue=text["queue"],
        description=described(template[1]),
        next=due if (led or not source) and not problem else None,
        every=timing.every or None,
        cron=text.get("cron") or None,
        tz=text.get("tz") or None,
        name=text.get("name"),
        **called(template[0]),
        overlap=text.get("overlap") != "no",
        last=last,
        last_job=text.get("last_job"),
        runs=_count(text.get("runs")),
        skipped=_count(text.get("skipped")),
        source=source,
        problem=problem,
    )


def delayed_view(job_id: str, queue: str, score: float, fields: Any) -> ScheduleView:
    """Return the delayed job that these replies of the store describe."""
    problem, due = None, _time_or_none(score)
    if not isinstance(fields, list):
        fields, problem = (None, b"(cannot be read)"), "its key is of another type."
    elif due is None:
        problem = f"its time is not a date: {score:g}."
    return ScheduleView(job_id, "once", queue, described(fields[1]), due, **called(fields[0]), problem=problem)


def _timing(text: Mapping[str, str]) -> tuple[Timing, str | None]:
    """Return its timing, and what is wrong with that."""
    try:
        timing = Timing(float(text.get("every") or 0.0), text.get("cron", ""), text.get("tz", ""))
    except ValueError:
        return Timing(), f"its interval is not a number: {text['every']:.40}."
    try:
        timing.check()
    except BadSchedule as e:
        return timing, str(e)
    return timing, None


def described(description: bytes | None) -> str:
    return (description or b"(gone)").decode(errors="replace")


def called(data: bytes | None) -> dict[str, Any]:
    """Return function, args and kwargs of JSON data; nothing for a pickle or for data that is not a call."""
    try:
        function, _, args, kwargs = json.loads(decompress(data)) if data else (None,) * 4
    except Exception:  # the data may be anything
        return {}
    return {"function": function, "args": args, "kwargs": kwargs}


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _count(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _time_or_none(seconds: float | str | None) -> datetime | None:
    try:
        return _time(float(seconds)) if seconds is not None else None
    except (ValueError, OverflowError, OSError):
        return None
