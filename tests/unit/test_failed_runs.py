"""How runs that did not return are counted, in a child and in the store, by cause."""

from __future__ import annotations

import fakeredis
import pytest

from jobqueue.protocol import keys
from jobqueue.protocol.protocol import Protocol
from jobqueue.workers.running.error_text import one_line
from jobqueue.workers.running.failed_runs import LONGEST, STOPPED, FailedRuns
from jobqueue.workers.running.limits import time_limit_error
from jobqueue.workers.running.task_meter import Usage

OWNER = "w:0.1"


@pytest.fixture
def client() -> fakeredis.FakeRedis:
    client = fakeredis.FakeRedis()
    client.sadd(keys.OWNERS, OWNER)
    return client


def send(client: fakeredis.FakeRedis, failed: dict[str, int]) -> dict[bytes, bytes]:
    Protocol(client).cycle(OWNER, "w", ["default"], [], 1, 1, failed=failed)
    return client.hgetall(keys.DEATHS)  # type: ignore[return-value]


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (ValueError("bad"), "failed:ValueError"),
        (KeyError(), "failed:KeyError"),
        (NoText(), "failed:NoText"),
        (time_limit_error(3.0)(), "failed:time_limit"),
        (type("X" * 300, (Exception,), {})(), f"failed:{'X' * LONGEST}"),
        (type("a:b", (Exception,), {})(), "failed:a"),
        (type("", (Exception,), {})(), "failed:other"),
    ],
)
def test_an_exception_is_counted_by_its_class(error: BaseException, end: str) -> None:
    failed = FailedRuns()
    failed.raised(one_line(error))
    assert failed.take() == {end: 1}


def test_counts_are_taken_once() -> None:
    usage = Usage(1)
    for _ in range(2):
        usage.failed.raised("ValueError: bad")
    usage.failed.add(STOPPED)
    assert usage.pending
    assert usage.failed.take() == {"failed:ValueError": 2, "stopped:stopped": 1}
    assert usage.failed.take() == {}
    assert not usage.pending


def test_switched_off_nothing_is_counted() -> None:
    usage = Usage(1, on=False)
    usage.failed.raised("ValueError: bad")
    assert not usage.pending


def test_the_store_adds_them_up(client: fakeredis.FakeRedis) -> None:
    send(client, {"failed:ValueError": 2, "stopped:stopped": 1})
    assert send(client, {"failed:ValueError": 3}) == {b"run:failed:ValueError": b"5", b"run:stopped:stopped": b"1"}


def test_user_made_classes_do_not_fill_the_store(client: fakeredis.FakeRedis) -> None:
    found = send(client, {f"failed:E{n}": 1 for n in range(400)})
    assert len(found) == 301
    assert found[b"run:failed:other"] == b"100"
    assert send(client, {"failed:E1": 1})[b"run:failed:E1"] == b"2"


def test_a_key_of_another_type_does_not_stop_a_cycle(client: fakeredis.FakeRedis) -> None:
    client.set(keys.DEATHS, "mine")
    Protocol(client).enqueue("default", [("a", {"status": "queued", "data": "[]"})])
    cycle = Protocol(client).cycle(OWNER, "w", ["default"], [], 1, 1, failed={"failed:ValueError": 1})
    assert [job.id for job in cycle.jobs] == ["a"]
