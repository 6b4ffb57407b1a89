"""A job's hash as RQ's Job.restore can read it: it raises on the first field that is not what it should be.

Whoever writes a hash by hand, or wrote it with another release, must not keep a job from its end: what cannot be read
counts as not given, what is too large as the largest there is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import isnan
from typing import Any

from rq.exceptions import TimeoutFormatError
from rq.job import JobStatus
from rq.utils import as_text, parse_timeout, str_to_date

from jobqueue.errors import BadValue
from jobqueue.protocol.bounds import LONGEST, clamped


def readable(raw: Mapping[Any, Any]) -> dict[bytes, bytes]:
    """Return the fields that can be read, their names as bytes."""
    fields = {name if isinstance(name, bytes) else str(name).encode(): value for name, value in raw.items()}
    kept = {name: _READ[name](value) if name in _READ else value for name, value in fields.items()}
    return {name: value for name, value in kept.items() if value is not None}


def check_written(written: Mapping[str, Any]) -> None:
    """Raise BadValue for a number that RQ's Job.restore could not read again, before it is written."""
    for name in _NUMBERS:
        value = written.get(name)
        if value is None or type(value) is int:
            continue
        text = value if isinstance(value, str) else repr(value)  # as redis-py encodes the types that it can send
        try:
            parse_timeout(text) if name == "timeout" else int(text)
        except (ValueError, TimeoutFormatError):
            raise BadValue(f"The job's {name} is {text[:100]}: RQ reads whole numbers there.") from None


def _number(value: bytes) -> bytes | None:
    number = clamped(value)
    return None if number is None else b"%d" % number


def _checked(read: Callable[[Any], object]) -> Callable[[bytes], bytes | None]:
    def kept(value: bytes) -> bytes | None:
        try:
            read(value)
        except Exception:  # whatever error RQ's reader raises for it
            return None
        return value

    return kept


def _text(value: bytes) -> bytes:
    return value.decode(errors="replace").encode() if isinstance(value, bytes) else value


def _list_of_texts(value: bytes) -> object:
    found = json.loads(value)
    if not isinstance(found, list) or not all(isinstance(it, str) for it in found):
        raise ValueError("not such a list")
    return found


def _intervals(value: bytes) -> bytes | None:
    """Return the list of seconds between retries or repeats. RQ's producers refuse most that is wrong in it, but not
    NaN, nor more seconds than a calendar has, nor an empty list, which counts as not given."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return None
    numbers = [_seconds(it) for it in (found if isinstance(found, list) else [found])]
    return json.dumps(numbers).encode() if numbers and None not in numbers else None


def _seconds(value: object) -> int | float | None:
    if not isinstance(value, (int, float)):
        return None
    return 0 if isnan(value) else max(0, min(value, LONGEST))


_NUMBERS = ("timeout", "result_ttl", "failure_ttl", "ttl", "retries_left", "repeats_left", "number_of_retries",
            "rate_limit_concurrency", "enqueue_at_front", "enqueue_at_front_on_retry", "allow_dependency_failures",
            "success_callback_timeout", "failure_callback_timeout", "stopped_callback_timeout",
            "jobq_crashes", "jobq_redelivered")  # fmt: skip
_TIMES = ("created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat")
_TEXTS = ("origin", "description", "worker_name", "group_id", "rate_limit_key", "success_callback_name",
          "failure_callback_name", "stopped_callback_name", "jobq_on_crash")  # fmt: skip
_READ: dict[bytes, Callable[[bytes], bytes | None]] = {
    **{name.encode(): _number for name in _NUMBERS},
    **{name.encode(): _checked(str_to_date) for name in _TIMES},
    **{name.encode(): _text for name in _TEXTS},
    b"retry_intervals": _intervals,
    b"repeat_intervals": _intervals,
    b"dependency_ids": _checked(_list_of_texts),
    b"status": _checked(lambda value: JobStatus(as_text(value))),
}
