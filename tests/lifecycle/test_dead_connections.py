"""Connections that die silently: each process notices within seconds and connects again."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from helpers import Server, Tree, eventually, jobq, lines, status
from proxy import Proxy

from jobqueue.executor.executor import JobExecutor
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.results.waiter import Waiter
from jobqueue.store.connection import Address, client

pytestmark = pytest.mark.slow  # each waits for limits of 15 s; tests/unit/test_silent_connections.py has the parts

NOTICED = 30.0  # seconds: a limit of 15, on a machine that does other things too

Begin = Callable[..., Tree]


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.socket) as proxy:
        yield proxy


@pytest.fixture(params=["thread", "process", "SimpleWorker", "Worker"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def begin(kind: str, server: Server, tmp_path: Path) -> Iterator[Begin]:
    """``begin(url, *queues)`` starts a worker of this kind, and returns when it is idle."""
    trees: list[Tree] = []

    def start(url: str, *queues: str, **env: str) -> Tree:
        served = queues or ("default",)
        if kind in ("thread", "process"):
            flags = ["-n", "1", "--mode", kind, "-I", "samples", *served]
            tree = Tree(url, tmp_path, flags, env)
        else:
            flags = ["--url", url, "--worker-class", f"jobqueue.rq.{kind}", *served]
            flags += ["--serializer", "jobqueue.serializers.Auto"]
            tree = Tree(url, tmp_path, flags, env, command=("rq.cli", "worker"))
        trees.append(tree)
        eventually(lambda: blocked(server.client) >= len(served) * len(trees))
        return tree

    yield start
    for tree in trees:
        tree.destroy()


def blocked(store: redis.Redis) -> int:
    return int(store.info("clients")["blocked_clients"])


def test_a_dead_connection_for_one_of_two_queues(begin: Begin, proxy: Proxy, store: redis.Redis) -> None:
    """All requests about one queue are dropped for ever; its jobs start all the same."""
    rule = proxy.swallow(b"BLMOVE", keys.queue("b").encode() + b"\r\n")
    begin(proxy.url, "a", "b")
    for _ in range(2):
        job = Queue("b", connection=store).enqueue("samples.ok", 1)
        eventually(lambda job=job: status(store, job.id) == "finished", NOTICED)  # type: ignore[misc]
    assert rule.hits
    quick = Queue("a", connection=store).enqueue("samples.ok", 1)
    eventually(lambda: status(store, quick.id) == "finished", NOTICED)


def test_dead_connections_of_an_idle_worker(begin: Begin, proxy: Proxy, store: redis.Redis) -> None:
    """A firewall forgets all connections of the worker; the worker runs the next jobs, and receives the next
    command."""
    tree = begin(proxy.url)
    listens = keys.PREFIX + ":pubsub:"
    [channel] = store.pubsub_channels(listens + "*")
    assert proxy.silence() >= 3
    job = Queue(connection=store).enqueue("samples.ok", 1)
    eventually(lambda: status(store, job.id) == "finished", NOTICED)
    # the store still knows the old subscriber; the new one is added beside it
    eventually(lambda: store.pubsub_numsub(channel)[0][1] >= 2, NOTICED)
    store.publish(channel, '{"command": "shutdown"}')
    assert tree.wait() == 0


def test_dead_connections_while_a_job_runs(begin: Begin, proxy: Proxy, store: redis.Redis, tmp_path: Path) -> None:
    """The running job's outcome is recorded, and no other worker takes this one for dead meanwhile."""
    record = str(tmp_path / "record")
    begin(proxy.url, JOBQ_LEASE="10")
    job = Queue(connection=store).enqueue("samples.note_and_nap", record, "x", 14)
    eventually(lambda: lines(record))
    beside = begin(store_url(store))  # the other worker would rescue the jobs after 10 s
    proxy.silence()
    eventually(lambda: status(store, job.id) == "finished", 14 + NOTICED)
    assert lines(record) == ["start x", "end x"]
    assert "rescued" not in beside.log


def store_url(store: redis.Redis) -> str:
    return f"unix://{store.connection_pool.connection_kwargs['path']}"


def test_a_command_over_a_dead_connection_is_repeated(
    begin: Begin, proxy: Proxy, server: Server, store: redis.Redis, tmp_path: Path
) -> None:
    record = str(tmp_path / "record")
    begin(proxy.url)
    job = Queue(connection=store).enqueue("samples.note_and_nap", record, "x", 120)
    eventually(lambda: lines(record) and status(store, job.id) == "started")
    proxy.silence(b"SUBSCRIBE")
    assert jobq(server, "stop", job.id, "--timeout", "30").returncode == 0
    assert status(store, job.id) == "stopped"


def test_a_jobs_own_connection_has_a_time_limit(begin: Begin, proxy: Proxy, store: redis.Redis, tmp_path: Path) -> None:
    """``get_current_job().connection``: a command that does not wait in the store has the usual time limit."""
    gate, record = tmp_path / "gate", tmp_path / "record"
    begin(proxy.url)
    job = Queue(connection=store).enqueue("samples.ask_twice", str(record), str(gate))
    eventually(lambda: lines(record) == ["asked"])
    proxy.silence()
    gate.touch()
    eventually(lambda: lines(record)[1:] == ["TimeoutError"], NOTICED)
    eventually(lambda: status(store, job.id) == "finished", NOTICED)


# -- who enqueues, and who waits for results -------------------------------------------------------------------------


def ours(proxy: Proxy) -> redis.Redis:
    return client(Address(url=proxy.url))


def theirs(proxy: Proxy) -> redis.Redis:
    """Return a client as many users make it, without a time limit."""
    return redis.Redis("127.0.0.1", proxy.port, socket_timeout=None)


@pytest.mark.parametrize("make", [ours, theirs])
def test_a_producer_with_a_dead_connection(
    make: Callable[[Proxy], redis.Redis], proxy: Proxy, store: redis.Redis
) -> None:
    """The producer's connection died between two jobs, or the reply to an enqueue is lost."""
    with make(proxy) as own:
        queue = Queue(connection=own)
        queue.enqueue("square", 1)
        proxy.silence()
        queue.enqueue("square", 2)
        proxy.swallow(b"RPUSH", most=1)
        queue.enqueue("square", 3)
    assert store.llen(keys.queue("default")) == 3


@pytest.mark.parametrize("make", [ours, theirs])
def test_a_wait_for_results_over_a_dead_connection(
    make: Callable[[Proxy], redis.Redis], proxy: Proxy, begin_one: Begin
) -> None:
    with make(proxy) as own:
        queue = Queue(connection=own)
        jobs = [queue.enqueue("samples.nap", 4), queue.enqueue("samples.nap", 4)]
        outcomes = Waiter(own, loads=queue.serializer.loads).outcomes([job.id for job in jobs])
        proxy.swallow(b"XREAD", b"BLOCK", most=1)
        begin_one()
        assert [outcome.get() for outcome in outcomes] == [4, 4]
        job = queue.enqueue("samples.ok", 1)
        proxy.silence()
        assert job.result(NOTICED) == 1


@pytest.fixture
def begin_one(server: Server, tmp_path: Path) -> Iterator[Begin]:
    """Start a worker that reaches the store without the proxy."""
    trees: list[Tree] = []

    def start() -> Tree:
        trees.append(Tree(server.url, tmp_path, ["-n", "1", "--mode", "thread", "-I", "samples"], {}))
        return trees[0]

    yield start
    for tree in trees:
        tree.destroy()


def test_an_executor_with_dead_connections(proxy: Proxy, begin_one: Begin) -> None:
    begin_one()
    with JobExecutor(queue="default", url=proxy.url) as executor:
        assert executor.submit("samples.ok", 1).result(NOTICED) == 1
        first = executor.submit("samples.nap", 3)
        proxy.silence()
        second = executor.submit("samples.ok", 2)
        assert (first.result(NOTICED), second.result(NOTICED)) == (3, 2)


def test_a_cron_leader_with_a_dead_connection(server: Server, store: redis.Redis, proxy: Proxy, tmp_path: Path) -> None:
    """The only leader's lock expires while it waits for an answer; then it leads again."""
    path = tmp_path / "cron_file.py"
    path.write_text(
        "from rq import cron\nfrom jobqueue.tasks import square\n"
        "cron.register(square, 'default', args=(2,), interval=1, name='two')\n"
    )
    tree = Tree(proxy.url, tmp_path, [str(path), "--url", proxy.url], {}, command=("jobqueue.cli", "cron"))
    try:
        eventually(lambda: store.llen(keys.queue("default")) >= 2)
        proxy.silence()
        before = store.llen(keys.queue("default"))
        eventually(lambda: store.llen(keys.queue("default")) > before + 1, NOTICED)
        tree.send(signal.SIGTERM)
        assert tree.wait() == 0, tree.log
    finally:
        tree.destroy()
