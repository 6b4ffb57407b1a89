"""The loopback site serves the stated pages and files, and its process does not outlive the one that started it."""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import subprocess
import sys
import time
import urllib.request
from urllib.parse import urljoin, urlsplit

import psutil
import pytest
from helpers import eventually

from jobqueue.harness.site import Site, spawn_site
from jobqueue.tasks.fetch import parse_page


def get(url: str) -> tuple[bytes, str | None]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read(), answer.headers.get_content_charset()


def test_the_files_are_what_they_are_said_to_be() -> None:
    with Site() as site:
        assert [f.bytes for f in site.files] == sorted({f.bytes for f in site.files})
        for file in site.files:
            body, _ = get(file.url)
            assert (len(body), hashlib.sha256(body).hexdigest()) == (file.bytes, file.sha256)


def test_all_pages_and_files_are_reached_from_the_index() -> None:
    with Site() as site:
        found, todo = set(), [site.url]
        while todo:
            url = todo.pop()
            if url in found or not url.startswith(site.url):
                continue
            found.add(url)
            if "/files/" not in url:
                body, charset = get(url)
                todo += parse_page(body, url, charset)[1]
        missing = {p.url for p in site.pages} | {f.url for f in site.files}
        assert missing - found == set()


def test_the_titles_are_what_a_reader_sees() -> None:
    with Site() as site:
        assert len(site.pages) == 13
        for page in site.pages:
            body, charset = get(page.url)
            assert parse_page(body, page.url, charset)[0] == page.title


def test_a_connection_is_kept_for_many_requests() -> None:
    with Site() as site:
        connection = http.client.HTTPConnection(urlsplit(site.url).netloc, timeout=10)
        connection.connect()
        ours = connection.sock.getsockname()
        for page in site.pages:
            connection.request("GET", urlsplit(page.url).path)
            assert connection.getresponse().read()
            assert connection.sock.getsockname() == ours
        connection.close()


def test_the_site_waits_for_its_latency() -> None:
    with Site(latency=0.1) as site:
        began = time.monotonic()
        get(site.url)
        assert time.monotonic() - began >= 0.1


def test_a_site_stops_although_clients_hang_on_endless_bodies() -> None:
    with Site() as site:
        connection = http.client.HTTPConnection(urlsplit(site.url).netloc, timeout=10)
        connection.request("GET", "/endless")
        assert connection.getresponse().read(10) == b"x" * 10
    connection.close()


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def site_processes() -> list[int]:
    mine = psutil.Process().children(recursive=True)
    return [p.pid for p in mine if "jobqueue.harness.site" in command(p)]


def command(process: psutil.Process) -> list[str]:
    """Return the command of a process; "" for one that ends at this moment, such as another test's child."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def test_spawn_site_serves_and_leaves_no_process() -> None:
    with spawn_site() as site:
        [pid] = site_processes()
        body, charset = get(site.pages[1].url)
        assert parse_page(body, site.url, charset)[0] == site.pages[1].title
        assert hashlib.sha256(get(site.files[0].url)[0]).hexdigest() == site.files[0].sha256
    assert gone(pid)


def test_the_process_leaves_when_its_parent_is_killed() -> None:
    code = (
        "import json, time\nfrom jobqueue.harness.site import spawn_site\n"
        "with spawn_site() as site:\n    print(site.url, flush=True)\n    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout
        url = parent.stdout.readline().strip()
        [site] = psutil.Process(parent.pid).children()
        assert get(url)[0]
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
    eventually(lambda: gone(site.pid))


def test_the_command_says_where_it_listens_and_stops_on_ctrl_c() -> None:
    command = [sys.executable, "-m", "jobqueue.harness.site", "--latency", "0.01"]
    site = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said = site.stdout.readline()
        assert said.startswith("13 pages and 8 files at http://127.0.0.1:")
        assert get(urljoin(said.split()[-1], "/articles/gil.html"))[0]
    finally:
        site.send_signal(signal.SIGINT)
        _, errors = site.communicate(timeout=10)
    assert errors == ""
    assert site.returncode == 0


def test_a_port_in_use_is_one_line() -> None:
    with Site() as site:
        port = str(urlsplit(site.url).port)
        command = [sys.executable, "-m", "jobqueue.harness.site", "--port", port]
        run = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert run.returncode == 1
    assert run.stderr == f"The site cannot listen on 127.0.0.1:{port}: Address already in use.\n"


@pytest.mark.parametrize("path", ["nothing", "articles/none.html", "files/none.bin", "files/../../etc/passwd"])
def test_anything_else_is_404(path: str) -> None:
    with Site() as site, pytest.raises(urllib.error.HTTPError, match="404") as raised:
        get(site.url + path)
    raised.value.close()  # the exception is the answer too, and Python 3.14 warns if it is not closed
