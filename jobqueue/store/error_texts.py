"""Explain redis-py's errors: one line that says where, what, and what to do."""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterator

import redis
from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError
from redis.sentinel import MasterNotFoundError  # noqa: TID251  # the exception only: no Sentinel is built here

from jobqueue.errors import JobqError, StoreLoading, StoreRefused, StoreUnreachable, UsageError
from jobqueue.store.address import Address

# The place in a script, which Redis adds to each error.
_OF_A_SCRIPT = re.compile(r",? *script: \w+, on @user_script:\d+\.?")
_OF_A_PIPELINE = re.compile(r"Command # \d+ \(.*\) of pipeline caused error: ", re.DOTALL)  # redis-py adds it
_DISK = re.compile(r"MISCONF Errors writing to the AOF file: (.*)")

Explanation = tuple[type[JobqError], str]  # the exception to raise, and what follows the address in its message


def explain(error: Exception, address: Address) -> JobqError:
    """Turn an exception of redis-py into a JobqError whose message is one line: where, what, and what to do."""
    said = (without_script(error).splitlines() or [""])[0]
    kind, words = (
        _refusal(error, said)
        or _silence(error, address.scheme == "rediss")
        or _nobody(_system_error(error))
        or _anything_else(error, said)
    )
    return kind(f"{address.describe()}{words}")


def without_script(error: BaseException) -> str:
    """Return Redis's message without the place in a script and without the command of a pipeline, which may hold a
    job's data."""
    return _OF_A_SCRIPT.sub("", _OF_A_PIPELINE.sub("", str(error), count=1))


def _refusal(error: Exception, said: str) -> Explanation | None:
    match error:
        case redis.AuthenticationError() if "required" in said.lower():
            return StoreRefused, " wants a password: put it into the URL, as in redis://:PASSWORD@host:6379/0"
        case redis.AuthenticationError():
            return StoreRefused, f" refuses the user name or password in the URL ({said})"
        case redis.BusyLoadingError():
            return StoreLoading, " is still loading its data: try again in a moment"
        case redis.OutOfMemoryError():
            return StoreRefused, " is full (its maxmemory is reached) and takes no more jobs"
        case redis.ResponseError() if said.startswith("MISCONF"):
            why = found[1].rstrip(". ") if (found := _DISK.match(said)) else "its last snapshot failed; see its log"
            return StoreRefused, f" cannot write to its disk, and takes nothing until it can: {why}"
        case TypeError():  # redis-py passes ?anything=… of a URL on as a keyword argument
            return UsageError, f": the URL has an option that redis-py does not know ({said.rpartition(') ')[2]})"
    return None


def _silence(error: Exception, tls: bool) -> Explanation | None:
    match error:
        case MasterNotFoundError():
            return StoreUnreachable, ": no Sentinel there answers and knows a primary of this name"
        case redis.TimeoutError() | TimeoutError() if tls:
            return StoreUnreachable, " does not answer: does it speak TLS on this port? If not: redis://"
        case redis.TimeoutError() | TimeoutError():
            return StoreUnreachable, " does not answer: is the address right, and does a firewall stand between?"
    return None


def _nobody(cause: OSError | None) -> Explanation | None:
    match cause:
        case socket.gaierror():
            return StoreUnreachable, ": there is no host of this name"
        case ConnectionRefusedError():
            return StoreUnreachable, ": nobody listens there (connection refused); is the server running?"
        case FileNotFoundError():
            return StoreUnreachable, ": there is no such socket; is the server running?"
        case PermissionError():
            return StoreUnreachable, ": permission denied; the socket belongs to somebody else"
        case OSError():
            return StoreUnreachable, f": {cause.strerror or cause}"
    return None


def _anything_else(error: Exception, said: str) -> Explanation:
    match error:
        case redis.InvalidResponse():
            return StoreUnreachable, " answers, but not as Redis does: is this the right port?"
        case redis.ConnectionError():
            return StoreUnreachable, f": {said}"
    return StoreRefused, f": {said}"


def _system_error(error: BaseException) -> OSError | None:
    """Return the OSError behind redis-py's exception; it tells a refused connection from an unknown host better than
    the text."""
    return next((it for it in causes(error) if isinstance(it, OSError)), None)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an exception and those that led to it, each once: redis-py raises exceptions again, so that one may
    have led to itself."""
    known: set[int] = set()
    it: BaseException | None = error
    while it is not None and id(it) not in known:
        known.add(id(it))
        yield it
        it = it.__cause__ or it.__context__


# Codes with which a server refuses every command, or every write, for a while, whatever the command is.
_STORE_WIDE = re.compile(
    r"(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOAUTH|NOPERM|NOREPLICAS|OOM|READONLY|TRYAGAIN|UNKILLABLE)\b"
)
_STORE_WIDE_ERRORS = (ReadOnlyError, OutOfMemoryError, NoPermissionError, redis.AuthenticationError)


def is_away(error: BaseException) -> bool:
    """Return whether the store as a whole does not answer, or refuses all commands for now, so that waiting helps.

    False for a store that answered and refuses this very command (a key of another type, a value that a script cannot
    read), and for errors that are not the store's.
    """
    if not isinstance(error, redis.ResponseError):
        return isinstance(error, redis.RedisError | OSError)
    return isinstance(error, _STORE_WIDE_ERRORS) or _STORE_WIDE.match(without_script(error)) is not None


_OF_THIS_PROCESS = {errno.EBADF, errno.EINVAL, errno.EMFILE, errno.ENOTSOCK}


def is_own_fault(error: BaseException) -> bool:
    """Return whether this process cannot connect to anything, because its descriptors or its limits are used up."""
    cause = _system_error(error)
    return cause is not None and cause.errno in _OF_THIS_PROCESS
