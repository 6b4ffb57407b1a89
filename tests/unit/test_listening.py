"""A listener sends a PING after a silence, and subscribes again when there is no answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from helpers import Server, eventually
from proxy import Proxy

from jobqueue.network import listening
from jobqueue.network.listening import Listener
from jobqueue.store.connection import Address, client


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.socket) as proxy:
        yield proxy


@pytest.fixture
def listener(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """Make a listener whose times are a fifth of the usual ones."""
    monkeypatch.setattr(listening, "ASK_AFTER", 1.0)
    monkeypatch.setattr(listening, "ANSWER", 1.0)
    with client(Address(url=proxy.url)) as r, Listener(r.connection_pool) as listener:
        listener.subscribe("c")
        yield listener


def heard(listener: Listener) -> bytes | None:
    message = listener.get_message(ignore_subscribe_messages=True, timeout=0.2)
    return message and message["data"]


def test_silence_alone_does_not_end_a_subscription(listener: Listener, proxy: Proxy, store: redis.Redis) -> None:
    pings = proxy.cut(b"PING", nth=1_000_000)
    eventually(lambda: heard(listener) or pings.seen >= 3)
    assert len(proxy.links) == 1
    store.publish("c", "word")
    assert eventually(lambda: heard(listener)) == b"word"


def test_a_listener_subscribes_again_when_ping_has_no_answer(
    listener: Listener, proxy: Proxy, store: redis.Redis
) -> None:
    eventually(lambda: not heard(listener) and store.pubsub_numsub("c")[0][1] == 1)
    proxy.silence()
    with pytest.raises(redis.ConnectionError, match="no answer to PING"):
        eventually(lambda: heard(listener))
    eventually(lambda: not heard(listener) and store.pubsub_numsub("c")[0][1] == 2)  # the store knows the old one still
    store.publish("c", "word")
    assert eventually(lambda: heard(listener)) == b"word"


def test_a_listener_subscribes_again_after_a_lost_connection(
    listener: Listener, proxy: Proxy, store: redis.Redis
) -> None:
    eventually(lambda: not heard(listener) and store.pubsub_numsub("c")[0][1] == 1)
    proxy.hang_up()
    with pytest.raises(redis.ConnectionError):
        eventually(lambda: heard(listener))
    eventually(lambda: not heard(listener) and store.pubsub_numsub("c")[0][1] == 1)
    store.publish("c", "word")
    assert eventually(lambda: heard(listener)) == b"word"
