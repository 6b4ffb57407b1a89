"""The built-in tasks, on the loopback site."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import jobqueue.tasks as tasks
from jobqueue.harness.site import Site
from jobqueue.tasks import client, cpu, fetch
from jobqueue.tasks.fetch import file_name, parse_page
from jobqueue.tasks.net import BadUrl, FetchFailed, HttpError, TookTooLong, TooLarge


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture(autouse=True)
def _downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("JOBQ_ALLOW_PRIVATE", "1")
    monkeypatch.setenv("JOBQ_DOWNLOAD_DIR", str(tmp_path / "files"))
    yield
    if client._client:
        client._client.close()
    client._forget()


def left_in(tmp_path: Path) -> list[str]:
    return [str(p) for p in tmp_path.rglob("*") if p.is_file()]


# -- names ---------------------------------------------------------------------------------------------------------


def test_every_builtin_has_the_import_path_that_rq_uses() -> None:
    assert set(tasks.BUILTIN) == {"square", "heavy", "sleep", "download", "scrape"}
    for name, path in tasks.BUILTIN.items():
        function = getattr(tasks, name)
        assert path == f"{function.__module__}.{function.__qualname__}" == f"jobqueue.tasks.{name}"


def test_importing_the_tasks_is_cheap() -> None:
    code = "import sys, jobqueue.tasks; print([m for m in ('httpx2', 'bs4', 'ssl', 'rich') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


# -- square, heavy, sleep ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "result"), [(3, 9), (-4, 16), (0, 0), (1.5, 2.25), (10**20, 10**40)])
def test_square(n: float, result: float) -> None:
    assert tasks.square(n) == result


@pytest.mark.parametrize("task", [tasks.square, tasks.heavy, tasks.sleep])
@pytest.mark.parametrize("value", ["abc", None, [1], True])
def test_a_value_that_is_no_number_is_refused_by_name(task, value) -> None:
    with pytest.raises(TypeError, match=f"^{task.__name__} takes a number, not "):
        task(value)


@pytest.mark.parametrize("task", [tasks.heavy, tasks.sleep])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_a_number_that_would_take_for_ever_is_refused(task, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{task.__name__} takes a number of "):
        task(value)


def jump(steps: int) -> int:
    """Return what cpu.burn returns after this number of steps from zero: the geometric series, by squaring."""
    a, c, x, m = cpu.A, cpu.C, 0, cpu.M
    while steps:
        if steps & 1:
            x = (a * x + c) % m
        a, c, steps = a * a % m, (a + 1) * c % m, steps >> 1
    return x >> 32


@pytest.mark.parametrize("n", [0, 1, 2.5, 7])
def test_heavy_does_the_work_that_it_states(n: float) -> None:
    assert tasks.heavy(n) == jump(int(n * cpu.STEPS_PER_MS))


def test_sleep_waits_and_can_be_interrupted_between_slices() -> None:
    began = time.monotonic()
    assert tasks.sleep(0.12) == 0.12
    assert time.monotonic() - began >= 0.12
    assert tasks.sleep(0) == 0


def test_count_here_is_one_counter_for_all_threads() -> None:
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(tasks.count_here, [0.001] * 20))
    counts = [s["count"] for s in seen]
    assert sorted(counts) == list(range(min(counts), min(counts) + 20))
    assert len({s["pid"] for s in seen}) == 1


# -- download ------------------------------------------------------------------------------------------------------


def test_download_gives_size_hash_and_file(site: Site, tmp_path: Path) -> None:
    for file in site.files:
        result = tasks.download(file.url)
        assert result == {
            "url": file.url,
            "status": 200,
            "bytes": file.bytes,
            "sha256": file.sha256,
            "path": result["path"],
        }
        assert hashlib.sha256(Path(result["path"]).read_bytes()).hexdigest() == file.sha256
    assert len(left_in(tmp_path)) == len(site.files)


def test_two_downloads_of_the_same_url_do_not_mix(site: Site, tmp_path: Path) -> None:
    file = site.files[-1]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(tasks.download, [file.url] * 24))
    assert {r["sha256"] for r in results} == {file.sha256}
    assert left_in(tmp_path) == [results[0]["path"]]
    assert hashlib.sha256(Path(results[0]["path"]).read_bytes()).hexdigest() == file.sha256


def test_threads_share_one_client_and_its_connections(site: Site) -> None:
    clients = set()

    def one(url: str) -> None:
        tasks.download(url)
        clients.add(client.client())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, [site.files[0].url] * 40))
    assert len(clients) == 1
    transport = clients.pop()._transport
    assert 1 <= len(transport._pool.connections) <= 4


def test_a_redirect_is_followed_and_the_url_stays_the_one_asked_for(site: Site) -> None:
    result = tasks.download(f"{site.url}redirect/page")
    assert result["url"] == f"{site.url}redirect/page"
    assert result["status"] == 200
    assert b"Threads: many workers" in Path(result["path"]).read_bytes()


@pytest.mark.parametrize(
    ("path", "error", "says"),
    [
        ("nothing", HttpError, "answered 404 Not Found."),
        ("redirect/loop", FetchFailed, "redirects more than 5 times."),
        ("redirect/scheme", BadUrl, "/etc/hostname' is not an http or https address."),
        ("short", FetchFailed, "could not be read: "),
        ("huge", TooLarge, "has 10,000,000,000 bytes, more than the limit of 100,000,000."),
    ],
)
def test_a_download_that_fails_says_why_and_leaves_no_file(site: Site, tmp_path: Path, path, error, says) -> None:
    with pytest.raises(error) as e:
        tasks.download(site.url + path)
    assert says in str(e.value)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("path", ["endless", "files/clip.bin"])
def test_a_download_larger_than_the_limit_leaves_no_file(site: Site, tmp_path: Path, path: str, monkeypatch) -> None:
    """This holds with and without an announced length, for the worker's limit and for a smaller one of the job."""
    monkeypatch.setenv("JOBQ_DOWNLOAD_MAX_MB", "0.5")
    with pytest.raises(TooLarge, match=r"the limit of 500,000\.$"):
        tasks.download(site.url + path, max_bytes=10**9)
    with pytest.raises(TooLarge, match=r"the limit of 1,000\.$"):
        tasks.download(site.url + path, max_bytes=1000)
    assert left_in(tmp_path) == []


def test_a_file_of_exactly_the_limit_is_not_too_large(site: Site) -> None:
    assert tasks.download(site.files[0].url, max_bytes=site.files[0].bytes)["bytes"] == site.files[0].bytes


def test_the_time_limit_holds_while_bytes_keep_arriving(site: Site, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(TookTooLong, match=r"/slow was not read within 0\.5 seconds\.$"):
        tasks.download(f"{site.url}slow", timeout=0.5)
    assert time.monotonic() - began < 30  # of more than a day
    assert left_in(tmp_path) == []


def test_a_server_that_is_gone_is_named() -> None:
    with Site() as gone:
        url = gone.url
    with pytest.raises(FetchFailed, match=r"^http://127\.0\.0\.1:\d+/ could not be read: .*refused"):
        tasks.download(url)


@pytest.mark.parametrize("kwargs", [{"timeout": 0}, {"timeout": "x"}, {"max_bytes": -1}, {"max_bytes": "1"}])
def test_invalid_limits_are_refused_by_name(site: Site, kwargs) -> None:
    with pytest.raises(ValueError, match=r"is a (whole )?number of"):
        tasks.download(site.url, **kwargs)


def test_an_invalid_limit_of_the_worker_is_refused_by_name(site: Site, monkeypatch) -> None:
    monkeypatch.setenv("JOBQ_DOWNLOAD_MAX_MB", "lots")
    with pytest.raises(FetchFailed, match="JOBQ_DOWNLOAD_MAX_MB of this worker is 'lots'"):
        tasks.download(site.url)


def test_an_exception_thrown_into_the_thread_leaves_no_file(site: Site, tmp_path: Path, monkeypatch) -> None:
    """A time limit or a stop raises such an exception after some bytes were written."""

    class Stopped(BaseException):
        pass

    def after_one(answer, chunks, limit, url):
        yield next(chunks)
        raise Stopped

    monkeypatch.setattr(fetch, "_limited", after_one)
    with pytest.raises(Stopped):
        tasks.download(site.files[-1].url)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://h/../../etc/passwd",
        "http://h/a/..%2f..%2fetc%2fpasswd",
        "http://h/..",
        "http://h/",
        "http://h",
        "http://h/.hidden",
        "http://h/" + "x" * 5000 + ".tar.gz",
        "http://h/ü\0\n/b?q=/../../x#/../..",
    ],
)
def test_a_file_name_stays_in_its_directory(url: str) -> None:
    name = file_name(url)
    assert Path("d", name).resolve().parent == Path("d").resolve()
    assert name[0] not in ".-"
    assert len(name) < 120


def test_file_names_differ_for_different_urls() -> None:
    assert file_name("http://h/a?x=1") != file_name("http://h/a?x=2")
    assert file_name("http://h/a#1") == file_name("http://h/a#2")
    assert file_name("http://h/pics/cat.png").endswith("-cat.png")


# -- scrape --------------------------------------------------------------------------------------------------------


def test_scrape_reads_every_title_in_its_charset(site: Site) -> None:
    assert {p.url: tasks.scrape(p.url)["title"] for p in site.pages} == {p.url: p.title for p in site.pages}


def test_scrape_follows_redirects_for_relative_links_and_decodes_gzip(site: Site) -> None:
    via = tasks.scrape(f"{site.url}redirect/page")
    direct = tasks.scrape(f"{site.url}articles/threads.html")
    assert via["links"] == direct["links"]
    assert direct["links"] == [
        f"{site.url}articles/gil.html",
        f"{site.url}articles/shared-state.html",
        f"{site.url}articles/processes.html",
        site.url,
    ]
    assert tasks.scrape(f"{site.url}gzip")["title"] == direct["title"]


def test_links_are_absolute_unique_in_order_and_http() -> None:
    page = b"""<title> A &amp; &lt;b&gt;
      C </title><a href=b.html>1</a><a href='/b.html'>2</a><a href="mailto:x@y">3</a><a href="//other/x">4</a>
      <a>none</a><a href="b.html">5</a><a href="javascript:1">6</a><a href="https://h/?a=1&amp;b=2">7</a>
      <a href="http://[broken">8</a><map><area href="../up"></map><a href="data:text/html,x">9</a>
      <a href="#end">10</a>"""
    title, links = parse_page(page, "http://site/dir/a.html")
    assert title == "A & <b> C"
    assert links == [
        "http://site/dir/b.html",
        "http://site/b.html",
        "http://other/x",
        "https://h/?a=1&b=2",
        "http://site/up",
        "http://site/dir/a.html#end",
    ]


def test_base_moves_relative_links() -> None:
    assert parse_page(b"<base href='/x/'><a href=y>", "http://site/a") == (None, ["http://site/x/y"])


@pytest.mark.parametrize("page", [b"", b"<title></title>", b"<title> \n </title>", b"plain.txt", b"\xff\xfe\x00"])
def test_a_page_without_title_has_none(page: bytes) -> None:
    assert parse_page(page, "http://site/") == (None, [])


def test_scrape_refuses_content_that_is_no_page(site: Site) -> None:
    with pytest.raises(FetchFailed, match="is application/octet-stream, not an HTML page"):
        tasks.scrape(site.files[0].url)
    with pytest.raises(HttpError, match="answered 404 Not Found"):
        tasks.scrape(f"{site.url}articles/none.html")


def test_scrape_has_a_limit(site: Site, monkeypatch) -> None:
    monkeypatch.setattr(fetch, "PAGE_LIMIT", 100)
    with pytest.raises(TooLarge, match=r"more than the limit of 100\.$"):
        tasks.scrape(site.url)


def test_no_cookie_of_one_job_is_sent_for_the_next(site: Site) -> None:
    assert [tasks.scrape(f"{site.url}cookie")["title"] for _ in range(2)] == ["none", "none"]


def test_the_client_is_not_shared_with_a_forked_child(site: Site) -> None:
    """os.register_at_fork resets the client in the child; a lock that another thread held at the fork is replaced
    too."""
    before = client.client()
    held = client._client_lock
    with held:
        forgotten = threading.Thread(target=client._forget)
        forgotten.start()
        forgotten.join()
        assert client.client() is not before
    before.close()


UNCLOSED = ["</", "<!--", "<a ", '<a b="', "<![CDATA[", "<?", "<script>", "<title>", "<"]


@pytest.mark.timeout(100)
@pytest.mark.parametrize("tail", [b"", b">", b"--x>"])
def test_the_time_for_a_page_grows_linearly_with_its_length(tail: bytes) -> None:
    """Each of these pages took minutes when each search for an end went to the end of the page."""
    for text in UNCLOSED:
        assert parse_page((text * (1_000_000 // len(text))).encode() + tail, "http://site/")[1] == []


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ("<a href=x>", ["http://s/x"]),
        ('<A HREF = \'x y\' ><a class="b" href="?a=1&amp;b=2">', ["http://s/x y", "http://s/?a=1&b=2"]),
        ("<!-- <a href=no> --><a href=x>", ["http://s/x"]),
        ("<!--><a href=x>", ["http://s/x"]),
        ("<script>'<a href=no>'</script><style></style><a href=x>", ["http://s/x"]),
        ("<textarea><a href=no></textarea><title><a href=no></title><a href=x>", ["http://s/x"]),
        ("<a title='>' href=x><a href=y/><svg><a href=z /></svg>", ["http://s/x", "http://s/y/", "http://s/z"]),
        ("1 < 2 <3 </ a> <a href=x href=no>", ["http://s/x"]),
        ("<a href=x><a href='cut off", ["http://s/x"]),
        ("<a href=x><a href=cut", ["http://s/x"]),
        ("<!doctype html><?xml ?></p ><br/><a\nhref\n=\nx\n>", ["http://s/x"]),
        ("<a href=x", []),
        ("<script><a href=no>", []),
        ("<base><base href=/b/><base href=/c/><a href=x>", ["http://s/b/x"]),
    ],
)
def test_links_of_malformed_pages(page: str, found: list[str]) -> None:
    assert parse_page(page.encode(), "http://s/")[1] == found


def test_the_text_of_a_title_is_decoded() -> None:
    page = b"<svg></svg><TITLE lang=x> A &amp; <b>\n B </Title ><title>no</title>"
    assert parse_page(page, "http://s/")[0] == "A & <b> B"
    assert parse_page("<meta charset=latin-1><title>\u00e9</title>".encode("latin-1"), "http://s/")[0] == "\u00e9"
    assert parse_page("<title>\u00e9</title>".encode("utf-16"), "http://s/")[0] == "\u00e9"
    assert parse_page("<title>\u043f</title>".encode("koi8-r"), "http://s/", "koi8-r")[0] == "\u043f"
