"""The entry that wakes the collector ends its wait, and its key is deleted, even if the entry is added late."""

from __future__ import annotations

import base64
import os
import signal
import threading
import zlib
from typing import Any

import pytest
import redis
from helpers import Server, eventually

from jobqueue.errors import BrokenWorkers, JobFailed
from jobqueue.executor.collector import Collector
from jobqueue.executor.futures import JobFuture
from jobqueue.serializers import Auto
from jobqueue.store.open import Store, open_store


class Home:
    """An executor without any data."""

    def cancel(self, futures: Any) -> None:
        pass

    def has_started(self, future: JobFuture) -> bool:
        return False


class SlowPipeline:
    """A pipeline whose commands are sent only when the test allows it."""

    def __init__(self, pipe: Any, may: threading.Event) -> None:
        self._pipe, self._may = pipe, may

    def __enter__(self) -> SlowPipeline:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pipe.reset()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)

    def execute(self) -> Any:
        assert self._may.wait(20)
        return self._pipe.execute()


class SlowClient:
    """A client whose pipelines are slow. asked: a pipeline was made."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.asked, self.may = threading.Event(), threading.Event()

    def pipeline(self, **options: Any) -> SlowPipeline:
        self.asked.set()
        return SlowPipeline(self._client.pipeline(**options), self.may)

    def delete(self, *names: str) -> int:
        return int(self._client.delete(*names))


def started(store: Store, client: Any) -> Collector:
    collector = Collector(store, client, Auto.loads, lambda future: None, lambda: None, lambda: None)
    collector.thread.start()
    return collector


def waits(store: redis.Redis) -> bool:
    return bool(store.info("clients")["blocked_clients"])


def test_a_wake_entry_that_is_added_after_the_thread_ended_is_deleted(server: Server, store: redis.Redis) -> None:
    client = SlowClient(store)
    collector = started(open_store(server.url), client)
    future = JobFuture("a", "q", Home())
    client.may.set()  # the thread may be in its wait before this rings, and then it does ring
    with collector.open_for_more():
        collector.add([future])
    eventually(lambda: waits(store))
    client.may.clear()
    client.asked.clear()
    collector.close()
    ringer = threading.Thread(target=collector.forget, args=[[future]])
    ringer.start()
    assert client.asked.wait(20)
    collector.thread.join(20)  # its wait ends by itself after a second
    assert not collector.thread.is_alive()
    client.may.set()
    ringer.join(20)
    assert store.keys("*bell*") == []


def test_ctrl_c_does_not_cut_short_the_wait_for_the_thread(server: Server, store: redis.Redis) -> None:
    """The thread is waited for until it ends, although Thread.join of Python 3.11 and 3.12 would return early."""
    last: list[str] = []
    may = threading.Event()

    def end() -> None:
        assert may.wait(20)
        last.append("ended")

    collector = Collector(open_store(server.url), store, Auto.loads, lambda f: None, lambda: None, end)
    collector.thread.start()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it may come before the wait
            threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()
            collector.join()
    finally:
        signal.signal(signal.SIGINT, handler)
    collector.close()
    threading.Timer(0.1, may.set).start()
    collector.join()
    assert last == ["ended"]


def test_if_the_thread_fails_all_futures_get_the_error(server: Server) -> None:
    """Whatever the error is, the futures end with it, and so do later ones."""
    with open_store(server.url) as store:
        client = store.client()

        def fails(_future: JobFuture) -> None:
            raise ZeroDivisionError("a mistake of ours")

        collector = Collector(store, client, Auto.loads, fails, lambda: None, lambda: None)
        collector.thread.start()
        first, second = JobFuture("a", "q", Home()), JobFuture("b", "q", Home())
        with collector.open_for_more():
            collector.add([first, second])
        collector.forget([first])
        error = second.exception(timeout=30)
        assert isinstance(error, BrokenWorkers)
        assert "ZeroDivisionError: a mistake of ours" in str(error)
        collector.join()
        with pytest.raises(BrokenWorkers), collector.open_for_more():
            pass
        late = JobFuture("c", "q", Home())
        collector.add([late])
        assert isinstance(late.exception(timeout=30), BrokenWorkers)
        client.close()


class Exits(Exception):
    def __init__(self, text: str) -> None:
        raise SystemExit(5)


def result(store: redis.Redis, job_id: str, kind: int, **fields: str) -> None:
    store.hset(f"rq:job:{job_id}", "status", "finished" if kind == 1 else "failed")
    store.xadd(f"rq:results:{job_id}", {"type": kind, **fields})


def coded(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode())).decode()


def test_exceptions_of_user_code_in_the_thread_affect_no_other_future(server: Server, store: redis.Redis) -> None:
    """Such code runs when an exception is rebuilt, a result is decoded, or a callback is called."""

    def loads(data: bytes) -> Any:
        if data == b"exits":
            raise SystemExit(5)
        return data.decode()

    def interrupts(_future: Any) -> None:
        raise KeyboardInterrupt

    text = f"Traceback (most recent call last):\n  File\n{__name__}.Exits: x"
    with open_store(server.url) as opened:
        collector = Collector(opened, store, loads, lambda future: None, lambda: None, lambda: None)
        collector.thread.start()
        made, read, called, other = (JobFuture(name, "q", Home()) for name in ("made", "read", "called", "other"))
        called.add_done_callback(interrupts)
        result(store, "made", 2, exc_string=coded(text))
        result(store, "read", 1, return_value=base64.b64encode(b"exits").decode())
        result(store, "called", 1, return_value=base64.b64encode(b"c").decode())
        with collector.open_for_more():
            collector.add([made, read, called])
        assert isinstance(made.exception(timeout=30), JobFailed)
        assert "SystemExit" in str(read.exception(timeout=30))
        assert called.result(timeout=30) == "c"
        result(store, "other", 1, return_value=base64.b64encode(b"o").decode())
        with collector.open_for_more():
            collector.add([other])
        assert other.result(timeout=30) == "o"
        collector.close()
        collector.join()
