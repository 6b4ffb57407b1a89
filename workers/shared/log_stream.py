"""Write the log without waiting for its reader, so that no process of a worker is blocked by it.

A pipe or a socket whose reader is stuck, or a terminal that was halted (Ctrl-S), accepts no data, and a plain write
would wait for ever: in a supervisor that has to stop, or a child that has to settle. Here a line waits for a moment and
is then dropped, and the next line that is written says how many are missing.

O_NONBLOCK is a flag of the open file, which we share with the program that started us and with programs that jobs
start. So it is never set on stderr itself: a pipe or terminal is opened again for each line, a socket gets the flag in
each call, and where neither is possible, the line is written when the system says that there is room.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import select
import socket
import stat
import sys
from collections.abc import Callable
from typing import TextIO

PATIENCE = 0.2  # seconds that a line waits; after one was dropped, the next ones do not wait
PIPE_BUF = select.PIPE_BUF  # the size up to which a write to a pipe is done as a whole or not at all
_MSG_NOSIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)


class Impatient(io.TextIOWrapper):
    """stderr of a process that has to stop when told so: text that it does not accept is lost."""

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError):
            write_what_is_taken(self.fileno(), text.encode(self.encoding, "backslashreplace"), PATIENCE)
        return len(text)


def never_wait_for_a_reader() -> None:
    """Replace stderr, so that no message or traceback of this process itself blocks it any more."""
    before = sys.stderr
    with contextlib.suppress(OSError, ValueError, AttributeError):  # in tests it may be no file
        before.fileno()
        sys.stderr = Impatient(before.buffer, before.encoding, "backslashreplace", write_through=True)
        sys.stderr.below = before  # type: ignore[attr-defined]  # kept, as collecting it would close the file


class StderrHandler(logging.Handler):
    """Write each record to the stream. The handler's lock is held meanwhile, for PATIENCE at most."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._missing = 0  # lines that this process has dropped
        self._missed_by = 0  # the pid of this process: a forked copy has dropped none yet
        self._torn = False  # only a part of the last line was written

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:  # a mistake of ours
            self.handleError(record)
            return
        if self._missed_by != os.getpid():
            self._missing, self._torn = 0, False
        if self._missing:
            text = f"{self.format(_notice(self._missing, record.created))}\n{text}"
        if self._write(f"{text}\n"):
            self._missing = 0
        else:
            self._missing, self._missed_by = self._missing + 1, os.getpid()

    def _write(self, text: str) -> bool:
        """Return whether all of it was written."""
        try:
            number = self._stream.fileno()
        except OSError:  # in tests it may be no file
            self._stream.write(text)
            return True
        except ValueError:  # it is closed
            return False
        data = text.encode(self._stream.encoding, "backslashreplace")
        if self._torn:
            data = b"\n" + data
        try:
            done = write_what_is_taken(number, data, 0.0 if self._missing else PATIENCE)
        except OSError:  # the reader is gone, or the disk is full
            return False
        self._torn = 0 < done < len(data) or (self._torn and done == 0)
        return done == len(data)


def _notice(missing: int, at: float) -> logging.LogRecord:
    text = f"{missing} {'line is' if missing == 1 else 'lines are'} missing here: nobody took what this process wrote"
    record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None)
    record.created = at
    return record


def write_what_is_taken(number: int, data: bytes, patience: float) -> int:
    """Write to a descriptor that may be shared and may accept no data; return how many bytes were written. It waits for
    ``patience`` seconds at most. Raises OSError."""
    mode = os.fstat(number).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)):
        return os.write(number, data)
    if stat.S_ISSOCK(mode):
        return _in_pieces(lambda piece: _send(number, piece), number, data, patience)
    if (own := _opened_once_more(number)) < 0:
        return _in_pieces(lambda piece: _write_where_there_is_room(number, piece), number, data, patience)
    try:
        return _in_pieces(lambda piece: os.write(own, piece), number, data, patience)
    finally:
        os.close(own)


def _in_pieces(write: Callable[[bytes], int], number: int, data: bytes, patience: float) -> int:
    """Write the data in pieces. ``write`` raises BlockingIOError where it would have to wait."""
    done = 0
    while done < len(data):
        piece = data[done : done + PIPE_BUF]
        try:
            done += write(piece)
        except BlockingIOError:
            if not _has_room(number, patience):
                break
            with contextlib.suppress(BlockingIOError):  # another process has filled it
                done += write(piece)
                continue
            break
    return done


def _has_room(number: int, patience: float) -> bool:
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    return bool(poll.poll(1000 * patience))


def _opened_once_more(number: int) -> int:
    """Return a descriptor of the same pipe or terminal that does not wait; -1: this is not possible, or not allowed."""
    if sys.platform != "linux":  # where /dev/fd is the same open file
        return -1
    try:
        return os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return -1


def _write_where_there_is_room(number: int, piece: bytes) -> int:
    """Write if there is room. Another process may fill the pipe between the two calls; then this waits."""
    if not _has_room(number, 0.0):
        raise BlockingIOError
    return os.write(number, piece)


def _send(number: int, piece: bytes) -> int:
    """Send to a socket, without a socket object: after ``socket.setdefaulttimeout`` that would set O_NONBLOCK."""
    sent = ctypes.CDLL(None, use_errno=True).send(number, piece, len(piece), socket.MSG_DONTWAIT | _MSG_NOSIGNAL)
    if sent < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))  # Python makes the right subclass of it
    return int(sent)
