"""Lock files by flock: the kernel drops a lock with its process, so a kill -9 at any point leaves nothing to clean up.

A lock belongs to the open file, which a forked child shares by its copy of the descriptor: closing one copy does not
unlock while another is open, but LOCK_UN on any copy unlocks all.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobqueue.errors import StoreError

EXCLUSIVE, SHARED = fcntl.LOCK_EX, fcntl.LOCK_SH
TIMEOUT = 60.0
POLL = 0.003


def open_lockable(path: Path) -> int:
    # Opened for writing too: NFS refuses an exclusive lock otherwise.
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def try_lock(fd: int, operation: int) -> bool:
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(fd: int, operation: int, complaint: str, timeout: float = TIMEOUT) -> None:
    """Lock, or raise StoreError with ``complaint`` after ``timeout`` seconds, so that a suspended holder does not block
    others silently."""
    deadline = time.monotonic() + timeout
    while not try_lock(fd, operation):
        if time.monotonic() > deadline:
            raise StoreError(f"{complaint} for {timeout:.0f} s: find out which process it is and end it")
        time.sleep(POLL)


def unlock(fd: int) -> None:
    """Unlock, then close: closing alone would not unlock if another thread forked meanwhile and its child has a
    copy."""
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


@contextmanager
def exclusively(path: Path, complaint: str, timeout: float = TIMEOUT) -> Iterator[None]:
    """Hold an exclusive lock on the file. Raises StoreError, as ``lock`` does."""
    fd = open_lockable(path)
    try:
        lock(fd, EXCLUSIVE, complaint, timeout)
        yield
    finally:
        unlock(fd)


def holders(path: Path) -> tuple[int, ...] | None:
    """Return the pids that hold a shared lock on the file, from /proc/locks; None where there is no such list."""
    try:
        inode, lines = path.stat().st_ino, Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    held = (line.split() for line in lines if "->" not in line)
    return tuple(sorted({int(f[4]) for f in held if f[3] == "READ" and f[5].endswith(f":{inode}") and int(f[4]) > 0}))
