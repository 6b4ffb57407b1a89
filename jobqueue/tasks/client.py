"""Make the only HTTP client of the tasks: an httpx2 client whose connections go only where ``net`` allows.

One client per process, so all threads of a process share one connection pool. No proxy, netrc or cookie of the
environment is used, and no cookie of one job is sent for another.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpcore2
import httpx2

from jobqueue.tasks.net import BadUrl, FetchFailed, TookTooLong, resolve

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 15.0
REDIRECTS = 5

# -- the total time limit ------------------------------------------------------------------------------------------

_limit = threading.local()  # .deadline, per thread: one request is made and read by one thread


@contextmanager
def time_limit(deadline: float) -> Iterator[None]:
    """End everything that this thread sends and receives inside at the deadline (monotonic), even if a server sends
    byte by byte."""
    _limit.deadline = deadline
    try:
        yield
    finally:
        _limit.deadline = None


def _clip(timeout: float | None) -> float | None:
    """Return the seconds left for one read, write or connect; raise when the time limit is used up."""
    deadline = getattr(_limit, "deadline", None)
    if deadline is None:
        return timeout
    left = float(deadline - time.monotonic())
    if left <= 0:
        raise TookTooLong("The total time limit was reached.")
    return left if timeout is None else min(timeout, left)


# -- the connection ------------------------------------------------------------------------------------------------


class _Stream(httpcore2.NetworkStream):
    """A socket (plain or TLS) whose every wait ends at the deadline of the thread that uses it."""

    def __init__(self, inner: httpcore2.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _clip(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _clip(timeout))

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> _Stream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _clip(timeout)))

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore2.NetworkBackend):
    """Resolves a host, checks its addresses, and connects to the checked one. Only TCP: a unix socket path raises
    NotImplementedError."""

    def __init__(self) -> None:
        self._tcp = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        addresses = resolve(host, port)
        for i, address in enumerate(addresses):
            try:  # a numeric address, so that it is not resolved a second time
                inner = self._tcp.connect_tcp(address, port, _clip(timeout), local_address, socket_options)
                return _Stream(inner)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if i == len(addresses) - 1:
                    raise
        raise FetchFailed(f"The host {host!r} has no address.")


class _Transport(httpx2.BaseTransport):
    """httpx2 on a httpcore2 pool with ``_Backend``; built from public parts, so that an update cannot bypass the
    check."""

    def __init__(self) -> None:
        self._pool = httpcore2.ConnectionPool(
            ssl_context=httpx2.create_ssl_context(),
            max_connections=None,  # as many as the process has slots
            max_keepalive_connections=32,
            keepalive_expiry=30.0,
            network_backend=_Backend(),
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.scheme not in ("http", "https") or not request.url.host:
            raise BadUrl(f"{str(request.url)!r} is not an http or https address.")
        try:
            answer = self._send(request)
        except (httpcore2.RemoteProtocolError, httpcore2.ReadError, httpcore2.WriteError):
            # The server may just have closed a connection of the pool; a GET may be sent again (RFC 9110 9.2.2)
            answer = self._send(request)
        return httpx2.Response(
            answer.status, headers=answer.headers, stream=_Body(answer), extensions=answer.extensions
        )

    def _send(self, request: httpx2.Request) -> httpcore2.Response:
        url = request.url
        return self._pool.handle_request(
            httpcore2.Request(
                method=request.method,
                url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )

    def close(self) -> None:
        self._pool.close()


class _Body(httpx2.SyncByteStream):
    def __init__(self, answer: httpcore2.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


# -- the client ----------------------------------------------------------------------------------------------------

_client: httpx2.Client | None = None
_client_lock = threading.Lock()


def client() -> httpx2.Client:
    """Return this process's client; made at the first use, safe from every thread."""
    global _client
    with _client_lock:
        if _client is None:
            _client = httpx2.Client(
                transport=_Transport(),
                trust_env=False,
                follow_redirects=True,
                max_redirects=REDIRECTS,
                timeout=httpx2.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT, pool=None),
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                headers={"User-Agent": "jobq", "Accept-Encoding": "identity"},
            )
        return _client


def _forget() -> None:
    """Drop the client in a forked child: it must not use its parent's sockets, nor wait for a lock that a parent's
    thread holds."""
    global _client, _client_lock
    _client, _client_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
