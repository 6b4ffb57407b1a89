"""The waiter on a real server: it wakes a hungry child when there is something, and takes nothing away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import redis
from helpers import Server, eventually

from jobqueue import keys
from jobqueue.connection import client
from workers.failures import Failures
from workers.waiter import Waiter

Make = Callable[..., Waiter]


@pytest.fixture
def make(server: Server) -> Iterator[Make]:
    waiters: list[Waiter] = []

    def start(*queues: str) -> Waiter:
        waiter = Waiter(client(server.address, socket_timeout=None), queues or ("default",))
        waiters.append(waiter)
        waiter.start()
        return waiter

    yield start
    for waiter in waiters:
        waiter.stop()
        waiter._thread.join(20)
        assert not waiter._thread.is_alive()


def blocked(store: redis.Redis) -> int:
    return int(store.info("clients")["blocked_clients"])


def push(store: redis.Redis, *ids: str, queue: str = "default") -> None:
    store.rpush(keys.queue(queue), *ids)


def waiting(store: redis.Redis, queue: str = "default") -> list[bytes]:
    return list(store.lrange(keys.queue(queue), 0, -1))


def test_a_push_wakes_one_and_stays(make: Make, store: redis.Redis) -> None:
    woken: list[str] = []
    waiter = make()
    for name in ("first", "second"):
        waiter.hungry(lambda name=name: woken.append(name))  # type: ignore[misc]
    eventually(lambda: blocked(store) == 1)
    assert woken == []
    push(store, "a", "b", "c")
    eventually(lambda: woken == ["first", "second"])  # more is there: the next one too
    assert waiting(store) == [b"a", b"b", b"c"]


def test_one_job_wakes_one_child_at_a_time(make: Make, store: redis.Redis) -> None:
    """The first child takes the job away; the second goes on waiting."""
    woken: list[str] = []
    waiter = make()

    def first() -> None:
        store.lpop(keys.queue("default"))
        woken.append("first")

    waiter.hungry(first)
    waiter.hungry(lambda: woken.append("second"))
    eventually(lambda: blocked(store) == 1)
    push(store, "a")
    eventually(lambda: woken == ["first"])
    eventually(lambda: blocked(store) == 1)
    assert woken == ["first"]


def test_each_queue_wakes(make: Make, store: redis.Redis) -> None:
    woken: list[int] = []
    waiter = make("high", "low")
    for n, queue in enumerate(("low", "high")):
        waiter.hungry(lambda n=n: woken.append(n))  # type: ignore[misc]
        eventually(lambda: blocked(store) == 2)  # one connection for each queue
        push(store, "a", queue=queue)
        eventually(lambda n=n: woken[-1:] == [n])  # type: ignore[misc]
        store.delete(keys.queue(queue))


def test_nobody_hungry_nothing_asked(make: Make, store: redis.Redis) -> None:
    make()
    before = store.info("stats")["total_commands_processed"]
    push(store, "a")
    time.sleep(0.2)  # nothing happens, and that takes a moment to see
    assert blocked(store) == 0
    assert store.info("stats")["total_commands_processed"] - before <= 4  # these lines' own


@pytest.mark.parametrize("how", ["suspended", "paused"])
def test_it_does_not_enter_the_wait(make: Make, store: redis.Redis, how: str) -> None:
    """A BLMOVE on a queue with jobs would return at once for ever: it looks once a second instead."""
    woken: list[int] = []
    if how == "suspended":
        store.set(keys.SUSPENDED, 1)
    else:
        store.sadd(keys.PAUSED, "default")
    push(store, "a")
    make().hungry(lambda: woken.append(1))
    before = store.info("stats")["total_commands_processed"]
    eventually(lambda: store.info("stats")["total_commands_processed"] > before + 20, every=0.1)
    assert woken == []
    assert blocked(store) == 0
    store.delete(keys.SUSPENDED, keys.PAUSED)
    eventually(lambda: woken == [1])


def test_a_paused_queue_beside_an_open_one(make: Make, store: redis.Redis) -> None:
    woken: list[int] = []
    store.sadd(keys.PAUSED, "closed")
    push(store, "a", queue="closed")
    make("closed", "open").hungry(lambda: woken.append(1))
    eventually(lambda: blocked(store) == 1)
    assert woken == []
    push(store, "b", queue="open")
    eventually(lambda: woken == [1])


def test_a_cut_connection_is_made_again(make: Make, store: redis.Redis) -> None:
    woken: list[int] = []
    make().hungry(lambda: woken.append(1))
    eventually(lambda: blocked(store) == 1)
    own = store.client_id()
    for other in store.client_list():
        if int(other["id"]) != own:
            store.client_kill_filter(_id=other["id"])
    eventually(lambda: blocked(store) == 1)
    push(store, "a")
    eventually(lambda: woken == [1])


def test_stop_ends_a_wait(make: Make, store: redis.Redis) -> None:
    waiter = make()
    waiter.hungry(lambda: None)
    eventually(lambda: blocked(store) == 1)
    started = time.monotonic()
    waiter.stop()
    waiter._thread.join(20)
    assert time.monotonic() - started < 4  # a BLMOVE alone would wait for 5 s
    waiter.stop()


def test_what_nobody_expected_is_a_pause(make: Make, store: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread goes on, and the health check hears of it meanwhile."""
    failures, woken, broken = Failures(), [], [True]
    waiter = Waiter(store, ("default",), failures)
    look = waiter._open_queues

    def fails() -> list[str]:
        if broken:
            raise ValueError("filedescriptor out of range in select()")
        return look()

    monkeypatch.setattr(waiter, "_open_queues", fails)
    waiter.start()
    waiter.hungry(lambda: woken.append(1))
    eventually(lambda: failures.why() == "waiting for jobs fails: ValueError: filedescriptor out of range in select()")
    push(store, "a")
    broken.clear()
    eventually(lambda: woken)
    eventually(lambda: not failures.why())
    waiter.stop()
    waiter._thread.join(20)
    assert not waiter._thread.is_alive()
