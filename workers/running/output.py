"""Write what jobs print line by line, also where stdout is a file or a pipe, and by one process only."""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys
from collections.abc import Iterator


def buffer_lines() -> None:
    """Write each line when it is printed, as on a terminal, so that a kill loses no line. stderr does this anyway."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.closed:
        sys.stdout.reconfigure(line_buffering=True)


@contextlib.contextmanager
def lines_buffered() -> Iterator[None]:
    """Do the same while inside, and undo it: for a process that is not ours."""
    stream = sys.stdout
    before = getattr(stream, "line_buffering", True)
    buffer_lines()
    try:
        yield
    finally:
        if not before and isinstance(stream, io.TextIOWrapper) and not stream.closed:
            stream.reconfigure(line_buffering=False)


def flush() -> None:
    """Write the buffers' contents. Call it before a fork, else each child writes them again; and before ``_exit``."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # None, closed, or the disk is full: nothing can be done about it here
            stream.flush()
    ctypes.CDLL(None).fflush(None)  # the buffers of C code
