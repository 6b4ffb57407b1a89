"""Rebuild the exception that a job raised from its traceback, where that is safe; else use JobFailed.

A store keeps the traceback as text, whose last part names a class and a message. The class is looked up among the
modules that this program has imported already: a text from the store never causes an import. The exception is built
from the message, and used only if it then prints exactly as the job's exception did.

Its class may do anything when an instance is made or printed: raise SystemExit, or wait for a server. So it is made in
a thread of its own, for a limited time, and a class that was too slow once is not used again.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

from jobqueue.errors import JobError, JobFailed
from jobqueue.executor.references import MAIN, main_module_name

_CHAINED = re.compile(
    r"\n\n(?:The above exception was the direct cause of the following exception"
    r"|During handling of the above exception, another exception occurred):\n\n"
)
_HEAD = "Traceback (most recent call last):\n"
_HEADS = re.compile(r"^Traceback \(most recent call last\):$", re.MULTILINE)
MAKING = 1.0  # seconds that a class may take to make and print an exception
_MOST_SLOW = 1000
_slow: set[str] = set()  # names of classes that took longer than MAKING

_OS_ERROR = re.compile(r"\[Errno (\d+)\] (.*?)(?:: ('.*'|\".*\"))?", re.DOTALL)


class RemoteTraceback(Exception):
    """The cause of an exception that came from a job: the traceback as the worker wrote it."""

    def __init__(self, traceback: str) -> None:
        super().__init__(traceback)
        self.traceback = traceback

    def __str__(self) -> str:
        return f'\n"""\n{self.traceback}"""'


def remote_error(error: JobError) -> Exception:
    """Return the exception that the job raised, if it can be rebuilt, else ``error``. The traceback is its cause."""
    if not isinstance(error, JobFailed) or not error.traceback:
        return error
    cause = RemoteTraceback(error.traceback)
    error.__cause__ = cause
    return rebuild(error.traceback, cause) or error


def rebuild(traceback: str, cause: Exception | None = None) -> Exception | None:
    """Return the exception that ended with this traceback; None when that is not certain."""
    found = _said(traceback)
    if found is None:
        return None
    name, message = found
    if hasattr(builtins, name):
        return _made(name, message, cause)
    return _made_aside(name, message, cause)


def _said(traceback: str) -> tuple[str, str] | None:
    """Return the name of the class and the message at the end of a traceback."""
    chain = _CHAINED.split(traceback)
    last = chain[-1]
    if not last.startswith(_HEAD):  # written by a worker about a job that was killed: the job raised no exception
        return None
    if len(chain) > 1 and len(chain) != len(_HEADS.findall(traceback)):
        # A message quotes a chain, so the end is ambiguous.
        return None
    lines = last[len(_HEAD) :].rstrip("\n").split("\n")
    first = next((i for i, line in enumerate(lines) if line and not line.startswith(" ")), None)
    if first is None:
        return None
    name, _, rest = lines[first].partition(":")
    return name, "\n".join([rest[1:], *lines[first + 1 :]])


def _made(name: str, message: str, cause: Exception | None) -> Exception | None:
    kind = _class(name)
    error = None if kind is None else next(_built(kind, message), None)
    if error is not None:
        error.__cause__ = cause
    return error


def _made_aside(name: str, message: str, cause: Exception | None) -> Exception | None:
    """Build the exception in a thread, because it runs the class's own code; the caller goes on after a limited
    time."""
    if name in _slow:
        return None
    made: list[Exception] = []
    over = threading.Event()

    def make() -> None:
        try:
            if (error := _made(name, message, cause)) is not None:
                made.append(error)
        except BaseException:  # SystemExit and KeyboardInterrupt come from the class, not from a signal
            pass
        finally:
            over.set()

    threading.Thread(target=make, name="jobq-exception", daemon=True).start()
    if not over.wait(MAKING) and len(_slow) < _MOST_SLOW:
        _slow.add(name)
    return next(iter(made), None)


def _class(name: str) -> type[Exception] | None:
    """Return the class of this name, if its module is imported. Tracebacks omit ``builtins``."""
    bits = name.split(".")
    places = [("builtins", bits)] if len(bits) == 1 else []
    places += [(".".join(bits[:i]), bits[i:]) for i in range(len(bits) - 1, 0, -1)]
    for module, path in places:
        found: Any = sys.modules.get(MAIN if module == main_module_name() else module)
        for bit in path:
            found = getattr(found, bit, None)
        if isinstance(found, type) and issubclass(found, Exception) and found.__qualname__ == ".".join(path):
            return found
    return None


def _built(kind: type[Exception], message: str) -> Iterator[Exception]:
    """Yield exceptions of this class that print the same words, one for each way to make them."""
    for arguments in _arguments(kind, message):
        try:
            error = kind(*arguments)
            if type(error) is kind and str(error) == message:
                yield error
        except Exception:  # it requires other arguments, or its __str__ does
            continue


def _arguments(kind: type[Exception], message: str) -> Iterator[tuple[Any, ...]]:
    if not message:
        yield ()
    if issubclass(kind, OSError) and (found := _OS_ERROR.fullmatch(message)):
        number, text, file = found.groups()
        yield (int(number), text) if file is None else (int(number), text, ast.literal_eval(file))
    value = _literal(message)
    if issubclass(kind, KeyError) and value is not None:
        yield (value,)
    if isinstance(value, tuple):  # ValueError("a", 1) prints ('a', 1)
        yield value
    yield (message,)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text) if len(text) <= 1000 else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
