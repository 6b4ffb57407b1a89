"""Define all messages between the processes of a worker: their names, how they are encoded, how they are parsed.

    supervisor ─► child          Wake, Quiet, Interrupt, StopJob, Ping
    child ─► supervisor          OutOfWork, Retire, Dropped, CannotBegin, PluginBegun
    supervisor ─► fork server    ForkChild, ForkFinish, ForkMaintenance, Ping; a Fork... has the new process's end of
                                 its own control socket with it, as ancillary data
    fork server ─► supervisor    ImportBegun, Ready, ImportFailed, Forked, Unborn, Died, Pong

A message is one line: its name, and after a space its fields as a JSON list, if it has any. Before the first message
the fork server gets the worker's settings and files (handover.py).

User code runs in children and, while modules are imported, in the fork server, and it can write into the sockets there.
So a reader accepts only messages of its direction, with fields of the right types.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from enum import Enum
from functools import cache
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from jobqueue.protocol.claims import Token
from jobqueue.protocol.rescue import ForRQ

MAINTENANCE = "maintenance"  # in place of an owner's name


class NotAMessage(ValueError):
    """The data is not one of the expected messages."""


# -- supervisor → child ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wake:
    """Look for jobs: a queue may have one again."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """Claim nothing more, answer with the dropped jobs (Dropped), and leave when the running jobs are done."""


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Interrupt each running job: the grace of a shutdown is over."""


@dataclass(frozen=True, slots=True)
class StopJob:
    """Stop the job of this claim."""

    claim: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Give a sign of life: a child moves its pulse on the shared page, the fork server answers with Pong."""


ToChild = Wake | Quiet | Interrupt | StopJob | Ping


# -- child → supervisor ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OutOfWork:
    """The queues are empty: send Wake when a job is pushed."""


@dataclass(frozen=True, slots=True)
class Retire:
    """Start a successor, then send Quiet: this process has reached its maximum of jobs, or cannot continue."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Give these claimed jobs back, which have not started: the answer to Quiet."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class CannotBegin:
    """Tell the user why this process leaves before it has run a job."""

    why: str


@dataclass(frozen=True, slots=True)
class PluginBegun:
    """``process_start`` of this plugin is called next."""

    name: str


FromChild = OutOfWork | Retire | Dropped | CannotBegin | PluginBegun


# -- supervisor → fork server ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ForkChild:
    """Start child number ``child`` under the name ``owner``."""

    owner: str
    child: int


@dataclass(frozen=True, slots=True)
class ForkFinish:
    """Start a process in which RQ's own code ends jobs of a dead ``owner`` of ``worker``; those whose claim is in
    ``plain`` without any code of the user's. ``page``: the number of its page (finish_page.py)."""

    owner: str
    worker: str
    jobs: tuple[ForRQ, ...]
    plain: tuple[int, ...]
    page: int


@dataclass(frozen=True, slots=True)
class ForkMaintenance:
    """Start a process that does RQ's maintenance; answers name it by ``owner`` like others. plain: without any code of
    the user's."""

    plain: bool
    owner: str = MAINTENANCE


ForkRequest = ForkChild | ForkFinish | ForkMaintenance
ToForkServer = ForkRequest | Ping


# -- fork server → supervisor ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImportBegun:
    """This module is imported next."""

    module: str


@dataclass(frozen=True, slots=True)
class Ready:
    """All modules are imported. ``why_not_forked``: why children cannot be forked but are spawned, "" when they can.
    ``plugins``: the targets of active plugins that want to be called in the supervisor's process; ``hears_ends``: one
    wants to hear how jobs end."""

    why_not_forked: str
    plugins: tuple[str, ...] = ()
    hears_ends: bool = False


@dataclass(frozen=True, slots=True)
class ImportFailed:
    """A module cannot be imported: the worker ends with code 2 at once."""

    why: str


@dataclass(frozen=True, slots=True)
class Forked:
    """The process that was requested for ``owner`` runs."""

    owner: str
    pid: int


@dataclass(frozen=True, slots=True)
class Unborn:
    """The system did not start the process that was requested for ``owner``."""

    owner: str
    why: str


@dataclass(frozen=True, slots=True)
class Died:
    """A process of the fork server has ended, with this wait status."""

    pid: int
    status: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to Ping."""


FromForkServer = ImportBegun | Ready | ImportFailed | Forked | Unborn | Died | Pong


# -- encoding and parsing ----------------------------------------------------------------------------------------------

Message = ToChild | FromChild | ToForkServer | FromForkServer
M = TypeVar("M")


def encode(message: Message) -> bytes:
    """Return the line of one message, its end included."""
    kind = type(message)
    values = [getattr(message, name) for name in kind.__match_args__]
    name = kind.__name__
    return (f"{name} {json.dumps(values, default=bytes.decode)}\n" if values else f"{name}\n").encode()


def decode(line: bytes, expected: Any) -> Any:
    """Return the message of one line without its end. ``expected``: the union of the messages of its direction.
    Raises NotAMessage."""
    name, _, body = line.partition(b" ")
    try:
        kind, types = _known(expected)[name.decode()]
        return kind(*_converted(types, json.loads(body) if body else []))
    except (ValueError, TypeError, KeyError, RecursionError) as e:
        raise NotAMessage(f"{line[:100]!r} is no message") from e


class MessageReader(Generic[M]):
    """Cuts the data that arrives into messages, wherever the reads were split. An incomplete message is kept for the
    next read."""

    def __init__(self, expected: Any, skips_others: bool = False) -> None:
        """expected: the union of the messages of this direction, which is M. skips_others: skip a line that is not a
        message, instead of raising."""
        self._expected = expected
        self._skips_others = skips_others
        self._unread = b""

    def read(self, data: bytes) -> list[M]:
        """Return the messages that are complete with ``data``. Raises NotAMessage."""
        *lines, self._unread = (self._unread + data).split(b"\n")
        found = []
        for line in lines:
            try:
                found.append(decode(line, self._expected))
            except NotAMessage:
                if not self._skips_others:
                    raise
        return found


def know(*expected: Any) -> None:
    """Find out now, for the messages of these directions, what is otherwise found out at the first one."""
    for each in expected:
        for _, types in _known(each).values():
            for kind in types:
                if isinstance(kind, type) and issubclass(kind, tuple):
                    _types_of(kind)


@cache
def _known(expected: Any) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Return, by name, the class of each message and the types of its fields."""
    return {kind.__name__: (kind, _types_of(kind)) for kind in get_args(expected)}


@cache
def _types_of(kind: Any) -> tuple[Any, ...]:
    hints = get_type_hints(kind)
    names = kind._fields if issubclass(kind, tuple) else [field.name for field in fields(kind)]
    return tuple(hints[name] for name in names)


def _converted(types: tuple[Any, ...], values: Any) -> list[Any]:
    """Convert values that JSON has as lists and texts to our types. Raises TypeError, ValueError."""
    if type(values) is not list:
        raise TypeError(values)
    return [_as(kind, value) for kind, value in zip(types, values, strict=True)]


def _as(kind: Any, value: Any) -> Any:
    if get_origin(kind) is tuple:  # tuple[X, ...]
        return tuple(_converted((get_args(kind)[0],) * len(value), value))
    if issubclass(kind, Enum):
        return kind(value)
    if issubclass(kind, tuple):
        return kind(*_converted(_types_of(kind), value))
    if kind is bytes and type(value) is str:
        return value.encode()
    if type(value) is not kind:
        raise TypeError(value)
    return value
