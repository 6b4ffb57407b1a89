"""Set the environment variable RQ_JOB_ID for jobs and the programs that they start, as RQ does.

``os.environ[...] = value`` calls ``setenv``, which copies each new value and never frees one: with glibc, 96 bytes per
job are lost. ``putenv`` puts a buffer of ours into the environment instead, which is written again for each job.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

NAME = "RQ_JOB_ID"
_KEY = os.fsencode(NAME)
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()  # what os.fsencode uses
_START = _KEY + b"="
ROOM = 128  # bytes of a buffer at first; RQ's job ids have 36

# A function object of our own. PYFUNCTYPE keeps the GIL during the call, as Python's own changes of the environment do.
_putenv = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(("putenv", ctypes.PyDLL(None)))


class JobVariable:
    """Set the variable. Two buffers are used in turns: a thread that an earlier job left behind may be reading one."""

    def __init__(self) -> None:
        self._spare, self._shown = _buffer(ROOM), _buffer(ROOM)
        self._outgrown: Any = None  # a buffer that became too small; the environment may point to it until ``set``

    def set(self, job_id: str) -> None:
        """Set the variable in ``os.environ`` and in the C library's environment, which new programs inherit."""
        mapping: Any = getattr(os.environ, "_data", None)  # assigning to os.environ itself would call setenv
        if type(mapping) is not dict:
            os.environ[NAME] = job_id
            return
        value = job_id.encode(_ENCODING, _ERRORS)
        text = _START + value
        buffer, address = self._spare
        if len(text) >= len(buffer):
            self._outgrown = self._spare
            buffer, address = _buffer(2 * len(text))
        buffer.value = text
        _putenv(address)
        mapping[_KEY] = value
        self._spare, self._shown = self._shown, (buffer, address)


def _buffer(size: int) -> tuple[Any, int]:
    made = ctypes.create_string_buffer(size)
    return made, ctypes.addressof(made)
