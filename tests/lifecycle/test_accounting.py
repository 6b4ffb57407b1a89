"""What real workers record of each task's cost: every way in which a run can end is counted, and no command is
added."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
import rq
from conftest import Start
from helpers import Server, eventually, submit
from rq import Callback

from jobqueue.insight.usage import Record, read_usage
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.store.connection import client

WIDTH = {"process": 1, "thread": 4}


def recorded(store: redis.Redis) -> dict[str, Record]:
    """Return for each task its only record."""
    return {usage.task: usage.records[0] for usage in read_usage(store) if len(usage.records) == 1}


def test_every_way_in_which_a_run_can_end_is_counted(
    queue: Queue, store: redis.Redis, start: Start, mode: str, tmp_path: Path
) -> None:
    submit(queue, "samples.ok", [(n,) for n in range(100)])
    submit(queue, "samples.fail", [("no",)] * 7)
    queue.enqueue("samples.fail_times", str(tmp_path / "a"), 2, retry=rq.Retry(max=3))
    queue.enqueue("samples.coroutine", 1, on_success=Callback("samples.on_success"))
    queue.enqueue("samples.nap", 5.0, job_timeout=1)
    parent = queue.enqueue("samples.big", 200_000)  # larger than a page of the journal
    queue.enqueue("samples.where", depends_on=parent)
    assert start("-n", str(WIDTH[mode]), "--burst", mode=mode).wait() == 0
    found = recorded(store)
    runs = {task.removeprefix("samples."): (record.runs, record.errors) for task, record in found.items()}
    assert runs == {
        "ok": (100, 0),
        "fail": (7, 7),
        "fail_times": (3, 2),
        "coroutine": (1, 0),
        "nap": (1, 1),
        "big": (1, 0),
        "where": (1, 0),
    }
    assert all((record.mode, record.width) == (mode, WIDTH[mode]) for record in found.values())
    assert found["samples.nap"].wall_s >= 0.9
    assert all(sum(record.histogram) == record.runs for record in found.values())
    if mode == "thread":
        assert all(r.memory_growth_mb is None and r.memory_peak_mb is None for r in found.values())


def test_the_record_of_a_worker_is_stored_while_it_is_idle(queue: Queue, store: redis.Redis, start: Start) -> None:
    start("-n", "1")
    queue.enqueue("samples.ok", 1, on_success=Callback("samples.on_success")).result(30)
    eventually(lambda: recorded(store).get("samples.ok"))


def test_a_key_of_a_wrong_type_in_place_of_the_records_does_no_harm(
    queue: Queue, store: redis.Redis, start: Start, mode: str
) -> None:
    store.set(keys.USAGE, "mine")
    store.rpush(keys.usage("samples.ok"), "mine")
    jobs = submit(queue, "samples.ok", [(n,) for n in range(50)])
    assert start("-n", "2", "--burst", mode=mode).wait() == 0
    assert [job.result(10) for job in jobs] == list(range(50))


# -- the price -------------------------------------------------------------------------------------------------------

JOBS = 2000


def commands_of(server: Server, work: Callable[[], object]) -> Counter[str]:
    """Return the commands that clients send while ``work`` runs, without those inside scripts."""
    heard: Counter[str] = Counter()
    listener = client(server.address)
    listening = threading.Event()

    def listen() -> None:
        with listener.monitor() as monitor:
            listening.set()
            for command in monitor.listen():
                if command["command"].startswith("ECHO over"):
                    return
                if command["client_type"] != "lua":
                    heard[command["command"].split(" ", 1)[0].upper()] += 1

    thread = threading.Thread(target=listen)
    thread.start()
    listening.wait(20)
    work()
    server.client.echo("over")
    thread.join(60)
    listener.close()
    return heard


def test_accounting_adds_no_command_per_job(server: Server, queue: Queue, start: Start, mode: str) -> None:
    """Accounting adds no command per job. (The number of CYCLEs of a run varies, by a few per hundred jobs.)"""
    counts = {}
    for accounting in ("0", "1"):
        submit(queue, "samples.ok", [(n,) for n in range(JOBS)])
        work = lambda: start("-n", "2", "--burst", mode=mode, JOBQ_ACCOUNTING=accounting).wait()  # noqa: B023, E731
        counts[accounting] = commands_of(server, work)
        assert bool(read_usage(server.client)) is (accounting == "1")
    assert counts["1"]["EVALSHA"] < counts["0"]["EVALSHA"] + JOBS / 10
    assert counts["1"].total() < JOBS / 2


@pytest.mark.parametrize("slots", [1, 16])
def test_waiting_for_the_gil_is_estimated_only_with_several_threads(
    queue: Queue, store: redis.Redis, start: Start, slots: int
) -> None:
    submit(queue, "samples.nap", [(0.01,)] * 100)  # so that some slot runs a second job: first runs are recorded apart
    assert start("-n", str(slots), "--burst", mode="thread").wait() == 0
    assert (recorded(store)["samples.nap"].gil_wait is None) is (slots == 1)
