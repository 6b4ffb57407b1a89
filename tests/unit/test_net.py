"""The check of addresses: which ones a job may reach, and that no request avoids it."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator

import pytest

from jobqueue import tasks
from jobqueue.harness.site import Site
from jobqueue.tasks import client, net
from jobqueue.tasks.net import AddressRefused, BadUrl, FetchFailed, is_public


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture(autouse=True)
def _closed_gate(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[None]:
    monkeypatch.delenv("JOBQ_ALLOW_PRIVATE", raising=False)
    monkeypatch.setenv("JOBQ_DOWNLOAD_DIR", str(tmp_path))
    yield
    if client._client:
        client._client.close()
    client._forget()


REFUSED = (
    "127.0.0.1 127.8.8.8 0.0.0.0 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 "
    "100.64.0.1 100.127.255.255 "
    "192.0.2.1 198.18.0.1 198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 "
    ":: ::1 fe80::1 fe80::1%2 fc00::1 fd12::1 fec0::1 ff02::1 2001:db8::1 100::1 ::127.0.0.1 ::8.8.8.8 "
    "::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 2002:7f00:1:: 2002:0a00:0001:: 64:ff9b::10.0.0.1 "
    "64:ff9b:1::8.8.8.8 4000::1 "
)

ALLOWED = (
    "8.8.8.8 1.1.1.1 172.15.0.1 172.32.0.1 100.63.255.255 100.128.0.1 223.255.255.254 "
    "2606:4700:4700::1111 2a00:1450:4001:80b::200e ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2002:0808:0808:: "
)


@pytest.mark.parametrize("address", REFUSED.split())
def test_private_addresses_are_refused(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ALLOWED.split())
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("task", [tasks.download, tasks.scrape])
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "127.1",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "user:pass@127.0.0.1",
        "10.255.255.1",
        "169.254.169.254",
    ],
)
def test_a_private_host_is_refused_in_every_spelling(site: Site, host: str, task) -> None:
    port = site.url.rsplit(":", 1)[1].rstrip("/")
    with pytest.raises(AddressRefused, match=r"not on the public internet; .* --allow-private\.$"):
        task(f"http://{host}:{port}/")


def names(monkeypatch: pytest.MonkeyPatch, **table: list[str]) -> list[str]:
    """Let getaddrinfo answer from a table (names without dots); return the list of requested names."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host, port, *args, **kwargs):
        if host not in table:
            return real(host, port, *args, **kwargs)
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in table[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_a_name_that_leads_to_a_private_address_is_refused(monkeypatch) -> None:
    names(monkeypatch, innocent=["10.0.0.7"])
    with pytest.raises(AddressRefused, match=r"^innocent is the address 10\.0\.0\.7, "):
        tasks.download("http://innocent/")


def test_one_private_address_among_public_ones_refuses_the_name(monkeypatch) -> None:
    names(monkeypatch, mixed=["8.8.8.8", "127.0.0.1"])
    with pytest.raises(AddressRefused, match=r"^mixed is the address 127\.0\.0\.1, "):
        tasks.download("http://mixed/")


def test_the_name_is_asked_once_and_the_judged_address_is_connected_to(site: Site, monkeypatch) -> None:
    """DNS rebinding is not possible: a second answer, which could be another address, is never requested."""
    monkeypatch.setattr(net, "is_public", lambda address: True)
    asked = names(monkeypatch, rebind=["127.0.0.1"])
    port = site.url.rsplit(":", 1)[1]
    assert tasks.scrape(f"http://rebind:{port}")["title"] == "Threads and processes"
    assert asked == ["rebind"]


def test_the_next_address_is_tried_when_one_does_not_answer(site: Site, monkeypatch) -> None:
    monkeypatch.setenv("JOBQ_ALLOW_PRIVATE", "1")
    names(monkeypatch, two=["127.0.0.2" if os.uname().sysname == "Linux" else "127.0.0.1", "127.0.0.1"])
    port = site.url.rsplit(":", 1)[1]
    assert tasks.scrape(f"http://two:{port}")["title"] == "Threads and processes"


@pytest.mark.parametrize(("path", "address"), [("redirect/private", r"10\.255\.255\.1"), ("redirect/loopback", "x")])
def test_a_redirect_is_checked_like_the_first_address(site: Site, monkeypatch, path: str, address: str) -> None:
    """The first hop is let through as if it were public; the second is checked."""
    public = ipaddress.ip_address("127.0.0.1") if "private" in path else ipaddress.ip_address("127.0.0.9")
    judged = is_public
    monkeypatch.setattr(net, "is_public", lambda a: a == public or judged(a))
    if "private" in path:
        url = f"{site.url}{path}"
    else:
        url = first_hop_elsewhere(site, monkeypatch, path)
        address = r"127\.0\.0\.1"
    with pytest.raises(AddressRefused, match=address):
        tasks.scrape(url)


def first_hop_elsewhere(site: Site, monkeypatch, path: str) -> str:
    """Let a name have the checked address 127.0.0.9, and connect it to the site."""
    names(monkeypatch, outside=["127.0.0.9"])
    real = client.httpcore2.SyncBackend.connect_tcp

    def connect_tcp(self, host, *args):
        return real(self, "127.0.0.1" if host == "127.0.0.9" else host, *args)

    monkeypatch.setattr(client.httpcore2.SyncBackend, "connect_tcp", connect_tcp)
    return site.url.replace("127.0.0.1", "outside") + path


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://h/x", "gopher://h/", "unix:/tmp/s", "//h/x", "/etc/passwd", "", "http://", 5, None],
)
@pytest.mark.parametrize("task", [tasks.download, tasks.scrape])
def test_only_http(url, task) -> None:
    with pytest.raises(BadUrl) as e:
        task(url)
    assert str(e.value).startswith(f"{url!r} is not an http or https address")


@pytest.mark.parametrize("url", ["http://0177.0.0.1/", "http://[::1", "http://h:99999/", "http://h:x/", "http://\0/"])
def test_a_broken_url_is_one_sentence(url: str) -> None:
    with pytest.raises(FetchFailed) as e:
        tasks.download(url)
    assert "\n" not in str(e.value)


def test_a_name_that_does_not_exist_is_named() -> None:
    with pytest.raises(FetchFailed, match=r"^The host 'nowhere\.invalid' was not found: "):
        tasks.download("http://nowhere.invalid/")


def test_no_proxy_of_the_environment_is_used(site: Site, monkeypatch) -> None:
    monkeypatch.setenv("JOBQ_ALLOW_PRIVATE", "1")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert tasks.scrape(site.url)["title"] == "Threads and processes"


def test_private_addresses_are_allowed_only_by_the_value_1(site: Site, monkeypatch) -> None:
    for value in ("", "0", "true", "yes"):
        monkeypatch.setenv("JOBQ_ALLOW_PRIVATE", value)
        with pytest.raises(AddressRefused):
            tasks.scrape(site.url)
    monkeypatch.setenv("JOBQ_ALLOW_PRIVATE", "1")
    assert tasks.scrape(site.url)["links"]
