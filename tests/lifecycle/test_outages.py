"""The store goes away in every possible way: workers wait and log this once, and no job is lost or run twice."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from conftest import Start
from helpers import Server, Tree, eventually, jobq, lines, status, submit, uncounted
from proxy import Proxy
from rq import Callback
from samples import words_of

from jobqueue.job import Job
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.store.connection import Address
from jobqueue.store.open import Store, open_store
from jobqueue.workers.preflight import await_heads
from jobqueue.workers.shared.settings import Settings

LOADED = 600  # jobs under load
STORE_KEEPS = True  # a killed server has its data again after a start


@pytest.fixture
def server(module_server: Server) -> Server:
    """The module's server, emptied for each test."""
    if module_server.process.poll() is not None:
        module_server.start()
    module_server.client.flushall()
    return module_server


def finished(store: redis.Redis) -> int:
    return int(store.zcard(keys.registry("finished", "default")))


def children_are_there(store: redis.Redis, number: int) -> None:
    """Wait until the trees have started, so that the following faults do not hit a worker that starts."""
    eventually(lambda: store.scard(keys.OWNERS) == number)


def load(queue: Queue, record: Path, number: int = LOADED) -> list[Job]:
    return submit(queue, "samples.note", [(str(record), n) for n in range(number)])


def each_ran_once(jobs: list[Job], record: Path, store: redis.Redis) -> None:
    assert [job.result(60) for job in jobs] == list(range(len(jobs)))
    assert Counter(lines(record)) == {str(n): 1 for n in range(len(jobs))}
    assert {store.xlen(keys.results(job.id)) for job in jobs} == {1}
    assert store.llen(keys.queue("default")) == 0


def said(tree: Tree) -> Counter[tuple[str, str]]:
    """Return how often each part of the tree logged that the store does not answer, or refuses; a part: logger, pid."""
    return Counter(re.findall(r"(\w+)\[(\d+)\]: warning: the store (?:does not answer|refuses what)", tree.log))


# -- it dies -------------------------------------------------------------------------------------------------------


def test_the_store_is_killed_and_started_again(
    start: Start, mode: str, server: Server, queue: Queue, tmp_path: Path
) -> None:
    """The store is killed twice, while jobs run and are enqueued: all finish, and none whose submit returned is
    lost."""
    record, store = tmp_path / "record", server.client
    tree = start("-n", "2", mode=mode)
    jobs = load(queue, record)
    for outage in (1, 2):
        eventually(lambda outage=outage: len(lines(record)) > 150 * outage)  # type: ignore[misc]
        server.kill()
        server.start()
        jobs += submit(queue, "samples.note", [(str(record), n) for n in range(len(jobs), len(jobs) + 50)])
    assert [job.result(60) for job in jobs] == list(range(len(jobs)))
    counts = Counter(lines(record))
    assert set(counts) == {str(n) for n in range(len(jobs))}
    assert max(counts.values()) == 1  # the workers lived and know which jobs they ran
    assert all(uncounted(store, job.id) for job in jobs)
    assert set(said(tree).values()) <= {1, 2}, tree.log


# -- it stalls -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_store_is_stopped_for_longer_than_the_lease(
    start: Start, mode: str, server: Server, queue: Queue, tmp_path: Path
) -> None:
    """The store is stopped for longer than the lease, with long jobs in two trees: no job is rescued, and time limits
    still hold. A worker that is told to stop meanwhile ends with 1, and its jobs run again elsewhere."""
    record, limited, store = tmp_path / "record", tmp_path / "limited", server.client
    leaves = start("-n", "1", "--grace", "0", mode=mode, JOBQ_LEASE="2")
    left = queue.enqueue("samples.note_and_nap", str(tmp_path / "left"), "x", 14)
    eventually(lambda: lines(tmp_path / "left"))
    store.sadd(keys.PAUSED, "default")
    jobs = submit(queue, "samples.note_and_nap", [(str(record), n, 12) for n in range(3)])
    limits = queue.enqueue("samples.note_what_ends_it", str(limited), 60, job_timeout=3)
    trees = [start("-n", "2", mode=mode, JOBQ_LEASE="2") for _ in range(2)]
    children_are_there(store, 3 if mode == "thread" else 5)
    store.srem(keys.PAUSED, "default")
    eventually(lambda: len(lines(record)) == 3 and lines(limited))
    with server.stalled():
        asked = time.monotonic()
        leaves.send(signal.SIGTERM)
        eventually(lambda: lines(limited) == ["start", "TimeLimitExceeded"])
        assert time.monotonic() - asked < 6
        assert leaves.wait(20) == 1, leaves.log
        assert time.monotonic() - asked > 6
    assert "the next worker rescues what this one held" in leaves.log
    assert [job.result(60) for job in jobs] == [0, 1, 2]
    eventually(lambda: status(store, limits.id) == "failed")
    assert Counter(lines(record)) == {f"{word} {n}": 1 for word in ("start", "end") for n in range(3)}
    assert all(uncounted(store, job.id) for job in (*jobs, limits))
    # its last request may still reach the stalled server and give the job back; otherwise the job is rescued
    eventually(lambda: lines(tmp_path / "left")[:2] == ["start x", "start x"])
    children_are_there(store, 2 if mode == "thread" else 4)  # and no other worker's name
    assert sum(tree.log.count("rescued the jobs of") for tree in trees) <= 1
    eventually(lambda: status(store, left.id) == "started")
    jobq(server, "stop", left.id)
    eventually(lambda: status(store, left.id) == "stopped")


# -- it forgets, cuts, refuses -------------------------------------------------------------------------------------


def test_the_store_drops_scripts_and_connections(
    start: Start, mode: str, server: Server, queue: Queue, tmp_path: Path
) -> None:
    """Scripts and connections are dropped again and again under load: each job runs once."""
    record, store = tmp_path / "record", server.client
    tree = start("-n", "2", mode=mode)
    children_are_there(store, 1 if mode == "thread" else 2)
    jobs: list[Job] = []
    blows = 0
    while finished(store) < len(jobs) or blows < 5:
        if finished(store) == len(jobs):  # repeated if the test was delayed and met no running job
            more = range(len(jobs), len(jobs) + LOADED)
            jobs += submit(queue, "samples.note_and_nap", [(str(record), n, 0.004) for n in more])
        store.script_flush()
        store.client_kill_filter(_type="normal", skipme=True)
        blows += 1
        time.sleep(0.1)
    assert [job.result(60) for job in jobs] == list(range(len(jobs)))
    assert Counter(lines(record)) == {f"{word} {n}": 1 for word in ("start", "end") for n in range(len(jobs))}
    assert {store.xlen(keys.results(job.id)) for job in jobs} == {1}
    assert "no longer ours" not in tree.log


@pytest.mark.parametrize("refusal", ["read-only", "full"])
def test_the_store_refuses_writes(
    start: Start, mode: str, server: Server, queue: Queue, tmp_path: Path, refusal: str
) -> None:
    """A replica without a primary, or a store at its maxmemory: the worker waits, logs this once, and continues."""
    record, gate, store = tmp_path / "record", tmp_path / "gate", server.client
    tree = start("-n", "2", mode=mode)
    naps = [(str(record), n, 0.004) for n in range(LOADED)]
    jobs = submit(queue, "samples.note_and_nap", naps[:50])
    jobs += submit(queue, "samples.wait_for", [(str(record), n, str(gate)) for n in (50, 51)])  # one for each slot
    jobs += submit(queue, "samples.note_and_nap", naps[52:])
    eventually(lambda: {"start 50", "start 51"} <= set(lines(record)))
    with refuses_writes(store, refusal):
        gate.touch()
        # a full store refuses what grows: it may still let jobs end, and then others begin in their place
        eventually(lambda: len(said(tree)) >= (1 if refusal == "full" else 2 if mode == "thread" else 3))
        before, refused = finished(store), refusals(store)
        eventually(lambda: refusals(store) > refused + 1)  # it tries again without a log line
        assert finished(store) == before or refusal == "full"
    assert [job.result(60) for job in jobs] == list(range(LOADED))
    assert Counter(lines(record)) == {f"{word} {n}": 1 for word in ("start", "end") for n in range(LOADED)}
    assert set(said(tree).values()) == {1}, tree.log


def refusals(store: redis.Redis) -> int:
    """Return how many commands were refused so far."""
    stats = store.info("errorstats")
    return sum(stats.get(f"errorstat_{kind}", {}).get("count", 0) for kind in ("OOM", "READONLY"))


@contextlib.contextmanager
def refuses_writes(store: redis.Redis, how: str) -> Iterator[None]:
    try:
        if how == "full":
            store.config_set("maxmemory", 1)
        else:
            store.replicaof("127.0.0.1", 1)
        yield
    finally:
        store.config_set("maxmemory", 0)
        store.replicaof("NO", "ONE")


# -- a reply is lost on the wire -----------------------------------------------------------------------------------


def test_a_reply_is_lost(start: Start, mode: str, server: Server, queue: Queue, tmp_path: Path) -> None:
    """A request that was executed is not executed again: no claim and no outcome is lost, no id is queued twice."""
    record, store = tmp_path / "record", server.client
    jobs = load(queue, record, 1500)
    with Proxy(server.socket) as proxy:
        cuts = proxy.cut(b"EVALSHA", nth=7)
        tree = start("-n", "2", mode=mode, JOBQ_URL=proxy.url)
        while finished(store) < len(jobs):
            waiting = store.lrange(keys.queue("default"), 0, -1)
            assert len(set(waiting)) == len(waiting)
        each_ran_once(jobs, record, store)
        assert cuts.hits >= 3
        assert "no longer ours" not in tree.log
        assert tree.stop() == 0, tree.log


def test_a_reply_to_rqs_own_finish_is_lost(
    start: Start, mode: str, server: Server, queue: Queue, tmp_path: Path
) -> None:
    """The transaction was executed, its reply lost: one outcome, one result; the callback may have been called once
    more."""
    record, store = tmp_path / "record", server.client
    number = 40
    on_success = Callback("samples.on_success")
    jobs = [queue.enqueue("samples.note", str(record), n, on_success=on_success) for n in range(number)]
    with Proxy(server.socket) as proxy:
        cuts = proxy.cut(b"EXEC\r\n", nth=5)
        tree = start("-n", "2", mode=mode, JOBQ_URL=proxy.url)
        eventually(lambda: finished(store) == number)
        each_ran_once(jobs, record, store)
        assert all(int(store.hget(words_of(job.id), "calls") or 0) >= 1 for job in jobs)
        assert cuts.hits >= 3
        assert tree.stop() == 0, tree.log


# -- it is not there at the start ----------------------------------------------------------------------------------


def test_the_worker_starts_before_the_store(start: Start, mode: str, server: Server, queue: Queue) -> None:
    """The worker waits and logs this once: for a server that is not there, and for one that still loads its data."""
    jobs = [queue.enqueue("square", n) for n in range(20)]
    server.client.bgrewriteaof()  # or it reads all commands of all tests again
    eventually(lambda: not rewrites(server.client))
    server.kill()
    try:
        tree = start("-n", "1", mode=mode)
        eventually(lambda: "Waiting for it, 20 s at most" in tree.log)
    finally:
        server.start("--key-load-delay", "40000")  # microseconds
    assert [job.result(30) for job in jobs] == [n * n for n in range(20)]
    assert tree.log.count("Waiting for it") == 1


def rewrites(store: redis.Redis) -> bool:
    info = store.info("persistence")
    return bool(info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])


def test_a_worker_that_does_not_wait_for_the_store(start: Start, server: Server) -> None:
    server.kill()
    try:
        tree = start("-n", "1", "--store-wait", "0")
        assert tree.wait() == 1
        assert len(tree.log.splitlines()) == 1
        assert "is the server running?" in tree.log
    finally:
        server.start()
    tree.send(signal.SIGTERM)  # it is gone: nothing happens


def test_the_wait_for_the_store_ends(start: Start, server: Server) -> None:
    server.kill()
    try:
        tree = start("-n", "1", "--store-wait", "0.5")
        assert tree.wait() == 1
        assert len(tree.log.splitlines()) == 2
    finally:
        server.start()


def test_the_store_goes_away_while_a_worker_starts(
    server: Server, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    """The store was there at first: the check of the queues waits until it is there again, and still warns."""
    queue.enqueue("samples.ok", 1)
    settings = Settings(Address(url=server.url), "w", ("default",), children=1, slots=1)
    complaints: list[str] = []

    def boot(store: Store) -> None:
        complaints.extend(await_heads(store, settings))

    with open_store(server.url) as store:
        server.kill()
        booting = threading.Thread(target=boot, args=(store,))
        try:
            booting.start()
            eventually(lambda: "the store went away" in caplog.text)
        finally:
            server.start()
            booting.join(30)
    assert "start it with -I samples" in complaints[0]
    assert caplog.text.count("the store went away") == 1
