"""Connections that a producer keeps out of its client's pool between two commands."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest
import redis
from helpers import Server
from proxy import Proxy

from jobqueue.network import kept as module
from jobqueue.network.kept import kept
from jobqueue.store.connection import Address, client


@pytest.fixture
def producer(server: Server) -> redis.Redis:
    return client(server.address)


def ping(connection: Any) -> Any:
    connection.send_command("PING")
    return connection.read_response()


def test_a_connection_is_used_again_and_stays_the_pools(producer: redis.Redis) -> None:
    connections = kept(producer)
    assert kept(producer) is connections
    first = connections.take()
    assert ping(first) == b"PONG"
    connections.put_back(first)
    assert connections.take() is first
    producer.connection_pool.disconnect()
    connections.put_back(first)
    assert first._sock is None
    assert ping(connections.take()) == b"PONG"


def test_two_threads_never_have_the_same_connection(producer: redis.Redis) -> None:
    connections, taken = kept(producer), []
    for _ in range(2):
        thread = threading.Thread(target=lambda: taken.append(connections.take()))
        thread.start()
        thread.join()
    assert taken[0] is not taken[1]


@pytest.mark.parametrize("fresh", [0.0, 60.0])
def test_a_connection_that_the_server_closed_is_opened_again_unless_it_was_just_used(
    producer: redis.Redis, fresh: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FRESH", fresh)
    connections = kept(producer)
    connection = connections.take()
    connection.send_command("CLIENT", "ID")
    number = connection.read_response()
    connections.put_back(connection)
    producer.client_kill_filter(_id=number)
    again = connections.take()
    if fresh:
        with pytest.raises(redis.ConnectionError):
            ping(again)
    else:
        assert ping(again) == b"PONG"


def test_one_that_cannot_be_opened_again_is_kept_for_later(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH", 0.0)
    with Proxy(server.socket) as proxy:
        connections = kept(client(Address(url=f"redis://127.0.0.1:{proxy.port}")))
        connection = connections.take()
        connections.put_back(connection)
    with pytest.raises(redis.ConnectionError):
        connections.take()
    assert connections._idle[0][0] is connection


def test_a_copy_of_the_process_has_connections_of_its_own(producer: redis.Redis) -> None:
    connections = kept(producer)
    first = connections.take()
    connections.put_back(first)
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if connections.take() is not first else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert connections.take() is first


def test_a_pool_with_a_limit_gets_its_connection_back(server: Server) -> None:
    limited = redis.Redis(unix_socket_path=str(server.socket), max_connections=1)
    connections = kept(limited)
    connections.put_back(connections.take())
    assert limited.ping()
