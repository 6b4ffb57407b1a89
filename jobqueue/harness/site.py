"""Serve a small web site on the loopback: pages and files to read, and servers that behave badly (see ``handler``).

``Site`` serves from threads of this process. ``spawn_site`` starts a process for it, so that it does not compete with
the caller for the GIL; that process ends when its stdin closes, so it never outlives the caller.

    python -m jobqueue.harness.site --host 0.0.0.0 --port 8000 --latency 0.05
"""

from __future__ import annotations

import argparse
import hashlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from jobqueue.errors import JobqError
from jobqueue.harness.articles import ARTICLES
from jobqueue.harness.handler import FILES, Server, file_body


@dataclass(frozen=True)
class Page:
    url: str
    title: str  # with white space collapsed


@dataclass(frozen=True)
class File:
    url: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Contents:
    """The pages and files of a running site. url: the index, with a slash at its end."""

    url: str
    pages: list[Page]
    files: list[File]


def contents(url: str) -> Contents:
    pages = [Page(f"{url}articles/{a.slug}.html", " ".join(a.title.split())) for a in ARTICLES]
    bodies = {name: file_body(name) for name in FILES}
    files = [File(f"{url}files/{name}", len(b), hashlib.sha256(b).hexdigest()) for name, b in bodies.items()]
    return Contents(url, [Page(url, "Threads and processes"), *pages], files)


class Site:
    """The site in threads of this process: ``with Site() as site: site.url, site.pages, site.files``."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, latency: float = 0.0) -> None:
        self._server = Server((host, port), latency)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="jobq-site", daemon=True)
        found = contents(f"http://{host}:{self._server.server_port}/")
        self.url, self.pages, self.files = found.url, found.pages, found.files

    def __enter__(self) -> Site:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def contents(self) -> Contents:
        return Contents(self.url, self.pages, self.files)


# -- as a process of its own ---------------------------------------------------------------------------------------


@contextmanager
def spawn_site(latency: float = 0.0) -> Iterator[Contents]:
    """Run the site in a process of its own on the loopback and yield its contents; the process is killed at the end."""
    command = [sys.executable, "-P", "-m", "jobqueue.harness.site", "--latency", str(latency), "--until-stdin-closes"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdin
    assert process.stdout
    try:
        line = process.stdout.readline()
        if not line:
            raise JobqError("The loopback site did not start.")
        said = json.loads(line)
        pages, files = [Page(**p) for p in said["pages"]], [File(**f) for f in said["files"]]
        yield Contents(said["url"], pages, files)
    finally:
        process.kill()
        process.stdin.close()
        process.stdout.close()
        process.wait()


def main() -> None:
    """Serve until stopped. The first line on stdout describes the site, as JSON for ``spawn_site``."""
    parser = argparse.ArgumentParser(prog="python -m jobqueue.harness.site", description="The loopback site of jobq.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--until-stdin-closes", action="store_true")
    args = parser.parse_args()
    try:
        with Site(args.host, args.port, args.latency) as site:
            if args.until_stdin_closes:
                print(json.dumps(asdict(site.contents())), flush=True)
                sys.stdin.buffer.read()
            else:
                print(f"{len(site.pages)} pages and {len(site.files)} files at {site.url}", flush=True)
                threading.Event().wait()
    except KeyboardInterrupt:
        pass
    except (OSError, socket.gaierror) as e:
        sys.exit(f"The site cannot listen on {args.host}:{args.port}: {e.strerror}.")


if __name__ == "__main__":
    main()
