"""The pages that the metrics' server answers, and that no client of it holds up another."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import fakeredis
import pytest
from click.testing import CliRunner
from prometheus_client.core import GaugeMetricFamily

from jobqueue.cli import main
from jobqueue.errors import ExtraMissing, UsageError
from jobqueue.metrics import library
from jobqueue.metrics.library import check_library
from jobqueue.metrics.pages import Pages, Reply
from jobqueue.metrics.server import AT_A_TIME, MetricsServer
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.store.connection import redis


class One:
    """A collector with one metric."""

    def collect(self) -> Iterator[Any]:
        yield GaugeMetricFamily("jobq_up", "text", value=1.0)


@pytest.fixture
def client() -> redis.Redis:
    return fakeredis.FakeRedis(server=fakeredis.FakeServer())


@pytest.fixture
def pages(client: redis.Redis) -> Pages:
    return Pages(One(), client, lambda: "")


@pytest.fixture
def server(pages: Pages) -> Iterator[MetricsServer]:
    server = MetricsServer("127.0.0.1:0")
    server.start(pages)
    yield server
    server.stop()


def port_of(server: MetricsServer) -> int:
    return int(server.url.rpartition(":")[2])


def get(server: MetricsServer, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=20)
    try:
        connection.request(method, path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()


# -- pages ---------------------------------------------------------------------------------------------------------


def test_metrics_in_the_format_that_is_asked_for(pages: Pages) -> None:
    plain = pages.get("/metrics")
    assert (plain.status, plain.type.partition(";")[0]) == (200, "text/plain")
    assert b"\njobq_up 1.0\n" in plain.body
    assert pages.get("/metrics", "application/openmetrics-text; version=1.0.0").body.endswith(b"# EOF\n")


def test_health(client: redis.Redis) -> None:
    assert Pages(One(), client, lambda: "").get("/healthz")[::2] == (200, b"able to claim\n")
    assert Pages(One(), client, lambda: "it is stopping").get("/healthz")[::2] == (503, b"it is stopping\n")


def keda(pages: Pages, query: str) -> tuple[int, dict[str, Any]]:
    reply = pages.get(f"/keda{query}")
    assert reply.type == "application/json"
    return reply.status, json.loads(reply.body)


def test_the_demand_of_queues(client: redis.Redis, pages: Pages) -> None:
    Queue("a", client).enqueue("square", 1)
    Queue("b c", client).enqueue("square", 1)
    client.rpush(keys.intermediate("a"), "claimed")
    client.zadd(keys.registry("wip", "a"), {"running:1": 1})
    status, found = keda(pages, "?queue=a")
    assert status == 200
    assert 0 <= found.pop("latency_seconds") < 5
    assert found == {"waiting": 1, "running": 2, "waiting_plus_running": 3}
    assert keda(pages, "?queue=a&queue=b%20c&queue=a")[1]["waiting_plus_running"] == 4
    nothing = {"waiting": 0, "running": 0, "waiting_plus_running": 0, "latency_seconds": 0.0}
    assert keda(pages, "?queue=nowhere") == (200, nothing)


@pytest.mark.parametrize("query", ["", "?queue=", "?queues=a", "?queue=%00", f"?queue={'x' * 300}"])
def test_a_query_without_a_queue(pages: Pages, query: str) -> None:
    status, found = keda(pages, query)
    assert status == 400
    assert found["error"]


def test_the_demand_without_the_store(client: redis.Redis) -> None:
    """An error is no number: KEDA keeps what it has, or does what its fallback says."""
    client.connection_pool.connection_kwargs["server"].connected = False
    status, found = keda(Pages(One(), client, lambda: ""), "?queue=a")
    assert status == 503
    assert found["error"].startswith("the store cannot be read")


def test_other_pages(pages: Pages) -> None:
    assert pages.get("/").status == 200
    assert pages.get("/favicon.ico").status == 404


# -- the server ----------------------------------------------------------------------------------------------------


def test_requests_over_http(server: MetricsServer) -> None:
    assert get(server, "/healthz") == (200, "able to claim\n")
    assert get(server, "/healthz", "HEAD") == (200, "")
    assert get(server, "/nowhere")[0] == 404
    assert get(server, "/metrics", "POST")[0] == 501


def test_an_error_of_ours_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def get(self, target: str, accept: str = "") -> Reply:
            raise ValueError("broken")

    server = MetricsServer("127.0.0.1:0")
    server.start(Broken())
    try:
        assert get(server, "/x")[0] == 500
    finally:
        server.stop()
    assert [record.getMessage() for record in caplog.records] == ["GET '/x' failed: ValueError: broken"]


def test_clients_that_say_nothing_hold_up_nobody(server: MetricsServer) -> None:
    """Some may wait; where there are too many, further ones are closed."""
    silent = [socket.create_connection(("127.0.0.1", port_of(server))) for _ in range(AT_A_TIME - 1)]
    try:
        assert get(server, "/healthz")[0] == 200
        silent += [socket.create_connection(("127.0.0.1", port_of(server))) for _ in range(2)]
        silent[-1].settimeout(20)
        assert silent[-1].recv(1) == b""
    finally:
        for each in silent:
            each.close()


def test_a_port_that_is_taken(server: MetricsServer) -> None:
    place = f"127.0.0.1:{port_of(server)}"
    with pytest.raises(UsageError, match=f"Metrics cannot be served at {place}: Address already in use"):
        MetricsServer(place)
    with pytest.raises(UsageError, match=r"Metrics cannot be served at nowhere\.invalid:1: "):
        MetricsServer("nowhere.invalid:1")


def test_stop_without_start_and_twice() -> None:
    server = MetricsServer("127.0.0.1:0")
    server.stop()
    server.stop()


def test_ipv6() -> None:
    try:
        server = MetricsServer("[::1]:0")
    except UsageError:
        pytest.skip("this machine has no IPv6")
    assert server.url.startswith("http://[::1]:")
    server.stop()


# -- the library ---------------------------------------------------------------------------------------------------


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    with pytest.raises(ExtraMissing, match=r"pip install 'jobq\[metrics\]'"):
        check_library()
    result = CliRunner().invoke(main, ["exporter", "--port", "0"])
    assert result.exit_code == 2
    assert result.stderr == (
        "jobq: Metrics need prometheus-client, which this Python does not have: pip install 'jobq[metrics]'\n"
    )


@pytest.mark.parametrize("port", ["x", "-1", "65536", "1.5", "host:", "0x1"])
def test_ports_that_are_none(port: str) -> None:
    for command in ("exporter", "worker"):
        flag = "--port" if command == "exporter" else "--metrics-port"
        result = CliRunner().invoke(main, [command, f"{flag}={port}"])
        assert result.exit_code == 2
        assert "is no port: give 0 to 65535" in result.stderr


def test_a_supervisor_imports_no_library_for_metrics() -> None:
    code = "import sys, jobqueue.workers.launcher; print({'prometheus_client', 'http.server'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
