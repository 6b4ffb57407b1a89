"""``jobq submit --every`` and ``--cron``: store one schedule per call instead of one job per call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from jobqueue.cli.values import CallArguments
from jobqueue.errors import UsageError

if TYPE_CHECKING:
    from jobqueue.producing.queue import Queue


class Again(NamedTuple):
    """The flags that say when a schedule is due."""

    every: float
    cron: str
    tz: str | None
    overlap: bool


def again(every: float | None, cron: str | None, tz: str | None, overlap: bool) -> Again | None:
    """Return the flags' meaning, None without --every and --cron. Raises UsageError, before anything is stored."""
    if every is None and cron is None:
        if tz is not None or not overlap:
            raise UsageError(f"{'--tz' if tz is not None else '--no-overlap'} goes with --every or --cron.")
        return None
    if every is not None and cron is not None:
        raise UsageError("--every and --cron exclude each other.")
    if every is not None and tz is not None:
        raise UsageError("--tz goes with --cron.")
    from jobqueue.schedules.timing import Timing

    if every == 0 or cron == "":
        raise UsageError(
            "--every 0 is not an interval." if every == 0 else "--cron wants an expression like '*/5 * * * *'."
        )
    Timing(every or 0.0, cron or "", tz or "").check()
    return Again(every or 0.0, cron or "", tz, overlap)


def check(options: dict[str, Any], when: datetime | None, what: Again, wait: bool) -> None:
    """Raise UsageError for options that a schedule cannot have."""
    flag = "--cron" if what.cron else "--every"
    if wait:
        raise UsageError(f"--wait and {flag} exclude each other: there is no end to wait for.")
    if "depends_on" in options:
        raise UsageError(f"--depends-on and {flag} exclude each other.")
    if what.cron and when is not None:
        raise UsageError("--cron says itself when the first time is: it excludes --in and --at.")


class Recurring:
    """Stores schedules and counts them; used in place of ``Sending``."""

    def __init__(self, queue: Queue, name: str, options: dict[str, Any], when: datetime | None, what: Again) -> None:
        self.sent = 0
        self.open_ids: tuple[str, str] = ("", "")
        self._queue, self._name, self._when, self._what = queue, name, when, what
        self._options = {key: value for key, value in options.items() if key not in ("job_id", "unique")}
        self._id, self._replace = options.get("job_id", ""), not options.get("unique")

    def __call__(self, calls: Sequence[CallArguments]) -> Iterable[str]:
        """Store a schedule for each call and return their ids."""
        ids = []
        for args, kwargs in calls:
            ids.append(
                self._queue.schedule(
                    self._name,
                    **{**self._options, "args": tuple(args), "kwargs": dict(kwargs)},
                    every=self._what.every,
                    cron=self._what.cron,
                    tz=self._what.tz,
                    overlap=self._what.overlap,
                    first=self._when,
                    schedule_id=self._id,
                    replace=self._replace,
                )
            )
            self.sent += 1
            self.open_ids = (self.open_ids[0] or ids[-1], ids[-1])
        return ids
