"""List the descriptors that this process has open, and tell which of them two processes cannot both use.

These are harmless: terminals and other devices except GPUs, files that are only written (logs) or mapped into memory,
listening sockets (each connection goes to one process), datagram sockets of logging or to a daemon's named socket
(syslog), redis-py's pools (they notice a fork), the local store's lock, and duplicates of descriptors that were open
before.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import logging
import os
import resource
import socket
import stat
import sys
from collections.abc import Iterable
from typing import Any

from jobqueue.workers.shared.bare import bases_of

_LISTS = ("/proc/self/fd", "/dev/fd")
_MOST = 65_536  # how many numbers are tried where the system does not list the open ones
_GPUS = ("/dev/nvidia", "/dev/kfd", "/dev/dri/")
_KINDS = {"[eventpoll]": "an event loop's epoll", "inotify": "an inotify watch", "[io_uring]": "an io_uring"}

Open = dict[int, os.stat_result]


def open_descriptors() -> Open:
    """Return all open descriptors by number."""
    found: Open = {}
    for number in _numbers():
        try:
            found[number] = os.fstat(number)
        except OSError:  # not open, or the one by which the list was read
            pass
    return found


def opened_since(before: Open) -> Open:
    """Return the descriptors that were not open before and are no duplicates of a socket, pipe or device that was."""
    known = {_identity(it) for it in before.values()}
    return {
        number: it
        for number, it in open_descriptors().items()
        if _identity(it) != (_identity(before[number]) if number in before else None)
        and not (_is_its_own_inode(it) and _identity(it) in known)
    }


def hazards_among(opened: Open) -> dict[int, str]:
    """Return the descriptors that processes cannot share, in words, by number."""
    said = {number: text for number, it in opened.items() if (text := _hazard(number, it))}
    safe = _known_to_be_safe() if said else ()  # slow: it looks at every object of the process
    return {number: text for number, text in said.items() if number not in safe}


def connections() -> list[str]:
    """Return the open sockets that a fork would share, in words; without those that are its standard streams."""
    opened = open_descriptors()
    output = {_identity(opened[number]) for number in (0, 1, 2) if number in opened}
    sockets = {n: it for n, it in opened.items() if stat.S_ISSOCK(it.st_mode) and _identity(it) not in output}
    return list(hazards_among(sockets).values())


def _numbers() -> Iterable[int]:
    for path in _LISTS:
        try:
            return [int(name) for name in os.listdir(path)]
        except OSError:
            continue
    return range(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], _MOST))


def _identity(it: os.stat_result) -> tuple[int, int, int]:
    return it.st_dev, it.st_ino, it.st_rdev


def _is_its_own_inode(it: os.stat_result) -> bool:
    return stat.S_ISSOCK(it.st_mode) or stat.S_ISFIFO(it.st_mode) or stat.S_ISCHR(it.st_mode)


def _hazard(number: int, it: os.stat_result) -> str:
    """Return in words what cannot be shared; "": it can be, or it is closed by now."""
    try:
        if stat.S_ISSOCK(it.st_mode):
            return _socket(number)
        if stat.S_ISREG(it.st_mode):
            return _file(number)
        path = _path(number)
        if stat.S_ISFIFO(it.st_mode):
            return f"a pipe{'' if path.startswith('pipe:') else f' {path}'}"
        if stat.S_ISCHR(it.st_mode):
            return f"the device {path}" if path.startswith(_GPUS) else ""
        kind = path.removeprefix("anon_inode:")
        return _KINDS.get(kind, f"a descriptor of the kind {kind}") if kind != path else ""
    except OSError:
        return ""


def _socket(number: int) -> str:
    with socket.socket(fileno=os.dup(number)) as sock:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return ""
        try:
            peer = sock.getpeername()
        except OSError:
            peer = None
        if sock.family == socket.AF_UNIX and sock.type == socket.SOCK_DGRAM and peer != "" and not sock.getsockname():
            return ""  # it has no name, so nothing is ever received from it
        if peer is None:
            return "a socket for datagrams" if sock.type == socket.SOCK_DGRAM else "a socket that is not connected"
        return f"a connection to {_text(peer)}" if peer else "one of a pair of sockets"


def _text(peer: Any) -> str:
    if isinstance(peer, tuple) and len(peer) >= 2:
        return f"[{peer[0]}]:{peer[1]}" if ":" in str(peer[0]) else f"{peer[0]}:{peer[1]}"
    return os.fsdecode(peer) if isinstance(peer, (str, bytes)) else str(peer)


def _file(number: int) -> str:
    if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
        return ""
    path = _path(number)
    if _is_mapped(path):
        return ""
    return f"the file {path or number}"


def _is_mapped(path: str) -> bool:
    try:
        with open("/proc/self/maps", errors="surrogateescape") as maps:
            return bool(path) and any(line.rstrip("\n").endswith(f" {path}") for line in maps)
    except OSError:
        return False


def _path(number: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""


def _known_to_be_safe() -> set[int]:
    """Return the descriptors whose Python objects handle a fork themselves."""
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    found = {getattr(tracker, "_fd", None)}
    for handler in [ref() for ref in getattr(logging, "_handlerList", ())]:
        with contextlib.suppress(BaseException):  # it may be of a class of the user's
            if (sock := getattr(handler, "socket", None)) is not None and sock.type == socket.SOCK_DGRAM:
                found.add(sock.fileno())
    found.update(_of_redis_pools())
    return {number for number in found if number is not None}


def _of_redis_pools() -> Iterable[int]:
    """Return the descriptors of connections that wait in a redis-py pool. One in use, such as a subscription, would be
    used after a fork too."""
    redis: Any = sys.modules.get("redis.connection")
    for pool in gc.get_objects() if redis else ():
        if redis.ConnectionPool in bases_of(type(pool)):  # isinstance might create the object behind a lazy one
            for connection in getattr(pool, "_available_connections", ()):
                if (sock := getattr(connection, "_sock", None)) is not None:
                    yield sock.fileno()
