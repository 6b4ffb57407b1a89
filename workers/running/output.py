"""What jobs print: seen line by line, also where stdout is a file or a pipe, and written once by one process."""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys
from collections.abc import Iterator


def buffer_lines() -> None:
    """A whole line is written when it is printed, as on a terminal: a kill loses no line. stderr does so anyway."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.closed:
        sys.stdout.reconfigure(line_buffering=True)


@contextlib.contextmanager
def lines_buffered() -> Iterator[None]:
    """While inside, in a process that is somebody else's."""
    stream = sys.stdout
    before = getattr(stream, "line_buffering", True)
    buffer_lines()
    try:
        yield
    finally:
        if not before and isinstance(stream, io.TextIOWrapper) and not stream.closed:
            stream.reconfigure(line_buffering=False)


def flush() -> None:
    """Before a fork, or every child writes what stands in the buffers once more; before an end without clean-up."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # None, closed, a full disk: nothing that can be helped here
            stream.flush()
    ctypes.CDLL(None).fflush(None)  # what code in C printed
