"""Hand the settings and the shared files over to a fork server: the first that its control socket carries.

They go over the socket because a fork server that was forked in advance was there before them, and because the address
may contain a password, while every user can read a process's arguments and nobody its sockets.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence

from jobqueue.workers.shared.settings import Settings

MOST_FILES = 250  # descriptors with one byte of a socket: the kernel takes 253


def hand_over(control: socket.socket, settings: Settings, files: Sequence[int]) -> None:
    """Send the settings as one line, with the number of the files, and then the files. Raises OSError."""
    control.sendall(f"{len(files)} {settings.to_json()}\n".encode())
    for begin in range(0, len(files), MOST_FILES):
        socket.send_fds(control, [b"."], files[begin : begin + MOST_FILES])


def take_over(control: socket.socket) -> tuple[Settings, list[int]] | None:
    """Read both; return the settings and the descriptors. None: the supervisor is gone. Raises OSError if the limit of
    open files keeps some away."""
    line = b""
    while not line.endswith(b"\n"):
        if not (more := control.recv(1)):
            return None
        line += more
    number, _, settings = line.decode().partition(" ")
    files: list[int] = []
    while len(files) < int(number):
        data, more_files, flags, _ = socket.recv_fds(control, 1, MOST_FILES)
        files += more_files
        if not data:
            return None
        if flags & socket.MSG_CTRUNC:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    for file in files:
        os.set_inheritable(file, False)
    return Settings.from_json(settings), files
