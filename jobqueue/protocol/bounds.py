"""Check every number that enters: by the command line, the Python API, cron files, and from the store.

There is one table, and one way to read a number. A number out of bounds is refused with one sentence before anything is
sent; one that is in the store already, from other producers or older releases, is clamped, as a worker has to continue.
``LONGEST`` is the most that the store, Python's clocks and RQ's readers all accept: a hundred years.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from math import ceil, isfinite, isnan
from numbers import Integral, Real
from typing import Any, TypeVar, cast

from jobqueue.errors import BadValue
from jobqueue.protocol import names

LONGEST = 3_155_760_000  # seconds: a hundred years
MOST = 1_000_000_000  # of counts
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}  # as RQ reads them


@dataclass(frozen=True)
class Bounds:
    """Bounds from ``least`` to ``most``. endless: the meaning of -1, "" if it has none."""

    least: float
    most: float = LONGEST
    endless: str = ""
    whole: bool = True  # fractions of a second are rounded up: RQ's readers want integers
    seconds: bool = True
    fractions: bool = True  # may be given

    def check(self, name: str, value: object) -> int:
        """Return the number that ``value`` is: a number, or a text like 90, 30s, 5m, 1h, 2d. Raises BadValue."""
        return cast(int, self._checked(name, value))

    def check_float(self, name: str, value: object) -> float:
        return float(self._checked(name, value))

    def _checked(self, name: str, value: object) -> float:
        number = self.read(value)
        if number is None:
            raise BadValue(f"{name} is {_shown(value)}: give {self.describe()}.")
        return number

    def read(self, value: object) -> float | None:
        """Return the number if it is one within the bounds."""
        number = _number(value, self.seconds)
        if number is None or (not self.fractions and number != int(number)):
            return None
        if self.whole and not isinstance(number, int):
            number = ceil(number)
        return number if self.least <= number <= self.most or (self.endless and number == -1) else None

    def describe(self) -> str:
        """Say what may be given, as the end of a sentence."""
        most = f"{self.most:,} (100 years)" if self.most == LONGEST else f"{self.most:,.10g}"
        return (
            f"{'seconds' if self.seconds else 'a whole number' if not self.fractions else 'a number'} "
            f"from {self.least:g} to {most}" + (f", or -1 {self.endless}" if self.endless else "")
        )


RESULT_TTL = Bounds(0, endless="to keep it for ever")
FAILURE_TTL = RESULT_TTL
TTL = Bounds(1)
TIMEOUT = Bounds(1, endless="for no limit")
INTERVAL = Bounds(0)
COUNT = Bounds(1, MOST, seconds=False, fractions=False)
COUNT_OR_NONE = Bounds(0, MOST, seconds=False, fractions=False)
EVERY = Bounds(0.1, whole=False)  # less is a mistake: each occurrence is a job
DELAY = Bounds(0, whole=False)
AGE = Bounds(1, whole=False)
WAIT = Bounds(-LONGEST, whole=False)  # of a program: a deadline that is over already is one, too


def _number(value: object, units: bool) -> int | float | None:
    """Return the value as a number; None if it is not a finite number. True does not count as one: a caller who writes
    ``every=True`` means something else."""
    try:
        if isinstance(value, bool):
            return None
        if isinstance(value, Integral):
            return int(value)
        if isinstance(value, str):
            return _number_in(value.strip(), units)
        number = float(value) if isinstance(value, (Real, Decimal)) else None
    except (ValueError, OverflowError):
        return None
    return number if number is not None and isfinite(number) else None


def _number_in(text: str, units: bool) -> int | float | None:
    factor = _UNITS.get(text[-1:].lower(), 0) if units else 0
    digits = text[:-1] if factor else text
    try:
        return int(digits) * (factor or 1)
    except ValueError:
        number = float(digits) * (factor or 1)
    return number if isfinite(number) else None


def _shown(value: object) -> str:
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:  # a type of the user's; also an int of more digits than Python prints
        text = f"of the type {type(value).__name__}"
    text = ascii(text)[1:-1] if not text.isprintable() else text
    return (text if len(text) <= 40 else f"{text[:37]}...") or "empty"


def wait(timeout: object) -> float | None:
    """Return the seconds that a caller waits for results, None without a limit. Raises BadValue."""
    seconds = None if timeout is None else WAIT.read(timeout)
    if (timeout is None) != (seconds is None):
        raise BadValue(f"timeout is {_shown(timeout)}: give seconds, 100 years at most, or None for no limit.")
    return seconds


# -- times ---------------------------------------------------------------------------------------------------------


def moment(name: str, value: object) -> datetime:
    """Return the time, if it is one that the store can carry. Raises BadValue."""
    try:
        if isinstance(value, datetime) and 0 <= value.timestamp() <= time.time() + LONGEST:
            return value
    except (ValueError, OverflowError, OSError):  # the first and the last day of the calendar, in some zones
        pass
    kind = "" if isinstance(value, datetime) else "a datetime "
    raise BadValue(f"{name} is {_shown(str(value))}: give {kind}between 1970 and a hundred years from now.")


def span(name: str, value: object) -> timedelta:
    """Return the time span; one that is over already is at once. Raises BadValue."""
    if isinstance(value, timedelta) and abs(value.total_seconds()) <= LONGEST:
        return value
    raise BadValue(f"{name} is {_shown(str(value))}: give a datetime.timedelta of a hundred years at most.")


# -- the options of a job ------------------------------------------------------------------------------------------


T = TypeVar("T")
_SECONDS = {"timeout": TIMEOUT, "result_ttl": RESULT_TTL, "failure_ttl": FAILURE_TTL, "ttl": TTL}
IN_SECONDS = tuple(_SECONDS)
_CALLBACKS = ("on_success", "on_failure", "on_stopped")
OBJECTS = ("retry", "repeat", "rate_limit", "webhooks", *_CALLBACKS)  # that hold numbers
_OBJECTS = {  # what shows that it is one, and what to give
    "retry": ("max", "a Retry of rq, or a whole number"),
    "repeat": ("times", "a Repeat of rq"),
    "rate_limit": ("concurrency", "a RateLimit of rq"),
    **dict.fromkeys(_CALLBACKS, ("timeout", "a Callback of rq, a function, or the name of one")),
}
_SHOWN_AS = {"timeout": "job_timeout"}


def of_options(options: T) -> T:
    """Return RQ's EnqueueArgs or EnqueueData with its numbers read. Raises BadValue."""
    of_objects({name: getattr(options, name, None) for name in OBJECTS})
    given = {name: value for name in _SECONDS if (value := getattr(options, name, None)) is not None}
    return cast(T, cast(Any, options)._replace(**{name: of_option(name, value) for name, value in given.items()}))


def of_option(name: str, value: object) -> int | None:
    """Return the number of one of a job's options in seconds. Raises BadValue."""
    return None if value is None else _SECONDS[name].check(_SHOWN_AS.get(name, name), value)


def of_job(job: Any) -> None:
    """Check a job that was made by hand and is about to be enqueued. Raises BadValue."""
    for name in _SECONDS:
        of_option(name, getattr(job, name))
    for name in ("retries_left", "repeats_left"):
        if (count := getattr(job, name, None)) is not None:
            COUNT_OR_NONE.check(name, count)


def of_objects(options: Mapping[str, Any]) -> None:
    """Check the options' values: RQ's Retry, Repeat, RateLimit, Callback and Webhooks, and the numbers in them. Raises
    BadValue."""
    for name, it in options.items():
        if it:  # else it is absent, as in RQ
            _of_option(name, it)


def _of_option(name: str, it: Any) -> None:
    if name == "retry" and isinstance(it, int):
        COUNT_OR_NONE.check(name, it)
    elif name == "webhooks":  # RQ itself checks these
        for webhook in it if isinstance(it, (list, tuple)) else (it,):
            _of_object(webhook)
    elif name in _CALLBACKS and (isinstance(it, str) or callable(it)):  # RQ makes a Callback of it
        names.callback(name, it if isinstance(it, str) else getattr(it, "__qualname__", type(it).__name__))
    else:
        sign, what = _OBJECTS[name]
        if not hasattr(it, sign):
            raise BadValue(f"{name} is {_shown(it)}: give {what}.")
        _of_object(it)
        if name in _CALLBACKS:
            names.callback(name, it.name)


def _of_object(it: Any) -> None:
    kind = type(it).__name__
    for name in ("max", "times", "concurrency"):
        if hasattr(it, name):
            COUNT.check(f"{name} of {kind}", getattr(it, name))
    intervals = getattr(it, "intervals", ())
    for interval in intervals if isinstance(intervals, Iterable) else (intervals,):
        INTERVAL.check(f"An interval of {kind}", interval)
    if kind in ("Callback", "Webhook"):
        TIMEOUT.check(f"timeout of {kind}", it.timeout)


# -- what stands in the store --------------------------------------------------------------------------------------


def clamped(value: bytes) -> float | None:
    """Return a number of a job's hash, from -1 to LONGEST; None if it is absent or invalid."""
    try:
        number = float(value) if value else None
    except ValueError:
        return None
    return None if number is None or isnan(number) else max(-1.0, min(float(LONGEST), number))


LARGEST_SIZE = 64 * 2**20


def size_of(text: str) -> int:
    """Return a number of bytes, which may be written "64k" or "1m". Raises ValueError, with a sentence."""
    digits = text.strip().lower()
    unit = {"k": 2**10, "m": 2**20}.get(digits[-1:], 1)
    number = digits if unit == 1 else digits[:-1]
    if not number.isdecimal() or int(number) * unit > LARGEST_SIZE:
        raise ValueError(f"{text!r} is not possible: give bytes up to 64m, such as 64k.")
    return int(number) * unit
