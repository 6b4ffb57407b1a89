"""From the words of the command line to the calls of a task: values, lines, and numbers that begin with a minus."""

from __future__ import annotations

import json
import os
import re
import select
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from math import ceil
from typing import Any, ClassVar

import click

from jobqueue.errors import BadArguments, JobqError
from jobqueue.serializers import JSON

CHUNK = 500  # lines that are checked and sent together
PATIENCE = 0.05  # seconds of silence after which the lines that have come are sent
_NOT_JSON = frozenset({"NaN", "Infinity", "-Infinity"})  # Python's json would take these words for numbers
_NEGATIVE = re.compile(r"-(\.?\d|Infinity$)")

Call = tuple[Sequence[Any], Mapping[str, Any]]


def parse_value(text: str) -> Any:
    """Return the JSON value that the text is, else the text."""
    if text in _NOT_JSON:
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
    except (ValueError, RecursionError) as e:  # a number of more than 4300 digits, brackets without end
        raise BadArguments(f"A value cannot be read: {str(e).partition(';')[0]}.") from None


def parse_json(option: str, text: str, kind: type) -> Any:
    """Return the JSON list or object that an option wants."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise BadArguments(f"{option} {text!r} is not JSON: {e}.") from None
    if not isinstance(value, kind):
        raise BadArguments(f"{option} wants a JSON {'list' if kind is list else 'object'}, not {text!r}.")
    return value


def calls_of_lines(
    fd: int, kwargs: Mapping[str, Any], check: Any, sent: Any, *, patience: float = PATIENCE
) -> Iterator[list[Call]]:
    """Yield the lines of a file as checked calls, in chunks that wait for no slow writer.

    Raises the first bad line's error with its number; then nothing of its chunk has been yielded. ``sent`` tells how
    many jobs have been enqueued by then.
    """
    for chunk in chunks_of_lines(fd, patience):
        calls: list[Call] = []
        for number, line in chunk:
            try:
                call: Call = ((parse_value(line.decode()),), kwargs)
                check_call(call, check)
            except UnicodeDecodeError:
                raise BadArguments(f"Line {number} is not UTF-8 text. {_so_far(sent())}") from None
            except JobqError as e:
                raise type(e)(f"Line {number}: {e} {_so_far(sent())}") from None
            calls.append(call)
        yield calls


def _so_far(sent: int) -> str:
    return f"{sent} jobs were enqueued before it." if sent else "Nothing was enqueued."


def check_call(call: Call, check: Any) -> None:
    """Raise BadArguments or NotSerializable; ``check`` None trusts the caller's arguments."""
    args, kwargs = call
    if check is not None:
        check(args, kwargs)
    JSON.dumps((args, kwargs))


def chunks_of_lines(fd: int, patience: float = PATIENCE) -> Iterator[list[tuple[int, bytes]]]:
    """Yield the non-blank lines with their numbers: 500 at a time, or what has come when the writer pauses."""
    rest, number = b"", 0
    chunk: list[tuple[int, bytes]] = []
    while True:
        if chunk and not select.select([fd], [], [], patience)[0]:
            yield chunk
            chunk = []
        data = os.read(fd, 65536)
        *lines, rest = (rest + data).split(b"\n") if data else (rest, b"")
        for line in lines:
            number += 1
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line  # some editors write a BOM
            if line.strip():
                chunk.append((number, line.rstrip(b"\r")))
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
        if not data:
            if chunk:
                yield chunk
            return


def in_chunks(calls: Iterable[Call]) -> Iterator[list[Call]]:
    chunk: list[Call] = []
    for call in calls:
        chunk.append(call)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class NegativeNumbersAreValues(click.Command):
    """``jobq submit square -5``: a negative number is a value; any other unknown option is still an error."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        takes_value = {
            name
            for param in self.params
            if isinstance(param, click.Option) and not param.is_flag and not param.count
            for name in param.opts
        }
        options: list[str] = []
        values: list[str] = []
        words = iter(args)
        for word in words:
            if word == "--":
                values += words
            elif word.startswith("-") and len(word) > 1 and not _NEGATIVE.match(word):
                options.append(word)
                if word in takes_value:
                    options += [value for value in [next(words, None)] if value is not None]
            else:
                values.append(word)
        return super().parse_args(ctx, [*options, "--", *values])


class Seconds(click.ParamType[int]):
    """Whole seconds, or RQ's "30s", "5m", "1h", "2d"; fractions are rounded up, because RQ's readers want integers."""

    name = "seconds"
    _UNITS: ClassVar = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

    def __init__(self, *, smallest: int = 0, forever: bool = True) -> None:
        self._smallest = smallest
        self._forever = forever

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value)
        number, unit = (text[:-1], self._UNITS[text[-1]]) if text[-1:] in self._UNITS else (text, 1)
        try:
            seconds = ceil(float(number) * unit)
        except (ValueError, OverflowError):
            self.fail(f"{text!r} is not a number of seconds, nor like 30s, 5m, 1h or 2d", param, ctx)
        if seconds < self._smallest and not (self._forever and seconds == -1):
            also = ", or -1 for no limit" if self._forever else ""
            self.fail(f"{text!r} must be at least {self._smallest}{also}", param, ctx)
        return seconds


class Moment(click.ParamType[datetime]):
    """A time in ISO 8601; without a zone it is local time."""

    name = "iso-time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return datetime.fromisoformat(str(value)).astimezone()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time like 2026-12-31T23:59 or 2026-12-31T23:59:00+01:00", param, ctx)
