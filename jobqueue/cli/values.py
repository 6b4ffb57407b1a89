"""Turn the words of the command line into calls of a task: values, lines, and numbers that begin with a minus."""

from __future__ import annotations

import json
import os
import re
import select
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from jobqueue.cli.render import enqueued
from jobqueue.errors import BadArguments, BadValue, JobqError
from jobqueue.protocol import bounds
from jobqueue.serializers import JSON

CHUNK = 500  # lines that are checked and sent together
LINGER = 0.05  # seconds without a new line after which the lines read so far are sent
_NOT_JSON = frozenset({"NaN", "Infinity", "-Infinity"})  # Python's json would read these words as numbers
_NEGATIVE = re.compile(r"-(\.?\d|Infinity$)")

CallArguments = tuple[Sequence[Any], Mapping[str, Any]]


def parse_value(text: str) -> Any:
    """Return the value if the text is JSON, else the text."""
    if text in _NOT_JSON:
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
    except (ValueError, RecursionError) as e:  # a number of more than 4300 digits, brackets without end
        raise BadArguments(f"A value cannot be read: {str(e).partition(';')[0]}.") from None


def parse_json(option: str, text: str, kind: type) -> Any:
    """Return the JSON list or object that an option takes. Raises UsageError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise BadArguments(f"{option} {text!r} is not JSON: {e}.") from None
    if not isinstance(value, kind):
        raise BadArguments(f"{option} wants a JSON {'list' if kind is list else 'object'}, not {text!r}.")
    return value


def calls_of_lines(
    fd: int, kwargs: Mapping[str, Any], check: Any, sent: Any, *, linger: float = LINGER
) -> Iterator[list[CallArguments]]:
    """Yield the lines of a file as checked calls, in chunks that do not wait for a slow writer.

    Raises the first bad line's error with its number; then nothing of its chunk has been yielded. sent: returns how
    many jobs have been enqueued by then, for that error.
    """
    for chunk in _readable(chunks_of_lines(fd, linger), sent):
        calls: list[CallArguments] = []
        for number, line in chunk:
            try:
                call: CallArguments = ((parse_value(line.decode()),), kwargs)
                check_call(call, check)
            except UnicodeDecodeError:
                raise BadArguments(f"Line {number} is not UTF-8 text. {_so_far(sent())}") from None
            except JobqError as e:
                raise type(e)(f"Line {number}: {e} {_so_far(sent())}") from None
            calls.append(call)
        yield calls


def _readable(chunks: Iterator[list[tuple[int, bytes]]], sent: Any) -> Iterator[list[tuple[int, bytes]]]:
    try:
        yield from chunks
    except OSError as e:
        raise BadArguments(f"The file cannot be read: {e.strerror}. {_so_far(sent())}") from None


def _so_far(sent: int) -> str:
    return f"{enqueued(sent)} before it." if sent else "Nothing was enqueued."


def check_call(call: CallArguments, check: Any) -> None:
    """Raise BadArguments or NotSerializable for a call that cannot run. check: None trusts the caller's arguments."""
    args, kwargs = call
    if check is not None:
        check(args, kwargs)
    JSON.dumps((args, kwargs))


def chunks_of_lines(fd: int, linger: float = LINGER) -> Iterator[list[tuple[int, bytes]]]:
    """Yield the non-blank lines with their numbers: 500 at a time, or those read so far when the writer pauses."""
    begun: list[bytes] = []  # the pieces of an incomplete line, which are joined once, however long it is
    number = 0
    chunk: list[tuple[int, bytes]] = []
    while True:
        if chunk and not select.select([fd], [], [], linger)[0]:
            yield chunk
            chunk = []
        data = os.read(fd, 65536)
        first, *others = data.split(b"\n") if data else (b"", b"")  # at the end of the file, what is left is a line too
        begun.append(first)
        for following in others:
            number += 1
            line, begun = b"".join(begun), [following]
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


class NegativeNumbersAreValues(click.Command):
    """``jobq submit square -5``: a negative number is a value; any other unknown option is still an error."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:  # the shell asks for completions of a line that is not complete yet
            return super().parse_args(ctx, args)
        names = {name: param for param in self.params if isinstance(param, click.Option) for name in _names_of(param)}
        options: list[str] = []
        given: list[click.Option] = []
        values: list[str] = []
        words = iter(args)
        for word in words:
            if word == "--":
                values += words
            elif word.startswith("-") and len(word) > 1 and not _NEGATIVE.match(word):
                options.append(word)
                option = names.get(word.partition("=")[0]) or names.get(word[:2])  # --queue=high, -qhigh
                if option is None or not _takes_value(option):
                    continue
                given.append(option)
                if word[:2] in names and word[2:3] == "=":  # click would take the = as the first letter of the value
                    raise click.BadOptionUsage(word[:2], f"Option {word!r} reads {word[:2]} {word[3:]}.", ctx)
                if word in names:
                    options.append(_value_of(word, next(words, None), names, ctx))
            else:
                values.append(word)
        _refuse_repeats(given, ctx)
        return super().parse_args(ctx, [*options, "--", *values])


def _names_of(option: click.Option) -> list[str]:
    return [*option.opts, *option.secondary_opts]


def _takes_value(option: click.Option) -> bool:
    return not option.is_flag and not option.count


def _value_of(name: str, word: str | None, names: Mapping[str, click.Option], ctx: click.Context) -> str:
    """Return the value behind an option. Raises BadOptionUsage if it is missing."""
    if word is None or word == "--" or word.partition("=")[0] in names:
        found = "" if word is None else f", and {word} follows"
        raise click.BadOptionUsage(name, f"Option {name!r} requires an argument{found}.", ctx)
    return word


def _refuse_repeats(given: Sequence[click.Option], ctx: click.Context) -> None:
    """Refuse an option that is given twice: click would silently take the last value, and skip the jobs of the first
    file."""
    for i, option in enumerate(given):
        if not option.multiple and option in given[:i]:
            raise click.BadOptionUsage(option.opts[0], f"Option {' / '.join(option.opts)} is given twice.", ctx)


class Moment(click.ParamType[datetime]):
    """A time in ISO 8601; without a zone it is local time."""

    name = "iso-time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return bounds.moment("it", _with_zone(datetime.fromisoformat(str(value))))
        except BadValue as e:
            self.fail(str(e), param, ctx)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time like 2026-12-31T23:59 or 2026-12-31T23:59:00+01:00.", param, ctx)


def _with_zone(time: datetime) -> datetime:
    """Return the time in its zone, or in the local one; in UTC where Python does not find that, as some versions do in
    the first and the last year of the calendar."""
    try:
        return time.astimezone()
    except (ValueError, OverflowError):
        return time.replace(tzinfo=time.tzinfo or UTC)
