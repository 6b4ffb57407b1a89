"""Show values on a terminal: texts of jobs with control characters escaped, times and durations in words."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from jobqueue.words import UNSAFE, count, duration, one_line


def enqueued(n: int) -> str:
    return count(n, "job was enqueued", "jobs were enqueued")


def tell_who_waited(waiting: Sequence[str], job_id: str) -> None:
    """Print on stderr which jobs depended on a job that was deleted."""
    if waiting:
        first, n = one_line(waiting[0]), len(waiting)
        others = f" and {n - 1:,} more wait" if n > 1 else " waits"
        it = "it" if n == 1 else "them"
        print(
            f"jobq: {first}{others} for {one_line(job_id)}, and nothing starts {it} any more: "
            f"jobq doctor --fix puts {it} into {'its queue' if n == 1 else 'their queues'}, jobq cancel ID ends one",
            file=sys.stderr,
        )


def json_line(value: Any) -> str:
    """Return the value as JSON on one line, safe to print; what JSON cannot carry becomes its repr, times ISO text."""
    text = json.dumps(value, ensure_ascii=False, default=_plain, separators=(", ", ": "))
    return UNSAFE.sub(lambda m: rf"\u{ord(m[0]):04x}", text)  # such characters can only be inside strings


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else repr(value)


def since(moment: datetime) -> str:
    """Return the distance of a time from now: "4 min ago", "in 10 s"."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"


def ago(moment: datetime | None) -> str:
    """Return a time as clock time of this machine, and how long ago it was."""
    if moment is None:
        return "-"
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S} ({since(moment)})"
