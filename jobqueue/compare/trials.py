"""Jobs that show what each mode can and cannot do: a counter, a leak, a crash, a job that is stuck.

Plain functions of a module that only the workers of a comparison serve. Each run writes a line to a file, in a single
write, so that the line is there even when the process dies at the next step.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

NEIGHBOURS = 3  # jobs that run beside the job that a trial is about
SETTLE = 0.25  # seconds after which the neighbours are running
LATE = 10.0  # seconds that jobs wait for each other at most, when the machine gives some of them no core

_kept: list[bytes] = []


def present(seconds: float) -> dict[str, Any]:
    """Sleep a while, so that every consumer gets one of these jobs; return the process, and whether the GIL is on
    there."""
    time.sleep(seconds)
    return {"pid": os.getpid(), "gil": getattr(sys, "_is_gil_enabled", lambda: True)()}


def leak(megabytes: float) -> int:
    """Keep so many MB (10⁶ bytes) for ever; return the pid."""
    _kept.append(os.urandom(1) * int(megabytes * 1e6))
    return os.getpid()


def act(part: str, record: str, name: str, seconds: float) -> str:
    """Play a part for so many seconds, and record that it began. A part that has begun before returns at once."""
    before = _seen(record, f"began {name}")
    _note(record, f"began {name}")
    if not before:
        PARTS[part](record, seconds)
    return name


def _nap(record: str, seconds: float) -> None:
    """Sleep in slices, so that an interruption arrives."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(0.02, left))


def _nap_beyond_the_crash(record: str, seconds: float) -> None:
    """Sleep until the crash has happened, and for so many seconds more."""
    _await(lambda: _seen(record, "crash"))
    _nap(record, seconds)


def _crash(record: str, seconds: float) -> None:
    """Read an invalid address: a segmentation fault, as a bug in C code causes. No core file is written. All neighbours
    are running by then."""
    _await(lambda: all(_seen(record, f"began n{n}") for n in range(NEIGHBOURS)))
    time.sleep(seconds)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    _note(record, "crash")
    ctypes.string_at(0)


def _wait_in_c(record: str, seconds: float) -> None:
    """Wait in one call into C that releases the GIL, as a read from a dead server does."""
    time.sleep(SETTLE)
    time.sleep(seconds)


def _hold_the_gil(record: str, seconds: float) -> None:
    """Compute in one call into C that keeps the GIL, as a catastrophic regular expression does."""
    time.sleep(SETTLE)
    ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))


PARTS: dict[str, Callable[[str, float], None]] = {
    "neighbour": _nap,
    "neighbour of a crash": _nap_beyond_the_crash,
    "crash": _crash,
    "blocking": _wait_in_c,
    "gil": _hold_the_gil,
}


def _await(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LATE
    while not check() and time.monotonic() < deadline:
        time.sleep(0.01)


def _note(record: str, text: str) -> None:
    fd = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{time.monotonic():.6f} {text}\n".encode())
    finally:
        os.close(fd)


def _seen(record: str, text: str) -> bool:
    return any(what == text for _, what in read(record))


def read(record: str) -> list[tuple[float, str]]:
    """Return the lines of a record: when (time.monotonic, which all processes of a machine share) and what."""
    try:
        with open(record) as lines:
            parts = [line.rstrip("\n").partition(" ") for line in lines]
    except FileNotFoundError:
        return []
    return [(float(when), what) for when, _, what in parts]
