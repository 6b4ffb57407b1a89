"""Make a command work whatever its standard streams are: closed, on a full disk, with a reader that leaves, not
UTF-8."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from jobqueue.errors import UsageError


class Forgiving(io.TextIOWrapper):
    """A stderr that drops what cannot be written. A full disk under a log must not stop a worker, nor keep a submit
    from saying by its exit code what became of the jobs."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            pass


class Watched(io.TextIOWrapper):
    """A stdout that remembers its own write errors, so that a full disk elsewhere is not taken for a full disk under
    stdout."""

    failure: OSError | None = None

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as e:
            self.failure = e
            raise

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as e:
            self.failure = e
            raise


def prepare(words: list[str], without_output: frozenset[str]) -> None:
    """Prepare the standard streams. words: the command line; without_output: commands that write nothing to stdout.

    Raises UsageError where stdout is closed, before anything is done: the command's output would be lost.
    """
    closed = [fd for fd in (0, 1, 2) if not _is_open(fd)]
    for fd in closed:
        _open_nothing(fd)
    sys.stdin = sys.stdin or io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    sys.stdout = sys.stdout or io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)))
    sys.stderr = sys.stderr or io.TextIOWrapper(io.BufferedWriter(io.FileIO(2, "w", closefd=False)))
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = Forgiving(sys.stderr.buffer, sys.stderr.encoding, "backslashreplace", line_buffering=True)
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = Watched(
            sys.stdout.buffer, sys.stdout.encoding, sys.stdout.errors, line_buffering=sys.stdout.isatty()
        )
    _say_what_can_be_said(sys.stdout)
    if 1 in closed and not without_output.intersection(words[:1]):
        raise UsageError("stdout is closed, and what this command prints would be lost: >/dev/null discards it.")
    if 0 in closed and "-" in words:
        raise UsageError("stdin is closed: there is nothing to read from it.")


def flush(code: int) -> int:
    """Write what is still buffered; return the exit code, or another one if that failed. Call it last."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as e:
        return output_failed(e)
    return code


def output_failed(error: OSError) -> int:
    """Print why stdout could not be written and return the exit code. Where its reader left (``jobq info | head``),
    print only the notes that the error carries."""
    # Drops what is buffered, which cannot be written either.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    more = notes(error)
    if more or not isinstance(error, BrokenPipeError):
        print(f"jobq: the output could not be written: {error.strerror}{more}", file=sys.stderr)
    return 1


def notes(error: BaseException) -> str:
    """Return the notes that were added to an error on its way, to be printed after its message."""
    return "".join(f"; {note}" for note in getattr(error, "__notes__", ()))


def is_of_output(error: OSError) -> bool:
    """Return whether the error was raised by stdout."""
    return isinstance(sys.stdout, Watched) and sys.stdout.failure is error


def _open_nothing(fd: int) -> None:
    """Open /dev/null in place of a closed stream: otherwise the next file or socket gets its number, and prints go
    there."""
    nothing = os.open(os.devnull, os.O_RDWR)
    if nothing != fd:
        os.dup2(nothing, fd)
        os.close(nothing)
    os.set_inheritable(fd, True)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _say_what_can_be_said(out: Any) -> None:
    """Print characters that the stream cannot encode as escapes, for a terminal that is not UTF-8 or a lone surrogate
    in the output of a job."""
    if isinstance(out, io.TextIOWrapper) and out.errors in ("strict", "surrogateescape"):
        # Surrogateescape: with LC_ALL=C.
        out.reconfigure(errors="backslashreplace")
