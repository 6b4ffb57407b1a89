"""Configure, start and stop the local store's server. ``store.py`` decides which process may do so, and when.

The server inherits the descriptor of the locked file ``alive``, so it holds that lock as long as it lives.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from jobqueue.errors import StoreError, StoreRefused, StoreUnreachable
from jobqueue.store.connection import Address, client, redis
from jobqueue.store.local import directory, locks
from jobqueue.store.local.binary import find_server

LOG_LIMIT = 1_000_000  # bytes; a longer log is emptied at the next start
START_TIMEOUT = 30.0  # seconds until the server has bound its socket; loading comes after that and has its own limit
LOAD_TIMEOUT = 600.0
STOP_TIMEOUT = 30.0
REAP_TIMEOUT = 1.0
POLL = 0.003

# aof-use-rdb-preamble no: with a binary preamble, redis and valkey cannot read each other's files (measured).
CONF = """\
port 0
unixsocket {socket}
unixsocketperm 700
dir {store}
appendonly yes
appendfsync everysec
aof-use-rdb-preamble no
save ""
maxmemory-policy noeviction
daemonize no
"""


class LocalServer:
    """The server of one directory. A caller of start and stop holds the store's ``lock`` meanwhile."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.socket = directory.socket_path(home)

    def is_down(self) -> bool:
        """Return whether nothing accepts connections; a server that loads or hangs is not down."""
        return ping(self.socket) == "down"

    def start(self, env: Mapping[str, str]) -> None:
        """Start the server and return when it accepts connections; it may still be loading then.

        Raises NoServerBinary, or StoreError with the last line of the server's log.
        """
        binary, name = find_server(env)
        alive = locks.open_lockable(self.home / "alive")
        try:
            locks.lock(alive, locks.EXCLUSIVE, f"a server without a socket still holds {self.home}", START_TIMEOUT)
            reap(self.home, REAP_TIMEOUT)
            self._prepare_files()
            self._await_socket(self._launch(binary, alive), name)
        finally:
            os.close(alive)  # without unlocking: the server has a copy

    def await_loaded(self) -> None:
        """Wait while the server loads its file. One that is merely busy for seconds counts as alive and is not waited
        for."""
        deadline = time.monotonic() + LOAD_TIMEOUT
        while (state := ping(self.socket)) == "loading":
            if time.monotonic() > deadline:
                raise StoreRefused(f"the local store in {self.home} is still loading: try again later")
            time.sleep(POLL * 10)
        if state == "down":
            raise StoreUnreachable(f"the local store in {self.home} died while loading: {self._last_words()}")

    def stop(self) -> bool:
        """Send SHUTDOWN, then wait until the process is gone; return False if there was none. Raises StoreError.

        The server syncs the append-only file before it exits; NOSAVE concerns the snapshot file, which this server does
        not have.
        """
        if self.is_down():
            return False
        with client(Address(unix_socket_path=self.socket), socket_timeout=STOP_TIMEOUT) as r:
            try:
                r.shutdown(nosave=True)
            except redis.RedisError as e:
                raise StoreError(f"the local store did not stop ({e}): {self._last_words()}") from e
        complaint = f"the server in {self.home} was told to stop but still runs"
        with locks.exclusively(self.home / "alive", complaint, STOP_TIMEOUT):
            reap(self.home, REAP_TIMEOUT)
        return True

    # -- the steps of a start ------------------------------------------------------------------------------------

    def _prepare_files(self) -> None:
        store = self.home / "store"
        store.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            os.unlink(self.socket)
        text = CONF.format(socket=_quoted(self.socket), store=_quoted(str(store)))
        with open(self.home / "server.conf", "wb", opener=directory.private) as f:
            f.write(os.fsencode(text))

    def _launch(self, binary: str, alive: int) -> subprocess.Popen[bytes]:
        """Start the server in a session of its own, so that Ctrl-C in the terminal does not reach it."""
        path = self.home / "server.log"
        mode = "ab" if path.exists() and path.stat().st_size < LOG_LIMIT else "wb"
        with open(path, mode, opener=directory.private) as out:
            return subprocess.Popen(
                [binary, str(self.home / "server.conf")],
                stdin=subprocess.DEVNULL,
                stdout=out,
                # The conf names no logfile, so that the log also has errors of the dynamic loader and of a bad conf.
                stderr=out,
                cwd=self.home / "store",
                start_new_session=True,
                pass_fds=[alive],
            )

    def _await_socket(self, process: subprocess.Popen[bytes], name: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        try:
            while self.is_down():
                if process.poll() is not None:
                    raise StoreError(f"{name} could not start in {self.home}: {self._last_words()}")
                if time.monotonic() > deadline:
                    process.kill()
                    raise StoreError(f"{name} did not start within {START_TIMEOUT:.0f} s: {self._last_words()}")
                time.sleep(POLL)
        finally:
            _CHILDREN.add((self.home, process.pid))
            # The server may outlive this process, so Popen must not warn about it.
            process.returncode = process.poll() or 0

    def _last_words(self) -> str:
        """Return the last line of the server's log, without its pid and date."""
        log = self.home / "server.log"
        try:
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        except OSError:
            return f"see {log}"
        return re.sub(r"^\d+:[A-Z] .*?\d\d:\d\d:\d\d\S* . ", "", lines[-1]) if lines else "it wrote no log"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def ping(path: str, timeout: float = 5.0) -> Literal["up", "loading", "busy", "down"]:
    """Return the state of the server: "busy" accepts connections and answers nothing, "down" accepts none.

    This speaks the protocol by hand: only "nothing accepts connections" may lead to a new server, and redis-py's
    exceptions do not tell that apart.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(timeout)
        try:
            s.connect(path)
            s.sendall(b"PING\r\n")
            reply = s.recv(256)
        except (FileNotFoundError, ConnectionError):
            return "down"
        except (TimeoutError, BlockingIOError):
            return "busy"
        except OSError as e:
            raise StoreUnreachable(f"{path}: {e.strerror}") from e
    if not reply:
        return "down"
    return "loading" if reply.startswith(b"-LOADING") else "up"


def start_watcher(home: Path, path: str, watch: int) -> None:
    """Start ``watch.py`` with the locked file ``watch``, through a shell that exits at once, so that the watcher is not
    a child of this process. Where Python is embedded in another program (uwsgi), it cannot be started."""
    if "py" not in os.path.basename(sys.executable or ""):
        return
    lease = locks.open_lockable(home / "lease")
    try:
        argv = [sys.executable, "-I", "-S", str(Path(__file__).with_name("watch.py")), str(home), path]
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", *argv, str(lease), str(watch)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            pass_fds=[lease, watch],
            check=False,
        )
    finally:
        os.close(lease)


# (home, pid) of servers that this process started: children belong to a process, not to a LocalServer. In a forked
# child the entries are its parent's; the first ``reap`` drops them, because a process can wait only for its own.
_CHILDREN: set[tuple[Path, int]] = set()


def server_pids() -> set[int]:
    """Return the pids of servers that are children of this process."""
    return {pid for _, pid in _CHILDREN}


def reap(home: Path, timeout: float = 0.0) -> None:
    """Reap ended servers that this process had started; wait up to ``timeout`` seconds for those of ``home``.

    Wait only when holding ``alive``: then the server has closed its files, but a process of several threads can be
    reaped only when its last thread is gone, a moment later. A server that another process stopped stays a zombie until
    the next ``ensure`` or ``release`` here, or this process's end.
    """
    deadline = time.monotonic() + timeout
    for child in list(_CHILDREN):
        while not (collected := _collected(child[1])) and child[0] == home and time.monotonic() < deadline:
            time.sleep(POLL)
        if collected:
            _CHILDREN.discard(child)


def _collected(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
