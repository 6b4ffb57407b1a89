"""A command that a server refused during a fail-over is repeated, as nothing was executed; an executed one is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from helpers import Server

from jobqueue.network import failover
from jobqueue.network.failover import Following, NotPrimary, NotReplicated, Patience, was_refused
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys, resp
from jobqueue.store.connection import client


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (redis.ResponseError("NOREPLICAS Not enough good replicas to write."), True),
        (redis.ResponseError("Command # 1 (SET a 1) of pipeline caused error: NOREPLICAS Not enough good"), True),
        (redis.ReadOnlyError("You can't write against a read only replica."), True),
        (redis.ResponseError("MASTERDOWN Link with MASTER is down"), True),
        (NotPrimary("h:1 is a replica now"), True),
        (NotReplicated("no replica has it"), False),
        (redis.ConnectionError("Connection closed by server."), False),
        (redis.TimeoutError("Timeout reading from socket"), False),
        (redis.ResponseError("ERR the text NOREPLICAS in something else"), False),
    ],
)
def test_errors_after_which_a_command_may_be_repeated(error: Exception, refused: bool) -> None:
    assert was_refused(error) is refused


@pytest.fixture
def without_replicas(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server with Sentinels refuses writes for half a second."""
    monkeypatch.setattr(failover, "behind_sentinels", lambda client: True)
    with client(server.address) as other:
        other.config_set("min-replicas-to-write", 1)
        later = threading.Timer(0.5, other.config_set, ["min-replicas-to-write", 0])
        later.start()
        yield
        later.join()
        other.config_set("min-replicas-to-write", 0)


@pytest.mark.usefixtures("without_replicas")
def test_an_enqueue_during_a_fail_over_is_repeated(store: redis.Redis) -> None:
    job = Queue(connection=store).enqueue("square", 1)
    assert store.lrange(keys.queue("default"), 0, -1) == [job.id.encode()]


@pytest.fixture
def following(store: redis.Redis) -> Following:
    return Following(connection_pool=store.connection_pool)


@pytest.mark.usefixtures("without_replicas")
def test_a_command_and_a_transaction_during_a_fail_over_are_repeated(following: Following) -> None:
    assert following.rpush("a", 1) == 1
    following.config_set("min-replicas-to-write", 1)
    threading.Timer(0.3, following.config_set, ["min-replicas-to-write", 0]).start()
    assert following.pipeline().rpush("a", 2).rpush("a", 3).execute() == [2, 3]


@pytest.mark.usefixtures("without_replicas")
def test_a_transaction_that_watches_keys_starts_again(following: Following) -> None:
    with following.pipeline() as pipe:
        for _ in range(20):
            try:
                pipe.watch("a")  # type: ignore[no-untyped-call]
                pipe.multi()  # type: ignore[no-untyped-call]
                pipe.incr("a")
                assert pipe.execute() == [1]
                break
            except redis.WatchError:
                continue
    assert following.get("a") == b"1"


@pytest.mark.usefixtures("without_replicas")
def test_a_pipeline_that_may_be_done_in_part_is_not_repeated(following: Following) -> None:
    with pytest.raises(redis.ResponseError):
        following.pipeline(transaction=False).get("a").set("a", 1).execute()


def test_the_repetition_ends_when_its_time_is_over(store: redis.Redis) -> None:
    refusal = redis.ReadOnlyError("You can't write against a read only replica.")
    now = iter((1000.0, 1000.1, 1000.2))
    window = Patience(store, 0.2, lambda: next(now))
    assert [window.wait(refusal) for _ in range(3)] == [True, True, False]


def test_a_write_that_no_replica_has_is_not_acknowledged(store: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is closed as well: its late answers would be taken for those of the next command."""
    monkeypatch.setattr(failover, "WAIT", ("WAIT", 1, 50))
    monkeypatch.setattr(resp, "_WAIT", b"*3\r\n" + resp.strings([b"WAIT", b"1", b"50"]))
    monkeypatch.setattr(failover, "confirms", lambda connection: True)
    monkeypatch.setattr(resp, "confirms", lambda connection: True)
    following = Following(connection_pool=store.connection_pool)
    attempts: list[Any] = [
        lambda: following.set("a", 1),
        lambda: following.pipeline().set("a", 2).execute(),
        lambda: following.pipeline(transaction=False).set("a", 3).execute(),
        lambda: resp.ask(store, b"*3\r\n" + resp.strings([b"SET", b"a", b"4"])),
    ]
    for n, attempt in enumerate(attempts, 1):
        with pytest.raises(NotReplicated):
            attempt()
        assert following.get("a") == str(n).encode()  # a read is not confirmed
