"""The environment variable RQ_JOB_ID, for jobs and the programs that they start, as RQ sets it.

``os.environ[...] =`` calls ``setenv``, which copies each new value and never frees one: 96 bytes a job with glibc.
``putenv`` takes memory of ours into the environment instead, and that is written again and again.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

NAME = "RQ_JOB_ID"
_KEY = os.fsencode(NAME)
_START = _KEY + b"="
ROOM = 128  # bytes of a buffer to begin with; RQ's ids have 36

# A function object of our own, that keeps the GIL: Python's own changes of the environment are made under it.
_putenv = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(("putenv", ctypes.PyDLL(None)))


class JobVariable:
    """Sets the variable. Two buffers take turns: a thread that a job left behind may be reading the other."""

    def __init__(self) -> None:
        self._spare, self._shown = _buffer(ROOM), _buffer(ROOM)
        self._outgrown: Any = None  # the environment may point there until the next ``set``

    def set(self, job_id: str) -> None:
        """For C code, for programs that are started from now on, and in ``os.environ``."""
        mapping: Any = getattr(os.environ, "_data", None)  # setting an item of os.environ itself calls setenv
        if type(mapping) is not dict:
            os.environ[NAME] = job_id
            return
        value = os.fsencode(job_id)
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
