"""Download and scrape over the network, within limits; every failure is one sentence (net.FetchFailed).

A download's file is ``JOBQ_DOWNLOAD_DIR/HASH-NAME``, where HASH is of the URL and NAME the harmless part of its path.
Two jobs with the same URL write two temporary files, and the last rename wins.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urldefrag, urljoin, urlsplit

import httpcore2
import httpx2
from bs4.dammit import UnicodeDammit

from jobqueue.tasks.client import CONNECT_TIMEOUT, READ_TIMEOUT, REDIRECTS, client, time_limit
from jobqueue.tasks.net import BadUrl, FetchFailed, HttpError, TookTooLong, TooLarge
from jobqueue.tasks.page import start_tags

PAGE_LIMIT = 5_000_000  # bytes of HTML
CHUNK = 65_536
DECODABLE = ("", "identity", "gzip", "deflate")  # encodings whose expansion is bounded; requests ask for identity


def download_to_disk(url: str, max_bytes: int | None, timeout: float) -> dict[str, Any]:
    """Do `jobqueue.tasks.download`: stream, hash, rename."""
    limit = _byte_limit(max_bytes)
    directory = Path(os.environ.get("JOBQ_DOWNLOAD_DIR") or "downloads").absolute()
    with _answer(url, timeout) as answer, _part_file(directory) as (file, part):
        sha256, size = hashlib.sha256(), 0
        for chunk in _limited(answer, answer.iter_raw(CHUNK), limit, url):
            file.write(chunk)
            sha256.update(chunk)
            size += len(chunk)
        file.close()
        path = directory / file_name(url)
        os.replace(part, path)
    return {"url": url, "status": answer.status_code, "bytes": size, "sha256": sha256.hexdigest(), "path": str(path)}


def read_page(url: str, timeout: float) -> dict[str, Any]:
    """Do `jobqueue.tasks.scrape`: read at most PAGE_LIMIT bytes and find the title and the links."""
    with _answer(url, timeout) as answer:
        kind = answer.headers.get("content-type", "text/html").split(";")[0].strip().lower()
        if not (kind.startswith("text/") or "html" in kind):
            raise FetchFailed(f"{url} is {kind}, not an HTML page.")
        if answer.headers.get("content-encoding", "").lower() not in DECODABLE:
            raise FetchFailed(f"{url} came in an encoding that was not asked for.")
        page = b"".join(_limited(answer, answer.iter_bytes(CHUNK), PAGE_LIMIT, url))
        title, links = parse_page(page, str(answer.url), answer.charset_encoding)
    return {"url": url, "title": title, "links": links}


def parse_page(page: bytes, url: str, charset: str | None = None) -> tuple[str | None, list[str]]:
    """Return (title, links) of a page at ``url``. charset: what the server declared; the page itself may declare one
    too."""
    text = UnicodeDammit(page, [charset] if charset else [], is_html=True).unicode_markup or ""
    title, base, hrefs = "", "", []
    for tag in start_tags(text):
        href = tag.attributes.get("href")
        if tag.name == "title" and not title:
            title = " ".join(unescape(tag.text).split())
        elif href is not None and tag.name in ("a", "area"):
            hrefs.append(href)
        elif href is not None and tag.name == "base":
            base = base or _join(url, href) or ""
    links = (_join(base or url, href) for href in hrefs)
    return title or None, list(dict.fromkeys(link for link in links if link))


def file_name(url: str) -> str:
    """Return a file name that is unique for the URL and cannot leave the directory: hash, then the path's last part."""
    plain = urldefrag(url).url
    last = urlsplit(plain).path.rstrip("/").rpartition("/")[2]
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", last).strip("._-")[-80:]
    return hashlib.sha256(plain.encode(errors="replace")).hexdigest()[:16] + ("-" + readable if readable else "")


# -- steps ---------------------------------------------------------------------------------------------------------


@contextmanager
def _answer(url: str, timeout: float) -> Iterator[httpx2.Response]:
    """GET the URL and yield the response when it is 2xx, with its headers read; turn errors here and while reading into
    sentences."""
    if not (isinstance(url, str) and re.match(r"https?://[^/]", url, re.IGNORECASE)):
        raise BadUrl(f"{url!r} is not an http or https address.")
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
        raise ValueError(f"The timeout is a number of seconds above zero, not {timeout!r}.")
    deadline = time.monotonic() + timeout
    try:
        with time_limit(deadline), client().stream("GET", url) as answer:
            if not answer.is_success:
                raise HttpError(f"{url} answered {answer.status_code} {answer.reason_phrase}".rstrip() + ".")
            yield answer
    except httpx2.TooManyRedirects:
        raise FetchFailed(f"{url} redirects more than {REDIRECTS} times.") from None
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpcore2.UnsupportedProtocol) as e:
        raise BadUrl(f"{url!r} is not an http or https address: {e}") from None
    except (TookTooLong, httpcore2.TimeoutException) as e:
        if time.monotonic() >= deadline:
            raise TookTooLong(f"{url} was not read within {timeout:g} seconds.") from None
        what = (
            f"connect within {CONNECT_TIMEOUT:g}"
            if isinstance(e, httpcore2.ConnectTimeout)
            else f"send anything for {READ_TIMEOUT:g}"
        )
        raise TookTooLong(f"The server of {url} did not {what} seconds.") from None
    except (httpx2.HTTPError, httpcore2.NetworkError, httpcore2.ProtocolError) as e:
        raise FetchFailed(f"{url} could not be read: {e or type(e).__name__}.") from None


def _limited(answer: httpx2.Response, chunks: Iterator[bytes], limit: int, url: str) -> Iterator[bytes]:
    """Yield the chunks; raise TooLarge when they exceed the limit, or when the announced length does."""
    announced = answer.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise TooLarge(f"{url} has {int(announced):,} bytes, more than the limit of {limit:,}.")
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"{url} has more bytes than the limit of {limit:,}.")
        yield chunk


@contextmanager
def _part_file(directory: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Yield a new file with a unique name; delete it at the end unless it was renamed."""
    directory.mkdir(parents=True, exist_ok=True)
    part = directory / f".{uuid.uuid4().hex}.part"
    try:
        with part.open("xb") as file:
            yield file, part
    finally:
        part.unlink(missing_ok=True)  # missing when it was renamed, which is success


def _byte_limit(max_bytes: int | None) -> int:
    """Return the smaller of the worker's limit and the job's own."""
    text = os.environ.get("JOBQ_DOWNLOAD_MAX_MB", "100")
    try:
        limit = int(float(text) * 1_000_000)
    except (ValueError, OverflowError):
        limit = -1
    if limit < 0:
        raise FetchFailed(f"JOBQ_DOWNLOAD_MAX_MB of this worker is {text!r}, which is not a number of megabytes.")
    if max_bytes is None:
        return limit
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 0:
        raise ValueError(f"max_bytes is a whole number of bytes, not {max_bytes!r}.")
    return min(limit, max_bytes)


def _join(base: str, href: str) -> str | None:
    """Return href as an absolute http(s) address, or None for anything else (mailto:, javascript:, a broken
    address)."""
    try:
        link = urljoin(base, href.strip())
        parts = urlsplit(link)
    except ValueError:
        return None
    return link if parts.scheme in ("http", "https") and parts.netloc else None
