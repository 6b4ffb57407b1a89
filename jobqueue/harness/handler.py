"""Answer the requests to the loopback site: articles, files, and every kind of server that behaves badly.  /
the index; links to all articles and files /articles/NAME.html  twelve articles in several charsets /files/NAME
files of fixed content and different sizes /redirect/page       to an article        /redirect/loop      to itself
/redirect/loopback   to 127.0.0.1         /redirect/private   to 10.255.255.1      /redirect/scheme  to file: /endless
a body without length and without end       /huge   announces ten gigabytes /slow                a byte every 0.1 s
/short              announces more than it sends /gzip                a compressed page    /cookie             sets one,
and shows the cookies of the request anything else        404"""

from __future__ import annotations

import gzip
import random
import threading
import time
from functools import cache
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from jobqueue.harness.articles import ARTICLES, Article

FILES = {  # name → kilobytes
    "note.bin": 16,
    "letter.bin": 48,
    "icon.bin": 96,
    "page.bin": 160,
    "song.bin": 256,
    "photo.bin": 512,
    "scan.bin": 1024,
    "clip.bin": 2048,
}


@cache
def file_body(name: str) -> bytes:
    return random.Random(name).randbytes(FILES[name] * 1024)


def _index() -> bytes:
    articles = "".join(f'<li><a href="/articles/{a.slug}.html">{escape(a.title)}</a></li>\n' for a in ARTICLES)
    files = "".join(f'<li><a href="files/{name}">{name}</a> ({kb} kB)</li>\n' for name, kb in FILES.items())
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Threads and processes</title></head>\n'
        f"<body><h1>Threads and processes</h1>\n<ul>\n{articles}</ul>\n<h2>Files</h2><ul>\n{files}</ul></body></html>\n"
    ).encode()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], latency: float) -> None:
        self.latency = latency
        self.closing = threading.Event()
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: clients of this site disconnect in the middle of an answer on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        time.sleep(self.server.latency)
        path = self.path.partition("?")[0]
        folder, _, name = path.removeprefix("/").partition("/")
        article = next((a for a in ARTICLES if folder == "articles" and name == f"{a.slug}.html"), None)
        if path == "/":
            self._send(200, _index(), "text/html; charset=utf-8")
        elif article:
            self._send(200, article.html(), _content_type(article))
        elif folder == "files" and name in FILES:
            self._send(200, file_body(name), "application/octet-stream")
        elif (special := _SPECIAL.get(path)) is not None:
            special(self)
        else:
            self._send(404, b"<title>Not found</title>There is no such page.\n", "text/html; charset=utf-8")

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def _send(self, status: int, body: bytes, content_type: str, **headers: str) -> None:
        self._head(status, {"Content-Type": content_type, "Content-Length": str(len(body)), **headers})
        self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _redirect(self, location: str) -> None:
        self._send(302, b"", "text/plain", Location=location)

    def _drip(self, headers: dict[str, str], chunk: bytes, pause: float) -> None:
        """Send chunks until the client or the server leaves."""
        self.close_connection = True
        self._head(200, {"Content-Type": "application/octet-stream", "Connection": "close", **headers})
        while not self.server.closing.wait(pause):
            self.wfile.write(chunk)

    def _short(self) -> None:
        self.close_connection = True
        self._head(200, {"Content-Type": "application/octet-stream", "Content-Length": "1000"})
        self.wfile.write(b"x" * 10)

    def _gzip(self) -> None:
        self._send(200, gzip.compress(ARTICLES[0].html()), "text/html; charset=utf-8", Content_Encoding="gzip")

    def _cookie(self) -> None:
        page = f"<title>{escape(self.headers.get('Cookie', 'none'))}</title>".encode()
        self._send(200, page, "text/html; charset=utf-8", Set_Cookie="seen=yes; Path=/")


_SPECIAL: dict[str, Any] = {
    "/redirect/page": lambda h: h._redirect("/articles/threads.html"),
    "/redirect/loop": lambda h: h._redirect("/redirect/loop"),
    "/redirect/loopback": lambda h: h._redirect(f"http://127.0.0.1:{h.server.server_port}/"),
    "/redirect/private": lambda h: h._redirect("http://10.255.255.1/"),
    "/redirect/scheme": lambda h: h._redirect("file:///etc/hostname"),
    "/endless": lambda h: h._drip({}, b"x" * 65536, 0),
    "/huge": lambda h: h._drip({"Content-Length": str(10**10)}, b"x" * 65536, 0),
    "/slow": lambda h: h._drip({"Content-Length": "1000000"}, b"x", 0.1),
    "/short": _Handler._short,
    "/gzip": _Handler._gzip,
    "/cookie": _Handler._cookie,
}


def _content_type(article: Article) -> str:
    return "text/html" if article.said_by == "page" else f"text/html; charset={article.charset}"
