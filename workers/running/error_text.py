"""What is recorded and logged of an exception: its traceback and one line, both bounded.

Printing an exception runs code of whoever wrote its class (``__str__``, notes, a cause's ``__str__``). So ``printed``
is called where a time limit holds; ``printed_without_its_code`` runs none of it, for what a limit cut short. Reading
an attribute runs such code too (``__getattribute__``, a property ``__traceback__``): there it reads past the class.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from itertools import islice
from types import TracebackType
from typing import Any

from jobqueue.workers.running.limits import PASSING

LONGEST_TRACEBACK = 40_000  # characters that are stored; also incompressible ones fit into a child's journal then
LONGEST_IN_LOG = 4_000  # characters of a traceback that is recorded nowhere else
LONGEST_LINE = 300  # characters of an exception in a log line
_CHAIN = 20  # exceptions of a chain that are printed without their code


def printed(error: BaseException, longest: int = LONGEST_TRACEBACK) -> str:
    """The traceback with its chain, as Python prints it."""
    return bounded("".join(traceback.format_exception(error)), longest)


def printed_anyhow(error: BaseException, longest: int = LONGEST_TRACEBACK) -> str:
    """The same, or what can be had of one that cannot be printed. Raises only what we raise in it."""
    try:
        return printed(error, longest)
    except PASSING:
        raise
    except BaseException:
        return printed_without_its_code(error)


def printed_without_its_code(error: BaseException) -> str:
    """The same without a call of the exceptions' own code: of a text that only such code has, the class is left."""
    parts = []
    for one in islice(_chain(error), _CHAIN):
        frames = "".join(traceback.format_tb(traceback_of(one)))
        head = f"Traceback (most recent call last):\n{frames}" if frames else ""
        parts.append(f"{head}{_name(one)}: {_text_without_code(one)}\n")
    return bounded("\nThen, while that was handled or recorded:\n\n".join(reversed(parts)))


def traceback_of(error: BaseException) -> TracebackType | None:
    """Without a call of its code."""
    found: TracebackType | None = _read(error, "__traceback__")
    return found


def one_line(error: BaseException) -> str:
    """Its class and what it says, in one line. Some say nothing that can be printed. Runs the exception's own code."""
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
    """In one line, and so long that a log stays readable."""
    line = " ".join(text[: 4 * LONGEST_LINE].split())
    return line if len(line) <= LONGEST_LINE and len(text) <= 4 * LONGEST_LINE else f"{line[:LONGEST_LINE]}..."


def bounded(text: str, longest: int = LONGEST_TRACEBACK) -> str:
    """The head and the tail of a text that is too long to be kept whole, with a word between them."""
    left_out = len(text) - longest
    if left_out <= 0:
        return text
    half = longest // 2
    return f"{text[:half]}\n... {left_out} characters are left out here ...\n{text[-half:]}"


def _read(error: BaseException, name: str) -> Any:
    """What Python itself keeps of every exception, whatever its class says."""
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
    """It says itself what BaseException says."""
    classes = type.__dict__["__mro__"].__get__(kind)
    return next(cls for cls in classes if "__str__" in type.__dict__["__dict__"].__get__(cls)) is BaseException
