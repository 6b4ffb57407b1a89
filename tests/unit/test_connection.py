"""Clients send each command once, whatever happens to the connection; errors are one line and hold no password."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from jobqueue import _keep_the_gil_off
from jobqueue.errors import JobqError, StoreLoading, StoreRefused, StoreUnreachable, UsageError
from jobqueue.store import connection
from jobqueue.store.connection import Address, check, client, redis
from jobqueue.store.error_texts import explain, is_away
from jobqueue.store.local.status import server_status
from jobqueue.workers.shared.refusals import of_the_store


class FakeServer:
    """A TCP server on loopback that records what each connection sends, answers ``reply`` and closes the connection (or
    not)."""

    def __init__(self, reply: bytes = b"", hang_up: bool = True) -> None:
        self.received: list[bytes] = []
        self._reply, self._hang_up = reply, hang_up
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            sent = connection.recv(65536)
            if sent == b"end":
                return connection.close()
            self.received.append(sent)
            if self._reply:
                connection.sendall(self._reply)
            if self._hang_up:
                connection.close()
            else:
                self._open.append(connection)

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as s:
            s.sendall(b"end")  # a sentinel, which is handled last: all that was sent before is recorded
        self._thread.join(10)
        for s in (*self._open, self._listener):
            s.close()


@contextmanager
def connected(server: FakeServer, query: str = "", **kwargs: Any) -> Iterator[redis.Redis]:
    with client(Address(url=f"redis://127.0.0.1:{server.port}/0{query}"), **kwargs) as r:
        yield r


def _rpush(r: redis.Redis) -> None:
    r.rpush("q", "x")


def _pipeline(r: redis.Redis, transaction: bool) -> None:
    p = r.pipeline(transaction=transaction)
    p.rpush("q", "x")
    p.rpush("q", "y")
    p.execute()


def _watched(r: redis.Redis) -> None:
    with r.pipeline() as p:
        p.watch("q")  # type: ignore[no-untyped-call]


def _script(r: redis.Redis) -> None:
    r.evalsha("0" * 40, 1, "q")


COMMANDS: dict[str, tuple[Callable[[redis.Redis], None], bytes]] = {
    "command": (_rpush, b"RPUSH"),
    "pipeline": (lambda r: _pipeline(r, False), b"RPUSH"),
    "transaction": (lambda r: _pipeline(r, True), b"MULTI"),
    "watch": (_watched, b"WATCH"),
    "script": (_script, b"EVALSHA"),
    "publish": (lambda r: r.publish("c", "m"), b"PUBLISH"),  # type: ignore[dict-item]
    "shutdown-like": (lambda r: r.execute_command("SHUTDOWN"), b"SHUTDOWN"),  # type: ignore[no-untyped-call]
}
# Options in a user's URL that switch on redis-py's repetitions.
QUERIES = [
    "",
    "?retry_on_timeout=yes&health_check_interval=100&protocol=3&socket_timeout=1&retry_on_error=TimeoutError",
]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_whose_connection_breaks_is_sent_once_and_raises(name: str, query: str) -> None:
    run, expected = COMMANDS[name]
    with FakeServer() as server, connected(server, query) as r, pytest.raises(redis.ConnectionError):
        run(r)
    assert [expected in s for s in server.received] == [True], server.received


@pytest.mark.parametrize("query", QUERIES)
def test_a_command_that_is_not_answered_in_time_is_sent_once_and_raises(query: str) -> None:
    with (
        FakeServer(hang_up=False) as server,
        connected(server, query, socket_timeout=0.1) as r,
        pytest.raises(redis.TimeoutError),
    ):
        _rpush(r)
    assert len(server.received) == 1


def test_the_fake_server_would_see_a_repeated_command() -> None:
    """The tests above can fail: redis-py's defaults do repeat."""
    with (
        FakeServer() as server,
        redis.Redis(port=server.port, host="127.0.0.1", protocol=2, driver_info=None) as r,
        pytest.raises(redis.ConnectionError),
    ):
        _rpush(r)
    assert sum(b"RPUSH" in s for s in server.received) > 1


def test_connecting_costs_no_round_trip_of_its_own() -> None:
    with FakeServer(b"+PONG\r\n") as server, connected(server) as r:
        assert r.ping()
    assert server.received == [b"*1\r\n$4\r\nPING\r\n"]


def test_hiredis_is_used_where_it_is_installed() -> None:
    assert redis.connection.DefaultParser.__name__ == "_HiredisParser"


def test_hiredis_is_hidden_on_a_free_threaded_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "hiredis")
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True, raising=False)
    _keep_the_gil_off()
    assert "hiredis" not in sys.modules
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False)
    _keep_the_gil_off()
    with pytest.raises(ImportError):
        import hiredis  # noqa: F401
    monkeypatch.delitem(sys.modules, "hiredis")


def test_timeouts_are_the_callers_and_threads_do_not_run_out_of_connections() -> None:
    with client(Address(url="redis://h/3?socket_timeout=1"), socket_timeout=4.0, connect_timeout=2.0) as r:
        kwargs = r.connection_pool.connection_kwargs
        assert (kwargs["socket_timeout"], kwargs["socket_connect_timeout"], kwargs["db"]) == (4.0, 2.0, 3)
        assert r.connection_pool.max_connections > 10_000


def test_a_sentinel_url_gives_a_client_that_never_repeats() -> None:
    url = "redis+sentinel://me:p%40ss@h1:1,[::1]:2,h3/main/4?sentinel_password=s"
    with client(Address(url=url), socket_timeout=3.0) as r:
        pool = r.connection_pool
        sentinels = pool.sentinel_manager.sentinels
        kwargs = [s.connection_pool.connection_kwargs for s in sentinels]
        assert [(k["host"], k["port"], k["password"]) for k in kwargs] == [
            ("h1", 1, "s"),
            ("::1", 2, "s"),
            ("h3", 26379, "s"),
        ]
        assert {k["retry"].get_retries() for k in (*kwargs, pool.connection_kwargs)} == {0}
        own = pool.connection_kwargs
        assert (pool.service_name, own["db"], own["username"], own["password"]) == ("main", 4, "me", "p@ss")


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "nonsense",
        "http://me:geheim@h",
        "redis://me:geheim@h:port/0",
        "redis://me:geheim@h/zero",
        "redis://:geheim@h:1/0/1",
        "redis://me:geheim@h?db=x",
        "unix://",
        "redis+sentinel://me:geheim@h:1",
        "redis+sentinel://h:1/service/zero",
        "redis+sentinel://h:port/service",
        "redis+cluster://me:geheim@h",
    ],
)
def test_a_wrong_url_is_one_line_without_the_password(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        client(Address(url=url))
    assert "geheim" not in str(caught.value)
    assert "\n" not in str(caught.value)


def _problem(address: Address, **kwargs: Any) -> JobqError:
    with client(address, **kwargs) as r, pytest.raises(JobqError) as caught:
        check(r, address)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", StoreLoading, "still loading"),
        (b"-NOAUTH Authentication required.\r\n", StoreRefused, "wants a password"),
        (b"-WRONGPASS invalid username-password pair\r\n", StoreRefused, "refuses the user name or password"),
        (b"-DENIED Redis is running in protected mode\r\n", StoreRefused, "protected mode"),
        (b"-NOPERM no permissions for ping\r\n", StoreRefused, "no permissions"),
        (b"-ERR max number of clients reached\r\n", StoreUnreachable, "max number of clients"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", StoreUnreachable, "not as Redis does"),
        (b"", StoreUnreachable, "closed"),
    ],
)
def test_a_servers_error_becomes_one_line(reply: bytes, kind: type[JobqError], words: str) -> None:
    with FakeServer(reply) as server:
        problem = _problem(Address(url=f"redis://127.0.0.1:{server.port}"))
    assert type(problem) is kind
    assert words in str(problem)


def test_a_server_that_loads_its_data_is_one_line() -> None:
    reply = b"-LOADING Redis is loading the dataset in memory\r\n"
    with FakeServer(reply) as server, pytest.raises(StoreRefused, match="still loading"):
        server_status(Address(url=f"redis://127.0.0.1:{server.port}"))


def test_no_answer_no_host_no_socket_and_an_unknown_option_are_one_line_each() -> None:
    with FakeServer(hang_up=False) as server:
        silent = _problem(Address(url=f"redis://127.0.0.1:{server.port}"), socket_timeout=0.1)
        no_tls = _problem(Address(url=f"rediss://127.0.0.1:{server.port}"), socket_timeout=0.1)
    assert "does not answer" in str(silent)
    assert "TLS" in str(no_tls)
    assert "no host of this name" in str(_problem(Address(url="redis://nobody.invalid:1")))
    assert "no such socket" in str(_problem(Address(url="unix:///nowhere/s")))
    assert "no such socket" in str(_problem(Address(unix_socket_path="/nowhere/s")))
    assert "'colour'" in str(_problem(Address(url="redis://127.0.0.1:1?colour=blue")))


def test_a_refused_port_is_said_to_be_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    assert "nobody listens" in str(_problem(Address(url=f"redis://:geheim@127.0.0.1:{port}")))


@pytest.mark.parametrize("address", [Address(url="rediss://u:p@h:1/2"), Address(unix_socket_path="/a b/ü's")])
def test_an_address_is_the_same_after_json(address: Address) -> None:
    assert Address.from_json(address.to_json()) == address


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:geheim@h:1", "redis://:***@h:1"),
        ("redis://me:geh@eim@h", "redis://me:***@h"),
        ("redis://geheim@h:6379/0", "redis://***@h:6379/0"),  # for redis-py that is a user's name
        ("redis://ge/h:eim@h", "redis://***@h"),
        ("redis://:geh://eim@h", "redis://:***@h"),
        ("geheim@h:6379", "***@h:6379"),
        (":geheim@h", ":***@h"),
        ("redis:/:geheim@h", "redis:***@h"),
        ("redis+sentinel://geheim@h,i:1/s", "redis+sentinel://***@h,i:1/s"),
        ("redis://h?Password=geheim", "redis://h?Password=***"),
        ("unix:///s?db=1&password=geheim", "unix:///s?db=1&password=***"),
        (
            "redis+sentinel://a:geheim@h/s?sentinel_password=geheim&x=1",
            "redis+sentinel://a:***@h/s?sentinel_password=***&x=1",
        ),
    ],
)
def test_describe_hides_passwords(url: str, shown: str) -> None:
    assert Address(url=url).describe() == shown
    assert repr(Address(url=url)) == f"Address({shown!r})"


@pytest.mark.parametrize("tls", [False, True])
def test_a_client_like_another_sends_each_command_once(tls: bool) -> None:
    theirs = redis.Redis(host="store", port=7, db=3, password="p", ssl=tls)
    options = connection.like(theirs).connection_pool.connection_kwargs
    assert (options["host"], options["port"], options["db"], options["password"]) == ("store", 7, 3, "p")
    assert options["retry"].get_retries() == 0
    asks_at_once = any(options.get(name, "asked") is not None for name in connection._NO_SETINFO)
    assert asks_at_once is tls, "behind TLS 1.3 something has to be asked at once"


@pytest.mark.parametrize(
    ("said", "away"),
    [("NOREPLICAS Not enough good replicas to write.", True), ("WRONGTYPE of the value: caused error: OOM", False)],
)
def test_errors_in_a_pipeline_show_whether_waiting_helps(said: str, away: bool) -> None:
    """redis-py puts the command before the server's text, and a command may contain anything."""
    in_a_pipeline = f"Command # 1 (HSET x caused error: OOM) of pipeline caused error: {said}"
    assert [is_away(redis.ResponseError(text)) for text in (said, in_a_pipeline)] == [away, away]
    assert of_the_store(redis.ResponseError(in_a_pipeline)) is away
    assert "HSET" not in str(explain(redis.ResponseError(in_a_pipeline), Address(url="redis://127.0.0.1:1")))
