"""Wrong keys and values in the store, with real workers: no other job is lost, delayed or run twice because of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis
import rq
from conftest import Start
from helpers import Server, Tree, eventually
from rq import Callback

from jobqueue.job import Job
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.protocol.bounds import LONGEST
from jobqueue.protocol.protocol import Protocol
from jobqueue.serializers import Auto

QUEUES = ("default", "second", "third")


def status(store: redis.Redis, job_id: str) -> str:
    return (store.hget(keys.job(job_id), "status") or b"gone").decode()


def failed_of(store: redis.Redis, job_id: str) -> str:
    return str(Job.fetch(job_id, store, Auto).latest_result().exc_string)


def test_keys_of_a_wrong_type_among_jobs(store: redis.Redis, start: Start, mode: str) -> None:
    first, second = Queue("default", store), Queue("second", store)
    before = [first.enqueue("samples.nap", 0.2).id, *(first.enqueue("samples.ok", n).id for n in range(2))]
    store.set(keys.job("wrong"), "x")
    store.rpush(keys.queue("default"), "wrong")
    store.sadd(keys.job("set"), "x")
    store.rpush(keys.queue("default"), "set", b"\xff\xfe", "partly")
    store.hset(keys.job("partly"), "meta", "{}")
    data = json.dumps(["samples.ok", None, [5], {}])
    store.hset(keys.job("").encode() + b"\xff\xfe", mapping={"data": data, "status": "queued", "origin": "default"})
    store.set(keys.queue("third"), "no list")
    for key in (keys.registry("finished", "default"), keys.registry("wip", "default"), keys.results(before[0])):
        store.set(key, "no registry")
    store.lpush(keys.executions(before[1]), "no zset")
    after = [first.enqueue("samples.ok", n).id for n in range(3)] + [second.enqueue("samples.ok", 1).id]
    tree = start(*QUEUES, "-n", "2", mode=mode)
    eventually(lambda: all(status(store, job_id) == "finished" for job_id in before + after))
    eventually(lambda: [status(store, job_id) for job_id in ("wrong", "set", "partly")] == ["failed"] * 3)
    assert "has no data" in failed_of(store, "wrong")
    eventually(lambda: store.zcard(keys.registry("finished", "default")) == 7)  # one id was not UTF-8
    third = Queue("third", store).enqueue("samples.ok", 3)
    eventually(lambda: status(store, third.id) == "finished")
    eventually(lambda: tree.log.count(keys.job("wrong")) >= 1)
    eventually(lambda: "is not valid text" in tree.log)
    assert tree.log.count(f"the key {keys.job('wrong')!r} was of a wrong type") == 1
    assert "Traceback" not in tree.log
    tree.stop()
    store.delete(keys.executions(before[1]))  # nothing had to be written to that key


def test_keys_of_a_wrong_type_where_rqs_own_code_writes(store: redis.Redis, start: Start, mode: str) -> None:
    queue = Queue(connection=store)
    called = queue.enqueue("samples.ok", 1, on_success=Callback("samples.on_success")).id
    fails = queue.enqueue("samples.fail", "no", on_failure=Callback("samples.on_failure")).id
    parent = queue.enqueue("samples.ok", 2).id
    child = queue.enqueue("samples.ok", 3, depends_on=parent).id
    again = queue.enqueue("samples.fail", "no", retry=rq.Retry(max=1)).id
    for key in (*map(keys.results, (called, fails, parent, again)), keys.registry("finished", "default")):
        store.set(key, "what is this?")
    store.rpush(keys.registry("failed", "default"), "what is this?")
    tree = start("-n", "1", mode=mode)
    eventually(lambda: [status(store, job_id) for job_id in (called, parent, child)] == ["finished"] * 3, 60)
    eventually(lambda: [status(store, job_id) for job_id in (fails, again)] == ["failed"] * 2, 60)
    failed: Any = store.zrange(keys.registry("failed", "default"), 0, -1)
    assert sorted(job_id.decode() for job_id in failed) == sorted([fails, again])
    assert "Traceback (most" not in tree.log
    tree.stop()


@pytest.mark.spread("mode")
@pytest.mark.parametrize("junk", ["1e18", str(2**63 - 1), "nan", "soon", "-1e300"])
def test_numbers_of_other_producers(store: redis.Redis, start: Start, mode: str, junk: str) -> None:
    """Numbers as RQ or an older release may have written them into the hash of a job."""
    queue = Queue(connection=store)
    plain = [queue.enqueue("samples.ok", n).id for n in range(2)]
    by_rq = queue.enqueue("samples.ok", 1, on_success=Callback("samples.on_success"), retry=rq.Retry(max=2)).id
    fails = queue.enqueue("samples.fail", "no").id
    slow = queue.enqueue("samples.nap", 0.3).id
    ids = [*plain, by_rq, slow, fails]
    for job_id in ids:
        names = (
            "timeout",
            "result_ttl",
            "failure_ttl",
            "ttl",
            "success_callback_timeout",
            "jobq_crashes",
            "jobq_order",
        )
        store.hset(keys.job(job_id), mapping=dict.fromkeys(names, junk))
        store.hset(keys.job(job_id), mapping={"retry_intervals": junk, "created_at": junk})
    tree = start("-n", "2", "--burst", mode=mode)
    assert tree.wait() == 0
    assert [status(store, job_id) for job_id in ids] == ["finished"] * 4 + ["failed"]
    finished: Any = store.zrange(keys.registry("finished", "default"), 0, -1)
    assert sorted(job_id.decode() for job_id in finished) == sorted(ids[:4])
    assert store.zrange(keys.registry("failed", "default"), 0, -1) == [fails.encode()]
    assert all(-1 <= store.ttl(keys.job(job_id)) <= LONGEST for job_id in ids)
    assert "Traceback" not in tree.log


def test_keys_of_a_wrong_type_with_rqs_worker_classes(server: Server, store: redis.Redis, tmp_path: Path) -> None:
    queue = Queue(connection=store)
    ids = [queue.enqueue("samples.ok", n).id for n in range(3)]
    store.set(keys.job("wrong"), "x")
    store.linsert(keys.queue("default"), "before", ids[1], "wrong")
    store.hset(keys.job(ids[2]), mapping={"result_ttl": "1e18", "timeout": "nan"})
    for name in ("SimpleWorker", "Worker"):
        extra = queue.enqueue("samples.ok", 7).id
        argv = ["--url", server.url, "--worker-class", f"jobqueue.rq.{name}", "-S", "json", "--burst"]
        tree = Tree(server.url, tmp_path, argv, {}, command=("rq.cli", "worker"))
        try:
            assert tree.wait() == 0, tree.log
        finally:
            tree.destroy()
        assert [status(store, job_id) for job_id in (*ids, extra)] == ["finished"] * 4
        assert status(store, "wrong") == "failed"


@pytest.mark.parametrize("place", ["thread", "process", "Worker", "SimpleWorker"])
def test_intervals_that_no_calendar_has_room_for(
    start: Start, start_rq: Start, queue: Queue, store: redis.Redis, place: str
) -> None:
    """RQ's Retry and Repeat accept them: the job is tried again, in so long or at once."""
    jobs = {
        (name, text): queue.enqueue(f"samples.{function}", "no", **{name: number})
        for text in ("[NaN]", "[-5]", "[]", "[Infinity]", "[1e300]")
        for name, function, number in (("retry", "fail", rq.Retry(1)), ("repeat", "ok", rq.Repeat(1)))
    }
    for (name, text), job in jobs.items():
        store.hset(keys.job(job.id), f"{name}_intervals", text)
    is_ours = place in ("thread", "process")
    tree: Tree = start(mode=place) if is_ours else start_rq(place, "-S", "json", lease="60")
    soon, left = {"retry": "failed", "repeat": "finished"}, {"retry": "retries_left", "repeat": "repeats_left"}
    for (name, text), job in jobs.items():
        later = text in ("[Infinity]", "[1e300]")
        eventually(lambda i=job.id, s="scheduled" if later else soon[name]: status(store, i) == s, 30)  # type: ignore[misc]
        eventually(lambda i=job.id, n=name: store.hget(keys.job(i), left[n]) == b"0")  # type: ignore[misc]
    assert queue.enqueue("samples.ok", 3).result(30) == 3
    assert tree.stop() == 0


def test_a_rescue_of_jobs_with_invalid_fields(store: redis.Redis, start: Start, mode: str) -> None:
    """A worker is killed while its jobs run; meanwhile invalid values are written into their hashes."""
    queue = Queue(connection=store)
    ids = [queue.enqueue("samples.nap", 1.5).id for _ in range(2)]
    tree = start("-n", "2", mode=mode, JOBQ_LEASE="1")
    eventually(lambda: all(status(store, job_id) == "started" for job_id in ids))
    tree.kill()
    for job_id in ids:
        store.hset(
            keys.job(job_id), mapping={"jobq_crashes": "abc", "ttl": "1e18", "failure_ttl": "nan", "jobq_order": "x"}
        )
    store.set(keys.back("default"), "no zset")
    second = start("-n", "2", mode=mode, JOBQ_LEASE="1")
    eventually(lambda: all(status(store, job_id) == "finished" for job_id in ids), 60)
    second.stop()
    assert Protocol(store).newest_claim() > 0


def test_a_stop_beside_keys_of_a_wrong_type(start: Start, queue: Queue, store: redis.Redis) -> None:
    """The log names what cannot be written there, and the worker's end counts as a success."""
    tree = start("-n", "1")
    assert queue.enqueue("samples.ok", 1).result(timeout=30) == 1
    planted = [keys.WORKERS, keys.workers_of("default"), keys.ENDED, keys.PAUSED, keys.USAGE, keys.ASIDE]
    store.delete(*planted)
    for key in planted:
        store.xadd(key, {"what": "is this?"})
    assert tree.stop(30) == 0, tree.log
    assert "Traceback" not in tree.log
    store.delete(*planted)
