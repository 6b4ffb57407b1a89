"""The local store's directory, which must be private to this user, and the place of its socket."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

from jobqueue.errors import StoreError

SOCKET_LIMIT = 103  # bytes; sockaddr_un holds 104 on macOS and 108 on Linux, with a final NUL
SHORT_ROOT = "/tmp"  # not $TMPDIR or $XDG_RUNTIME_DIR, so that cron and a login shell compute the same path


def one_name(path: Path) -> Path:
    """Return one canonical name for all names of ``path``; ``path`` itself may be a link, which ``make_private``
    refuses.

    The socket's place depends on the name's length: two names of one directory must not lead to two places.
    """
    if path.name in ("", ".."):
        return Path(os.path.realpath(path))
    return Path(os.path.realpath(path.parent), path.name)


def make_private(path: Path) -> None:
    """Make the directory ``path`` if need be; refuse it unless it is a directory, owned by this user, and closed to
    others.

    Raises StoreError.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(path)
    except OSError as e:
        raise StoreError(f"cannot use {path} for the local store ({e.strerror}): set JOBQ_HOME to another place") from e
    if not stat.S_ISDIR(found.st_mode):
        raise StoreError(f"{path} is not a directory itself (a link?): set JOBQ_HOME to a directory of yours")
    if found.st_uid != os.geteuid():
        raise StoreError(f"{path} belongs to user {found.st_uid}, not to you: set JOBQ_HOME to a directory of yours")
    if found.st_mode & 0o077:
        _close_to_others(path)


def _close_to_others(path: Path) -> None:
    if os.listdir(path):  # its permissions are not changed: it may be a whole home directory
        raise StoreError(f"{path} is open to other users: chmod 700 it, or set JOBQ_HOME to another directory")
    path.chmod(0o700)


def socket_path(home: Path) -> str:
    """Return ``home/s``, or, where that is too long for a socket, a hashed name in a private directory with a short
    path."""
    path = str(home / "s")
    if len(os.fsencode(path)) <= SOCKET_LIMIT:
        return path
    short = Path(SHORT_ROOT, f"jobq-{os.geteuid()}")
    make_private(short)
    return str(short / hashlib.sha256(os.fsencode(path)).hexdigest()[:20])


def private(path: str, flags: int) -> int:
    """Open a file that only this user can read (``opener`` for ``open``)."""
    return os.open(path, flags, 0o600)


def size(directory: Path) -> int:
    """Return how many bytes the files below ``directory`` take; the server may replace one meanwhile."""
    found = 0
    for path in directory.rglob("*"):
        with suppress(OSError):
            found += path.stat().st_size if path.is_file() else 0
    return found


def refusal(error: OSError, home: Path) -> str:
    """Return the sentence for an error of the operating system in the store's directory."""
    what = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"there is no space left for the local store in {home} ({what}): make some, or set JOBQ_HOME"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"the local store in {home} cannot be used ({what}): this process may open more files with ulimit -n"
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes, os.PathLike)) else ""
    return f"the local store in {home} cannot be used ({where}{what}): put it right, or set JOBQ_HOME to another place"
