"""RQ's commands are received, also after a lost connection; data that is no command is ignored."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from helpers import Server, eventually
from rq.command import send_kill_horse_command, send_shutdown_command

from jobqueue.protocol import keys
from jobqueue.store.connection import client
from jobqueue.workers.roles.command_listener import CommandListener

WORKER = "w"

# The thread listens as long as its process lives; in these tests SystemExit ends it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Ending:
    """A client; when ``over`` is set, the thread that uses it ends."""

    def __init__(self, server: Server) -> None:
        self._client = client(server.address)
        self.over = False

    @property
    def connection_pool(self) -> Any:
        if self.over:
            raise SystemExit
        return self._client.connection_pool


@pytest.fixture
def heard(server: Server) -> Iterator[list[dict[str, Any]]]:
    """What a listening thread heard."""
    orders: list[dict[str, Any]] = []
    ending = Ending(server)
    commands = CommandListener(ending, WORKER, orders.append)  # type: ignore[arg-type]
    commands.start()
    eventually(lambda: listeners(server.client))
    yield orders
    ending.over = True
    eventually(lambda: server.client.client_kill_filter(_type="pubsub") == 0)
    commands._thread.join(20)
    assert not commands._thread.is_alive()


def listeners(store: redis.Redis) -> int:
    return int(store.pubsub_numsub(keys.channel(WORKER))[0][1])


def test_commands_are_passed_on(server: Server, heard: list[dict[str, Any]]) -> None:
    send_shutdown_command(server.client, WORKER)
    send_kill_horse_command(server.client, WORKER)
    send_shutdown_command(server.client, "somebody else")
    send_shutdown_command(server.client, WORKER)
    eventually(lambda: len(heard) == 3)
    assert [order["command"] for order in heard] == ["shutdown", "kill-horse", "shutdown"]


def test_invalid_commands_are_ignored(
    server: Server, heard: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for text in ("no JSON", "[]", "1", b"\xff", "[" * 100_000, "{}"):
            server.client.publish(keys.channel(WORKER), text)
        eventually(lambda: heard == [{}])
    assert caplog.messages.count("a command that is not JSON was ignored") == 3


def test_the_listener_subscribes_again_after_a_lost_connection(server: Server, heard: list[dict[str, Any]]) -> None:
    """CLIENT KILL ends the connection, as a restart would; then commands are received again."""

    def is_heard() -> bool:
        send_shutdown_command(server.client, WORKER)  # repeated, as one may be lost while it connects
        return bool(heard)

    for _ in range(3):
        assert server.client.client_kill_filter(_type="pubsub") == 1
        heard.clear()
        eventually(is_heard, every=0.05)
        eventually(lambda: listeners(server.client) == 1)
    assert all(order == {"command": "shutdown"} for order in heard)
