"""Each connection limits the time for each answer, and the kernel checks whether the other side still exists."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from typing import Any

import pytest
import redis
from helpers import Server, eventually
from proxy import Proxy

from jobqueue.network import silence
from jobqueue.network.silence import COMMAND, WAITS_AT_MOST, asking, keepalive, limit_of, limited
from jobqueue.store.connection import Address, bounded, client, like, limit_commands


@pytest.mark.parametrize(
    ("command", "seconds"),
    [
        (("GET", "a"), COMMAND),
        (("blpop", "a", "b", 3), 3 + COMMAND),
        ((b"BRPOP", b"a", b"2.5"), 2.5 + COMMAND),
        (("BLPOP", "a", 0), WAITS_AT_MOST),
        (("BLMOVE", "a", "b", "LEFT", "RIGHT", 1), 1 + COMMAND),
        (("BZPOPMIN", "a", 1), 1 + COMMAND),
        (("BLMPOP", 7, 1, "a", "LEFT"), 7 + COMMAND),
        (("XREAD", "BLOCK", 2000, "STREAMS", "a", "$"), 2 + COMMAND),
        (("XREAD", "BLOCK", "0", "STREAMS", "a", "$"), WAITS_AT_MOST),
        (("XREAD", "STREAMS", "a", "0"), COMMAND),
        (("XREADGROUP", "GROUP", "g", "c", b"BLOCK", 1000, "STREAMS", "a", ">"), 1 + COMMAND),
        (("WAIT", 1, 5000), 5 + COMMAND),
        (("SUBSCRIBE", "a"), WAITS_AT_MOST),
        (("BLPOP", "a", "soon"), COMMAND),
        (("BLPOP",), COMMAND),
    ],
)
def test_the_limit_of_a_command(command: tuple[Any, ...], seconds: float) -> None:
    assert limit_of(command) == seconds


@pytest.fixture
def proxy(server: Server) -> Any:
    with Proxy(server.socket) as proxy:
        yield proxy


def timeout_of(r: redis.Redis) -> float | None:
    """Return the timeout of the connection that was used last."""
    connection: Any = r.connection_pool.get_connection()
    try:
        limit: float | None = connection._sock.gettimeout()
        return limit
    finally:
        r.connection_pool.release(connection)


def test_only_blocking_commands_have_a_longer_limit(proxy: Proxy) -> None:
    with client(Address(url=proxy.url), for_jobs=True) as r:
        r.ping()
        assert timeout_of(r) == COMMAND
        assert r.blpop(["nothing"], timeout=1) is None
        assert timeout_of(r) == 1 + COMMAND
        r.pipeline().set("a", 1).execute()
        assert timeout_of(r) == COMMAND
        r.pipeline(transaction=False).set("a", 1).blpop(["nothing"], timeout=1).execute()
        assert timeout_of(r) == WAITS_AT_MOST


def test_a_socket_closed_by_another_thread_is_left_to_its_reader(proxy: Proxy) -> None:
    """RQ's worker ends its subscription in one thread while another is still listening."""
    with client(Address(url=proxy.url), for_jobs=True) as r:
        connection: Any = r.connection_pool.get_connection()
        connection._sock.close()
        connection._answer_within(1.0)
        r.connection_pool.release(connection)


def test_the_client_of_rqs_worker_has_the_same_limits(proxy: Proxy) -> None:
    with redis.Redis("127.0.0.1", proxy.port, socket_timeout=WAITS_AT_MOST) as r:
        r.ping()
        assert timeout_of(r) == WAITS_AT_MOST
        limit_commands(r)
        r.ping()
        assert timeout_of(r) == COMMAND
        limit_commands(r)  # again


@pytest.mark.parametrize("kind", [redis.Connection, redis.SSLConnection, redis.UnixDomainSocketConnection])
def test_the_connection_class_can_be_pickled(kind: type) -> None:
    """RQ's scheduler gets the class from its worker, pickled where processes are spawned."""
    for made in (limited(kind), asking(kind)):
        pickled = pickle.dumps(made)
        assert pickle.loads(pickled) is made
        code = f"import pickle; print(pickle.loads({pickled!r}).__name__)"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == made.__name__


def test_a_client_without_a_timeout_is_replaced_by_one_with_a_limit(proxy: Proxy) -> None:
    endless = redis.Redis("127.0.0.1", proxy.port, socket_timeout=None, client_name="me")
    with endless, redis.Redis("127.0.0.1", proxy.port, socket_timeout=3) as theirs:
        ours = bounded(endless)
        assert bounded(theirs) is theirs
        assert bounded(endless) is ours is not endless
        assert ours.client_getname() == "me"
        assert timeout_of(ours) == 10.0
        ours.close()


@pytest.mark.parametrize("kind", ["client", "like", "rq", "like rq"])
def test_the_kernel_checks_open_connections(proxy: Proxy, kind: str) -> None:
    with redis.Redis("127.0.0.1", proxy.port, socket_keepalive=False) as theirs:
        if kind.endswith("rq"):
            limit_commands(theirs)
        with {
            "client": lambda: client(Address(url=proxy.url)),
            "like": lambda: like(theirs),
            "rq": lambda: theirs,
            "like rq": lambda: like(theirs),
        }[kind]() as r:
            connection: Any = r.connection_pool.get_connection()
            sock = connection._sock
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            for option, value in keepalive()["socket_keepalive_options"].items():
                assert sock.getsockopt(socket.IPPROTO_TCP, option) == value
            r.connection_pool.release(connection)


# -- after a silence ---------------------------------------------------------------------------------------------------


@pytest.fixture
def after_a_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each command follow a silence; the first answer has one second."""
    monkeypatch.setattr(silence, "SILENCE", 1e-9)
    monkeypatch.setattr(silence, "FIRST_ANSWER", 1.0)


@pytest.mark.usefixtures("after_a_silence")
def test_a_connection_that_died_during_a_silence_is_made_again_before_a_command(
    proxy: Proxy, store: redis.Redis
) -> None:
    with client(Address(url=proxy.url)) as r:
        r.incr("a")
        proxy.silence()
        rule = proxy.cut(b"INCR", nth=1_000)
        assert r.incr("a") == 2
        proxy.silence()
        assert r.pipeline().incr("a").execute() == [3]
        assert (store.get("a"), rule.seen) == (b"3", 2)  # each was sent once


@pytest.mark.usefixtures("after_a_silence")
def test_a_transaction_with_watched_keys_is_not_sent_over_a_new_connection(proxy: Proxy, store: redis.Redis) -> None:
    with client(Address(url=proxy.url)) as r, r.pipeline() as pipe:
        pipe.watch("a")  # type: ignore[no-untyped-call]
        proxy.silence()
        store.set("a", "somebody else's")
        pipe.multi()  # type: ignore[no-untyped-call]
        pipe.set("a", "ours")
        with pytest.raises((redis.WatchError, redis.ConnectionError, redis.TimeoutError)):
            pipe.execute()
        assert store.get("a") == b"somebody else's"


def test_one_ping_is_sent_after_a_silence(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """No PING is sent between commands whose replies are not read yet; a client like RQ's worker's sends one too."""
    with redis.Redis("127.0.0.1", proxy.port) as theirs:
        limit_commands(theirs)
        with like(theirs) as r:
            connection: Any = r.connection_pool.get_connection()
            pings = proxy.cut(b"PING", nth=1_000_000)
            connection.next_health_check = 1.0  # long ago
            for _ in range(3):
                connection.send_command("ECHO", "a")
            assert [connection.read_response() for _ in range(3)] == [b"a"] * 3
            assert pings.seen == 1
            r.connection_pool.release(connection)


def test_a_reply_from_a_replica_closes_the_connection(proxy: Proxy, store: redis.Redis) -> None:
    """After a fail-over a name may lead to another server; an old connection would stay with the old server for
    ever."""
    with client(Address(url=proxy.url)) as r:
        store.replicaof("127.0.0.1", 1)
        try:
            for _ in range(2):
                with pytest.raises(redis.ReadOnlyError):
                    r.set("a", 1)
                with pytest.raises(redis.ReadOnlyError):
                    r.pipeline().set("a", 1).set("b", 1).execute()
        finally:
            store.replicaof("NO", "ONE")
        old = list(proxy.links)
        assert r.set("a", 1)
        eventually(lambda: proxy.links and not {*map(id, old)} & {*map(id, proxy.links)})
