"""The queue waiter, on a real server, wakes a child that is out of work at a push, and takes no job away."""

from __future__ import annotations

import errno
import logging
import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import redis
from helpers import Server, eventually
from proxy import Proxy

from jobqueue.protocol import keys
from jobqueue.store.connection import Address, client
from jobqueue.workers.roles.queue_waiter import QueueWaiter
from jobqueue.workers.shared.failures import Failures

Make = Callable[..., QueueWaiter]


@pytest.fixture
def make(server: Server) -> Iterator[Make]:
    waiters: list[QueueWaiter] = []

    def start(*queues: str, url: str = server.url) -> QueueWaiter:
        queue_waiter = QueueWaiter(client(Address(url=url)), queues or ("default",))
        waiters.append(queue_waiter)
        queue_waiter.start()
        return queue_waiter

    yield start
    for queue_waiter in waiters:
        queue_waiter.stop()
        queue_waiter._thread.join(20)
        assert not queue_waiter._thread.is_alive()


def blocked(store: redis.Redis) -> int:
    return int(store.info("clients")["blocked_clients"])


def push(store: redis.Redis, *ids: str, queue: str = "default") -> None:
    store.rpush(keys.queue(queue), *ids)


def waiting(store: redis.Redis, queue: str = "default") -> list[bytes]:
    return list(store.lrange(keys.queue(queue), 0, -1))


def test_a_push_wakes_one_child_and_takes_no_job(make: Make, store: redis.Redis) -> None:
    woken: list[str] = []
    queue_waiter = make()
    for name in ("first", "second"):
        queue_waiter.call_at_push(lambda name=name: woken.append(name))  # type: ignore[misc]
    eventually(lambda: blocked(store) == 1)
    assert woken == []
    push(store, "a", "b", "c")
    eventually(lambda: woken == ["first", "second"])  # more is there: the next one too
    assert waiting(store) == [b"a", b"b", b"c"]


def test_one_job_wakes_one_child_at_a_time(make: Make, store: redis.Redis) -> None:
    """The first child takes the job; the second continues to wait."""
    woken: list[str] = []
    queue_waiter = make()

    def first() -> None:
        store.lpop(keys.queue("default"))
        woken.append("first")

    queue_waiter.call_at_push(first)
    queue_waiter.call_at_push(lambda: woken.append("second"))
    eventually(lambda: blocked(store) == 1)
    push(store, "a")
    eventually(lambda: woken == ["first"])
    eventually(lambda: blocked(store) == 1)
    assert woken == ["first"]


def test_a_push_to_any_queue_wakes(make: Make, store: redis.Redis) -> None:
    woken: list[int] = []
    queue_waiter = make("high", "low")
    for n, queue in enumerate(("low", "high")):
        queue_waiter.call_at_push(lambda n=n: woken.append(n))  # type: ignore[misc]
        eventually(lambda: blocked(store) == 2)  # one connection for each queue
        push(store, "a", queue=queue)
        eventually(lambda n=n: woken[-1:] == [n])  # type: ignore[misc]
        store.delete(keys.queue(queue))


def test_while_no_child_waits_the_store_is_not_asked(make: Make, store: redis.Redis) -> None:
    make()
    before = store.info("stats")["total_commands_processed"]
    push(store, "a")
    time.sleep(0.2)  # that nothing is sent is seen only after a moment
    assert blocked(store) == 0
    assert store.info("stats")["total_commands_processed"] - before <= 4  # the INFO commands of these lines


@pytest.mark.parametrize("how", ["suspended", "paused"])
def test_while_suspended_or_paused_the_waiter_polls_instead_of_blocking(
    make: Make, store: redis.Redis, how: str
) -> None:
    """A BLMOVE on a queue that has jobs would return at once, again and again: the waiter looks once a second
    instead."""
    woken: list[int] = []
    if how == "suspended":
        store.set(keys.SUSPENDED, 1)
    else:
        store.sadd(keys.PAUSED, "default")
    push(store, "a")
    make().call_at_push(lambda: woken.append(1))
    before = store.info("stats")["total_commands_processed"]
    eventually(lambda: store.info("stats")["total_commands_processed"] > before + 20, every=0.1)
    assert woken == []
    assert blocked(store) == 0
    store.delete(keys.SUSPENDED, keys.PAUSED)
    eventually(lambda: woken == [1])


def test_a_paused_queue_does_not_keep_another_from_waking(make: Make, store: redis.Redis) -> None:
    woken: list[int] = []
    store.sadd(keys.PAUSED, "closed")
    push(store, "a", queue="closed")
    make("closed", "open").call_at_push(lambda: woken.append(1))
    eventually(lambda: blocked(store) == 1)
    assert woken == []
    push(store, "b", queue="open")
    eventually(lambda: woken == [1])


def test_a_cut_connection_is_made_again(make: Make, store: redis.Redis) -> None:
    woken: list[int] = []
    make().call_at_push(lambda: woken.append(1))
    eventually(lambda: blocked(store) == 1)
    own = store.client_id()
    for other in store.client_list():
        if int(other["id"]) != own:
            store.client_kill_filter(_id=other["id"])
    eventually(lambda: blocked(store) == 1)
    push(store, "a")
    eventually(lambda: woken == [1])


def test_stop_ends_a_blocked_wait(make: Make, store: redis.Redis) -> None:
    queue_waiter = make()
    queue_waiter.call_at_push(lambda: None)
    eventually(lambda: blocked(store) == 1)
    started = time.monotonic()
    queue_waiter.stop()
    queue_waiter._thread.join(20)
    assert time.monotonic() - started < 4  # a BLMOVE alone would wait for 5 s
    queue_waiter.stop()


def test_after_an_unexpected_error_the_waiter_pauses_and_continues(
    make: Make, store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The waiter's thread continues, and the health check is told of the error meanwhile."""
    failures, woken, broken = Failures(), [], [True]
    queue_waiter = QueueWaiter(store, ("default",), failures)
    look = queue_waiter._open_queues

    def fails() -> list[str]:
        if broken:
            raise ValueError("filedescriptor out of range in select()")
        return look()

    monkeypatch.setattr(queue_waiter, "_open_queues", fails)
    queue_waiter.start()
    queue_waiter.call_at_push(lambda: woken.append(1))
    eventually(lambda: failures.why() == "waiting for jobs fails: ValueError: filedescriptor out of range in select()")
    push(store, "a")
    broken.clear()
    eventually(lambda: woken)
    eventually(lambda: not failures.why())
    queue_waiter.stop()
    queue_waiter._thread.join(20)
    assert not queue_waiter._thread.is_alive()


# -- connections that die, and many queues ---------------------------------------------------------------------------


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.socket) as proxy:
        yield proxy


def test_an_answer_that_does_not_arrive_wakes_a_child(make: Make, proxy: Proxy, store: redis.Redis) -> None:
    """A job may have been pushed, so a child is woken; the other queue's connection is left alone."""
    woken: list[int] = []
    proxy.swallow(b"BLMOVE", keys.queue("b").encode() + b"\r\n")
    queue_waiter = make("a", "b", url=proxy.url)
    queue_waiter.call_at_push(lambda: woken.append(1))
    eventually(lambda: blocked(store) == 2)
    push(store, "x", queue="b")
    eventually(lambda: woken == [1])
    queue_waiter.call_at_push(lambda: woken.append(2))
    push(store, "y", queue="a")
    eventually(lambda: woken == [1, 2])


def test_hundreds_of_queues_share_a_few_connections(make: Make, store: redis.Redis) -> None:
    names = [f"q{n}" for n in range(1_100)]
    before = store.info("clients")["connected_clients"]
    for name in ("q0", "q31", "q32", "q1099"):
        woken: list[int] = []
        queue_waiter = make(*names)
        queue_waiter.call_at_push(lambda woken=woken: woken.append(1))  # type: ignore[misc]
        eventually(lambda: blocked(store) == 32)
        assert store.info("clients")["connected_clients"] <= before + 40
        assert woken == []
        push(store, "a", queue=name)
        eventually(lambda woken=woken: woken == [1])  # type: ignore[misc]
        store.delete(keys.queue(name))
        queue_waiter.stop()
        eventually(lambda: blocked(store) == 0)


def test_sockets_with_numbers_too_large_for_select(make: Make, store: redis.Redis) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2_048:
        pytest.skip("this machine allows no process so many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2_048), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
    try:
        woken: list[int] = []
        make().call_at_push(lambda: woken.append(1))
        eventually(lambda: blocked(store) == 1)
        push(store, "a")
        eventually(lambda: woken == [1])
    finally:
        for fd in files:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_key_that_is_no_list_does_not_keep_the_other_queues(
    make: Make, store: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    woken: list[int] = []
    store.set(keys.queue("wrong"), "x")
    store.set(keys.workers_of("wrong"), "x")
    with caplog.at_level(logging.WARNING):
        make("wrong", "right").call_at_push(lambda: woken.append(1))
        eventually(lambda: blocked(store) == 1)
        push(store, "a", queue="right")
        eventually(lambda: woken == [1])
    assert caplog.messages == ["the queue 'wrong' cannot be read, its key is no list: rq:queue:wrong"]


def test_a_waiter_that_cannot_open_a_connection_logs_that_and_wakes(
    make: Make, store: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """The woken child asks over its own connection."""
    woken: list[int] = []
    queue_waiter = make()
    no_more = queue_waiter._client.connection_pool

    def refuse() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(no_more, "make_connection", refuse)
        for n in range(3):
            queue_waiter.call_at_push(lambda n=n: woken.append(n))  # type: ignore[misc]
        eventually(lambda: woken == [0, 1, 2])
    assert caplog.messages == ["too many open files to wait for jobs: raise the limit (ulimit -n)"]
    since = queue_waiter._failing_since
    assert "Too many open files" in queue_waiter.why_not(since + 6)
    assert queue_waiter.why_not(since + 1) == ""
    queue_waiter.call_at_push(lambda: woken.append(3))
    eventually(lambda: blocked(store) == 1)
    push(store, "a")
    eventually(lambda: woken[3:] == [3] and queue_waiter.why_not(since + 60) == "")


def test_one_job_wakes_few_of_many_workers(make: Make, store: redis.Redis) -> None:
    """Each push ends the wait of all workers; all but the first find the queue empty, and wake no child."""
    crowd, woken = 40, []
    store.sadd(keys.workers_of("default"), *map(str, range(crowd)))
    waiters = [make() for _ in range(crowd)]

    def wake() -> None:
        woken.append(1)
        store.lpop(keys.queue("default"))

    for queue_waiter in waiters:
        queue_waiter.call_at_push(wake)
    for jobs in (1, 2, 3):
        eventually(lambda: blocked(store) == crowd - len(woken))
        push(store, "a")
        eventually(lambda jobs=jobs: len(woken) >= jobs)  # type: ignore[misc]
        eventually(lambda: not waiting(store))
    eventually(lambda: blocked(store) == crowd - len(woken))
    assert len(woken) <= crowd  # of 118 without it; on a busy machine 27 were seen, on a quiet one 6
    push(store, *"abcdefghijklmnopqrstuvwxyz"[: crowd - len(woken)])  # no more than there are waiters left
    eventually(lambda: not waiting(store))


def test_a_worker_that_finds_nothing_left_waits_again_with_two_commands(make: Make, store: redis.Redis) -> None:
    """A push of a job that others take costs each waiter an EXISTS and a BLMOVE, and no look at the paused queues."""
    store.sadd(keys.workers_of("default"), *map(str, range(40)))
    woken: list[str] = []
    make().call_at_push(lambda: woken.append("child"))
    eventually(lambda: blocked(store) == 1)
    pushes, began, before = 20, time.monotonic(), calls(store)
    for n in range(1, pushes + 1):
        with store.pipeline(transaction=False) as pipe:
            pipe.rpush(keys.queue("default"), "a").lpop(keys.queue("default")).execute()
        eventually(lambda n=n: calls(store)["blmove"] == before["blmove"] + n and blocked(store) == 1)  # type: ignore[misc]
    looks = calls(store)["smembers"] - before["smembers"]
    assert woken == []
    assert looks <= 1 + time.monotonic() - began  # 20 before


def calls(store: redis.Redis) -> Counter[str]:
    stats = store.info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): int(entry["calls"]) for name, entry in stats.items()})
