"""Notice a connection that died silently: by keepalive in the kernel, a PING after each silence, and a limit for each
answer.

A firewall or NAT that forgets a connection drops its packets without a RST or an end. A client that waits for an answer
then waits for ever, unless the kernel probes the other side (keepalive) or the socket has a timeout. Where something in
between keeps the connection open and drops the data, only the timeout helps.
"""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from functools import cache
from typing import Any

from redis.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError, ReadOnlyError, TimeoutError

from jobqueue.clock import monotonic

ANSWER = 10.0  # seconds for an answer of the store, on all clients without a timeout of their own
FIRST_ANSWER = 5.0  # seconds for the answer to the PING after a silence
SILENCE = 5.0  # seconds without traffic after which a PING is sent first
COMMAND = 15.0  # seconds for an answer to a job's own command that does not wait in the store
# Seconds for a job's own command that waits in the store without a limit; the same as in RQ's worker.
WAITS_AT_MOST = 415.0


def keepalive() -> dict[str, Any]:
    """Return redis-py's options for TCP keepalive. After 5 s of silence the kernel probes the other side, and gives up
    after 11 s; data that is not acknowledged for 15 s ends the connection too. Options that a platform lacks are left
    out."""
    wanted = {"TCP_KEEPIDLE": 5, "TCP_KEEPALIVE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 15_000}
    options = {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}
    return {"socket_keepalive": True, "socket_keepalive_options": options, "health_check_interval": SILENCE}


class _Asking(AbstractConnection):
    """A connection that sends PING before a command that follows a silence. If there is no answer, or the server has
    said that it is a replica, it reconnects; the command itself is sent once, over the good connection.

    While keys are watched it raises instead, because a new connection would not watch them.
    """

    _watches = False
    _is_demoted = False  # the server says that it is a replica; its name may lead to another server by now

    def on_connect_check_health(self, check_health: bool = True) -> None:
        self._watches = self._is_demoted = False
        self.next_health_check = monotonic() + SILENCE  # type: ignore[assignment]
        super().on_connect_check_health(check_health)

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().read_response(*args, **kwargs)
        except ReadOnlyError:
            self._is_demoted = True
            raise

    def check_health(self) -> None:
        if self._is_demoted and not self._watches:
            self.disconnect()  # type: ignore[no-untyped-call]
            self.connect()  # type: ignore[no-untyped-call]
        elif self.health_check_interval and monotonic() > self.next_health_check and self._sock is not None:
            try:
                self._ask()
            except (ConnectionError, TimeoutError):
                self.disconnect()
                if self._watches:
                    raise
                self.connect()

    def _ask(self) -> None:
        super().send_command("PING", check_health=False)  # type: ignore[no-untyped-call]
        if not self.can_read(FIRST_ANSWER):
            raise TimeoutError("no answer after a silence")
        self.read_response()

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        super().send_command(*args, **kwargs)  # type: ignore[no-untyped-call]
        if args[0] in ("WATCH", "UNWATCH", "DISCARD"):
            self._watches = args[0] == "WATCH"

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]
        if self._watches and isinstance(command, list) and command and command[-1].endswith(b"EXEC\r\n"):
            self._watches = False


def asks(kind: Any) -> bool:
    return issubclass(kind, _Asking)


@cache
def asking(kind: Any) -> Any:
    """Return this class of connections with a PING after each silence. Classes that cannot die silently are returned
    unchanged."""
    if not issubclass(kind, Connection) or issubclass(kind, _Asking):
        return kind
    return type(f"Asking{kind.__name__}", (_Asking, kind), {"__module__": __name__})


# -- a job's own commands ----------------------------------------------------------------------------------------------

_LAST, _FIRST = -1, 1  # the position of a command's own limit among its arguments
_WAITING = {
    **dict.fromkeys(("BLPOP", "BRPOP", "BLMOVE", "BRPOPLPUSH", "BZPOPMIN", "BZPOPMAX"), (_LAST, 1.0)),
    **dict.fromkeys(("BLMPOP", "BZMPOP"), (_FIRST, 1.0)),
    **dict.fromkeys(("WAIT", "WAITAOF"), (_LAST, 1000.0)),
}
_LISTENING = frozenset({"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "MONITOR"})
_MAY_WAIT = re.compile(
    rb"\*\d+\r\n\$\d+\r\n(?:%b)\r\n"
    % b"|".join(name.encode() for name in (*_WAITING, *_LISTENING, "XREAD", "XREADGROUP")),
    re.IGNORECASE,
)


def limit_of(command: tuple[Any, ...]) -> float:
    """Return the seconds within which the store has to answer ``command``."""
    name = _word(command[0])
    try:
        if name in _WAITING:
            place, unit = _WAITING[name]
            return _and_its_own(float(_word(command[place])) / unit)
        if name in ("XREAD", "XREADGROUP"):
            words = [_word(part) for part in command]
            return _and_its_own(float(words[words.index("BLOCK") + 1]) / 1000) if "BLOCK" in words else COMMAND
    except (ValueError, IndexError):  # the store will refuse the command with an error
        return COMMAND
    return WAITS_AT_MOST if name in _LISTENING else COMMAND


def _word(part: Any) -> str:
    return part.decode("utf-8", "replace").upper() if isinstance(part, bytes) else str(part).upper()


def _and_its_own(seconds: float) -> float:
    return seconds + COMMAND if seconds > 0 else WAITS_AT_MOST


class _Limited(AbstractConnection):
    """A connection for jobs' own commands: each command has the limit that suits it, however long the socket's timeout
    is, which has to be long enough for a BLPOP."""

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        parts = [command] if isinstance(command, bytes | str) else list(command)
        waits = any(isinstance(part, str) or _MAY_WAIT.search(part) for part in parts)
        super().send_packed_command(parts, check_health)  # type: ignore[no-untyped-call]
        self._answer_within(WAITS_AT_MOST if waits else COMMAND)

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        super().send_command(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._answer_within(limit_of(args))

    def _answer_within(self, seconds: float) -> None:
        own = self.socket_timeout
        limit = seconds if own is None else min(seconds, own)
        if isinstance(self._sock, socket.socket) and self._sock.gettimeout() != limit:
            # Another thread may have closed it meanwhile, as RQ's does its subscription; the next read raises.
            with suppress(OSError):
                self._sock.settimeout(limit)


@cache
def limited(kind: Any) -> Any:
    """Return this class of connections with a limit for each command."""
    if issubclass(kind, _Limited) or not issubclass(kind, Connection | UnixDomainSocketConnection):
        return kind
    kind = asking(kind)
    return type(f"Limited{kind.__name__}", (_Limited, kind), {"__module__": __name__})


def __getattr__(name: str) -> Any:
    """Return such a class by its name, also in a process that has not made it yet: RQ's scheduler pickles the class of
    its worker's connections where processes are spawned."""
    for kind in (Connection, SSLConnection, UnixDomainSocketConnection):
        for made in (asking(kind), limited(kind)):
            if made.__name__ == name and made.__module__ == __name__:
                return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
