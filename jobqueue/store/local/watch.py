"""The watcher of a local store: a process that stops the server when the last user is gone, however that user ended.

A user that ends properly stops the server itself, if it is the last. One that is killed cannot: the watcher sees that
no process holds a lease any more, or that the directory was removed while the server ran. It lives as long as a process
uses the store, or the server runs.

    python -I -S watch.py HOME SOCKET LEASE_FD WATCH_FD

WATCH_FD is the locked file ``watch``: a process that can lock it knows that there is no watcher, and starts one. It is
empty until the watcher has a connection to the server: without one, it could not end a server whose directory is gone.
LEASE_FD is the file ``lease``, opened anew, without a lock. Only the standard library is imported, so that the process
takes only 8 MB.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import sys
import time

EVERY = 1.0  # seconds between two checks
SOON = 0.02  # seconds until the next check when the server has gone or did not answer
END_LIMIT = 30.0  # seconds that a server gets to exit


class LocalStoreWatch:
    """Watches one directory until it has neither a server nor users."""

    def __init__(self, home: str, path: str, lease: int, watch: int) -> None:
        self._home = home
        self._path = path
        self._lease = lease
        self._watch = watch
        # A connection to the server, which stays when the directory is removed.
        self._server: socket.socket | None = None

    def run(self) -> None:
        while not self._step():
            pass

    def _step(self) -> bool:
        """Check once; return True when there is nothing left to watch."""
        if self._server is None:
            self._server = self._connect()
        self._rest()
        if self._removed():
            return self._end_removed()
        if self._server is not None and os.path.exists(os.path.join(self._home, "keep")):
            return False
        return self._end_unused()

    def _connect(self) -> socket.socket | None:
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.settimeout(5.0)
        try:
            server.connect(self._path)
        except OSError:
            server.close()
            return None
        with contextlib.suppress(OSError):
            # The disk is full: a process that waits for this goes on after three seconds.
            os.pwrite(self._watch, b"connected\n", 0)
        return server

    def _rest(self) -> None:
        """Wait until the next check, or until the server ends."""
        if self._server is None:
            time.sleep(SOON)
        elif select.select([self._server], [], [], EVERY)[0]:
            self._server.close()  # a server sends nothing unasked: it has ended, or the connection was cut
            self._server = None

    def _removed(self) -> bool:
        """Return whether the directory, or the file that users lock, was removed or replaced: a new one has a server of
        its own."""
        try:
            found = os.stat(os.path.join(self._home, "lease"))
        except OSError:
            return True
        return not os.path.samestat(found, os.fstat(self._lease))

    def _end_removed(self) -> bool:
        if not _lock(self._lease):
            return False
        self._shut_down()
        return True

    def _end_unused(self) -> bool:
        """Stop the server if no process uses it, as ``LocalStore.release`` does: ``lock`` is held meanwhile."""
        try:
            lock = os.open(os.path.join(self._home, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:  # removed at this very moment
            return False
        try:
            if not (_lock(lock) and _lock(self._lease)):
                return False
            self._shut_down()
            if self._server_lives():
                fcntl.flock(self._lease, fcntl.LOCK_UN)
                return False
            os.close(self._watch)  # before the locks, so that a process that starts a server starts a watcher too
            # Before ``lock``, so that the next holder of ``lock`` does not count this process as a user.
            fcntl.flock(self._lease, fcntl.LOCK_UN)
            return True
        finally:
            os.close(lock)

    def _shut_down(self) -> None:
        """Send SHUTDOWN. The server writes its append-only file before it exits; NOSAVE concerns the snapshot, which it
        does not have."""
        if self._server is None:
            return
        try:
            self._server.settimeout(END_LIMIT)
            self._server.sendall(b"SHUTDOWN NOSAVE\r\n")
            while self._server.recv(4096):
                pass
        except OSError:
            pass
        self._server.close()
        self._server = None

    def _server_lives(self) -> bool:
        """Return whether the server lives: one that is just starting has no socket yet, but holds ``alive``."""
        try:
            alive = os.open(os.path.join(self._home, "alive"), os.O_RDWR)
        except OSError:
            return False
        try:
            deadline = time.monotonic() + SOON
            while not _lock(alive):
                if time.monotonic() > deadline:
                    return True
                time.sleep(0.003)
            return False
        finally:
            os.close(alive)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    LocalStoreWatch(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])).run()
