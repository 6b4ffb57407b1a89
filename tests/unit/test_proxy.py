"""The tests' proxy plays the faults that its documentation describes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis
from helpers import Server, eventually
from proxy import Proxy

from jobqueue.store.connection import Address, client


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.socket) as proxy:
        yield proxy


@pytest.fixture
def far(proxy: Proxy) -> Iterator[redis.Redis]:
    """Make a client behind the proxy that waits for one second at most."""
    with client(Address(url=proxy.url), socket_timeout=1.0) as r:
        yield r


def test_the_proxy_passes_requests_and_replies(far: redis.Redis, store: redis.Redis) -> None:
    far.set("a", "x" * 1_000_000)
    assert store.strlen("a") == len(far.get("a") or b"") == 1_000_000


def test_a_reply_can_be_dropped(proxy: Proxy, far: redis.Redis, store: redis.Redis) -> None:
    rule = proxy.swallow(b"INCR", b"b")
    assert far.incr("a") == 1
    with pytest.raises(redis.TimeoutError):
        far.incr("b")
    assert (store.get("b"), rule.hits) == (b"1", 1)
    assert far.incr("a") == 2  # over another connection


def test_a_request_can_be_dropped(proxy: Proxy, far: redis.Redis, store: redis.Redis) -> None:
    proxy.swallow(b"INCR", requests=True, most=1)
    with pytest.raises(redis.TimeoutError):
        far.incr("a")
    assert store.get("a") is None
    assert far.incr("a") == 1


def test_open_connections_can_go_silent(proxy: Proxy, far: redis.Redis) -> None:
    assert far.ping()
    assert proxy.silence(b"GET") == 0
    assert proxy.silence(b"PING") == 1
    with pytest.raises(redis.TimeoutError):
        far.ping()
    assert far.ping()


def test_a_connection_can_be_cut_after_the_request(proxy: Proxy, far: redis.Redis, store: redis.Redis) -> None:
    proxy.cut(b"INCR", nth=2)
    assert far.incr("a") == 1
    with pytest.raises(redis.ConnectionError):
        far.incr("a")
    assert store.get("a") == b"2"


def test_a_connection_can_be_cut_before_the_request(proxy: Proxy, far: redis.Redis, store: redis.Redis) -> None:
    proxy.cut(b"INCR", answered=False)
    with pytest.raises(redis.ConnectionError):
        far.incr("a")
    assert store.get("a") is None


def test_traffic_can_be_dropped_delayed_and_restored(proxy: Proxy, far: redis.Redis) -> None:
    proxy.black_hole()
    with pytest.raises(redis.TimeoutError):
        far.ping()
    proxy.heal()
    proxy.delay(0.2)
    started = time.monotonic()
    assert far.ping()
    assert time.monotonic() - started >= 0.2
    proxy.heal()
    assert proxy.hang_up() >= 1
    eventually(lambda: not proxy.links)
