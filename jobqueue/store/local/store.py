"""The local store: a Redis server on a unix socket, started by the first process that needs it.

Files in its directory (mode 0700, owned by the user):

    s            the socket. Whether the server runs is found out by PING on it; there is no pidfile
    lock         held while a process starts or stops the server; no process waits for ``lease`` while holding it
    lease        every process that uses the store holds a shared lock; one that gets it exclusively is the last user
    alive        the server itself holds this lock, through a descriptor it inherits, as long as it lives: two servers
                 never write one append-only file, even if a socket was deleted or the directory is on NFS
    watch        the watcher holds this lock: it stops the server when the last user was killed (``watch.py``).
                 The file is empty until the watcher is connected to the server
    keep         marker: do not stop with the last user (``jobq store start``)
    server.conf  server.log  store/ (the append-only file)

All locks are flock (``locks.py``). ``server.py`` handles the server: ``s``, ``alive`` and the files of the last line.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jobqueue.errors import StoreError
from jobqueue.store.connection import Address
from jobqueue.store.local import directory, locks
from jobqueue.store.local.server import LocalServer, reap, start_watcher
from jobqueue.store.local.status import StoreStatus, figures

log = logging.getLogger(__name__)

CONNECTED = 3.0  # seconds that a new watcher may take to connect, on a busy machine


class LocalStore:
    """The local server and this process's lease on it. Thread-safe; after a fork the child's copy holds no lease.

    ``ensure`` and ``release`` may be repeated. ``started``: whether this object started the server.
    """

    def __init__(self, home: Path, *, env: Mapping[str, str] = os.environ) -> None:
        self.home = directory.one_name(home)
        self.started = False
        self._server = LocalServer(self.home)
        self.socket = self._server.socket
        self._env = env
        self._lease: int | None = None
        self._pid = os.getpid()
        self._mutex = threading.RLock()

    def ensure(self) -> str:
        """Find the live server or start one, and hold a lease on it. Returns the socket's path.

        Raises StoreError (the directory is not private, the server does not start) or NoServerBinary.
        """
        with self._in_this_process():
            reap(self.home)
            directory.make_private(self.home)
            try:
                self._take_lease()
                self._see_to_a_watcher()
                if self._server.is_down():
                    self._start_once()
                self._server.await_loaded()
                self._await_watcher()
            except Exception:
                self.forget()
                raise
            except BaseException:  # a signal: the server may have just been started, with no other user
                self.release()
                raise
            return self.socket

    def release(self, keep: bool = False) -> None:
        """Give the lease back; the last user stops the server. keep: leave it running until ``stop``.

        Does nothing in a forked child: the lease is its parent's. Never raises for a server that does not stop or for a
        directory that cannot be used any more: the caller's work is done by then.
        """
        try:
            with self._in_this_process():
                self._release(keep)
        except StoreError as e:
            log.warning("%s", e)

    def _release(self, keep: bool) -> None:
        reap(self.home)
        if self._lease is None or not self.home.exists():
            return self.forget()
        with self._locked():
            if keep:
                self._keep.touch(mode=0o600)
            self.forget()
            with self._alone() as alone:
                if alone and not self._keep.exists():
                    self._stop_quietly()

    def stop(self, force: bool = False) -> bool:
        """Stop the server, also a kept one; give up this process's lease first. Returns False if no server was running.

        Raises StoreError when other processes use it, unless ``force``.
        """
        if not self.home.exists():
            return False
        with self._in_this_process():
            directory.make_private(self.home)
            return self._stop(force)

    def _stop(self, force: bool) -> bool:
        with self._locked():
            self.forget()
            with self._alone() as alone:
                if not alone and not force:
                    raise StoreError(f"the local store is in use{self._by_whom()}: stop them first, or use --force")
                self._keep.unlink(missing_ok=True)
                return self._server.stop()

    def forget(self) -> None:
        """Drop this process's copy of the lease without unlocking. For children right after a fork.

        LOCK_UN in the child would unlock the parent's lease too, so a lease is never unlocked, only closed. Until a
        child has closed its copy (or called exec: the descriptor is close-on-exec), it counts as a user of the store.
        """
        if self._pid != os.getpid():
            self._pid, self._mutex = os.getpid(), threading.RLock()
        if self._lease is not None:
            os.close(self._lease)
            self._lease = None

    def status(self) -> StoreStatus:
        """Report on the store without starting or changing anything."""
        known: dict[str, Any] = {
            "socket": self.socket,
            "url": f"unix://{quote(os.fsencode(self.socket))}",
            "directory": str(self.home),
            "aof_size": directory.size(self.home / "store"),
            "users": locks.holders(self.home / "lease"),
            "kept": self._keep.exists(),
        }
        if self._server.is_down():
            return StoreStatus(running=False, **known)
        return StoreStatus(running=True, **(figures(Address(unix_socket_path=self.socket)) | known))

    # -- who may act ---------------------------------------------------------------------------------------------

    @contextmanager
    def _in_this_process(self) -> Iterator[None]:
        """Inside, raise StoreError for errors of the operating system: a full disk, no permission, a directory for a
        file."""
        if self._pid != os.getpid():
            self.forget()
        with self._mutex:
            try:
                yield
            except OSError as e:
                raise StoreError(directory.refusal(e, self.home)) from e

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold ``lock``: no other process starts or stops the server meanwhile."""
        complaint = f"another process has been starting or stopping the store in {self.home}"
        with locks.exclusively(self.home / "lock", complaint):
            yield

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Yield whether no process holds a lease; if so, hold it exclusively, so that new users wait until the end of
        this block.

        It locks the file opened anew, so that copies in forked children count as users.
        """
        fd = locks.open_lockable(self.home / "lease")
        try:
            yield locks.try_lock(fd, locks.EXCLUSIVE)
        finally:
            locks.unlock(fd)

    def _take_lease(self) -> None:
        if self._lease is None:
            self._lease = locks.open_lockable(self.home / "lease")
            locks.lock(self._lease, locks.SHARED, f"another process has been stopping the store in {self.home}")

    def _by_whom(self) -> str:
        users = locks.holders(self.home / "lease")
        return f" by process {', '.join(map(str, users))}" if users else ""

    # -- starting and stopping -----------------------------------------------------------------------------------

    @property
    def _keep(self) -> Path:
        return self.home / "keep"

    def _see_to_a_watcher(self) -> None:
        """Start a watcher if there is none. Called before the server is started, which never runs without one."""
        fd = locks.open_lockable(self.home / "watch")
        try:
            if locks.try_lock(fd, locks.EXCLUSIVE):
                start_watcher(self.home, self.socket, fd)
        finally:
            os.close(fd)  # without unlocking: the watcher has a copy

    def _await_watcher(self) -> None:
        """Wait, for three seconds at most, until the watcher has a connection to the server: without one it could not
        end the server when the directory is removed. It usually has one within a few milliseconds of the server's
        start."""
        deadline = time.monotonic() + CONNECTED
        fd = locks.open_lockable(self.home / "watch")
        try:
            while not os.fstat(fd).st_size and time.monotonic() < deadline:
                if locks.try_lock(fd, locks.EXCLUSIVE):  # there is no watcher: it cannot be started from here
                    return
                time.sleep(0.003)
        finally:
            os.close(fd)

    def _start_once(self) -> None:
        with self._locked():
            if self._server.is_down():
                os.truncate(self.home / "watch", 0)  # what it says of a connection was about the previous server
                self._server.start(self._env)
                self.started = True

    def _stop_quietly(self) -> None:
        try:
            self._server.stop()
        except StoreError as e:  # the server goes on running; the next last user tries again
            log.warning("%s", e)
