"""Serve the metrics over HTTP, from threads of this process. No request can hold up the process or another request."""

from __future__ import annotations

import logging
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from jobqueue.errors import UsageError

log = logging.getLogger(__name__)

AT_A_TIME = 16  # requests; further ones are closed at once
PATIENCE = 10.0  # seconds for a request to arrive and for its answer to be taken


class Answer(Protocol):
    """A reply, as metrics/pages.py makes it."""

    @property
    def status(self) -> int: ...
    @property
    def type(self) -> str: ...
    @property
    def body(self) -> bytes: ...


class Answers(Protocol):
    """Answers requests."""

    def get(self, target: str, accept: str = "") -> Answer: ...


class MetricsServer:
    """Listens from the moment it is made; answers between ``start`` and ``stop``."""

    def __init__(self, place: str) -> None:
        """place: HOST:PORT; port 0 takes a free one. Raises UsageError where it cannot listen there."""
        host, _, port = place.rpartition(":")
        try:
            self._server = _Server(host.strip("[]"), int(port))
        except OSError as e:
            raise UsageError(f"Metrics cannot be served at {place}: {e.strerror or e}") from e
        name = f"[{host.strip('[]')}]" if ":" in host else host
        self.url = f"http://{name}:{self._server.server_address[1]}"
        self._thread: threading.Thread | None = None

    def start(self, pages: Answers) -> None:
        """Answer requests from ``pages``, in threads."""
        self._server.pages = pages
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="jobq-metrics", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Close the port. Calling this twice, or without start, is harmless."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    pages: Answers

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._places = threading.BoundedSemaphore(AT_A_TIME)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of this host's name, which may wait for a name server."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: the other side has gone away, or is too slow."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE
    server_version, sys_version = "jobq", ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        try:
            reply = self.server.pages.get(self.path, self.headers.get("Accept", ""))
            status, kind, body = reply.status, reply.type, reply.body
        except Exception as e:
            log.error("GET %s failed: %s: %s", ascii(self.path[:100]), type(e).__name__, e)
            status, kind, body = 500, "text/plain", b"this could not be answered; the log says why\n"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing for a request: a probe comes every few seconds."""
