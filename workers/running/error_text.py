"""Print an exception for the store and the log: its traceback, and one line; both of limited length.

Printing an exception runs code of its class (``__str__``, notes, a cause's ``__str__``). So call ``printed`` only
within a time limit. ``printed_without_its_code`` runs none of that code, for an exception whose code was interrupted:
it also reads attributes past the class, as ``__getattribute__`` or a property ``__traceback__`` is such code too.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from itertools import islice
from types import TracebackType
from typing import Any

from jobqueue.workers.running.limits import PASSING

LONGEST_TRACEBACK = 40_000  # characters that are stored; even if they do not compress, a child's journal has room
LONGEST_IN_LOG = 4_000  # characters of a traceback that is recorded nowhere else
LONGEST_LINE = 300  # characters of an exception in a log line
_CHAIN = 20  # exceptions of a chain that are printed without their code


def printed(error: BaseException, longest: int = LONGEST_TRACEBACK) -> str:
    """Return the traceback with the chain of exceptions, as Python prints it. Runs code of the exceptions."""
    return bounded("".join(traceback.format_exception(error)), longest)


def printed_anyhow(error: BaseException, longest: int = LONGEST_TRACEBACK) -> str:
    """Return the same, or as much as can be printed without their code. Raises only the exceptions with which we
    interrupt a job."""
    try:
        return printed(error, longest)
    except PASSING:
        raise
    except BaseException:
        return printed_without_its_code(error)


def printed_without_its_code(error: BaseException) -> str:
    """Return the same without running code of the exceptions: where only such code has the text, the class's name."""
    parts = []
    for one in islice(_chain(error), _CHAIN):
        frames = "".join(traceback.format_tb(traceback_of(one)))
        head = f"Traceback (most recent call last):\n{frames}" if frames else ""
        parts.append(f"{head}{_name(one)}: {_text_without_code(one)}\n")
    return bounded("\nThen, while that was handled or recorded:\n\n".join(reversed(parts)))


def traceback_of(error: BaseException) -> TracebackType | None:
    """Return the exception's traceback without running its code."""
    found: TracebackType | None = _read(error, "__traceback__")
    return found


def one_line(error: BaseException) -> str:
    """Return the exception's class and text in one line. Runs code of the exception, which may fail: then only the
    class."""
    try:
        text = str(error)
    except PASSING:
        raise
    except BaseException as e:
        return f"{type(error).__name__} (its text cannot be had: {type(e).__name__})"
    return shortened(f"{type(error).__name__}: {text}")


def one_line_without_its_code(error: BaseException) -> str:
    return shortened(f"{type(error).__name__}: {_text_without_code(error)}")


def shortened(text: str) -> str:
    """Return the text in one line of at most LONGEST_LINE characters."""
    line = " ".join(text[: 4 * LONGEST_LINE].split())
    return line if len(line) <= LONGEST_LINE and len(text) <= 4 * LONGEST_LINE else f"{line[:LONGEST_LINE]}..."


def bounded(text: str, longest: int = LONGEST_TRACEBACK) -> str:
    """Return the text, or the beginning and the end of one that is too long, with a note between them."""
    left_out = len(text) - longest
    if left_out <= 0:
        return text
    half = longest // 2
    return f"{text[:half]}\n... {left_out} characters are left out here ...\n{text[-half:]}"


def _read(error: BaseException, name: str) -> Any:
    """Return an attribute of BaseException as Python stores it, past any override in the exception's class."""
    return BaseException.__dict__[name].__get__(error)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        context = None if _read(error, "__suppress_context__") else _read(error, "__context__")
        error = _read(error, "__cause__") or context


def _name(error: BaseException) -> str:
    kind = type(error)
    module, name = (type.__dict__[part].__get__(kind) for part in ("__module__", "__qualname__"))
    return str(name) if module in ("builtins", "__main__") or type(module) is not str else f"{module}.{name}"


def _text_without_code(error: BaseException) -> str:
    args = _read(error, "args")
    plain = _has_plain_text(type(error)) and all(type(part) in (str, int, float) for part in args)
    return BaseException.__str__(error) if plain else "(its text was not asked for)"


def _has_plain_text(kind: type[BaseException]) -> bool:
    """Return whether the class has no ``__str__`` of its own."""
    classes = type.__dict__["__mro__"].__get__(kind)
    return next(cls for cls in classes if "__str__" in type.__dict__["__dict__"].__get__(cls)) is BaseException
