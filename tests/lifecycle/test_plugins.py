"""Plugins in running workers: what is called where, and what becomes of jobs when a plugin raises, hangs or kills its
process."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import redis
from conftest import Start
from helpers import Tree, eventually, lines, status
from rq import Retry
from rq.job import Job

from jobqueue import JobExecutor
from jobqueue.admin.control import stop
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.serializers import Auto


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file into which the plugins write what they see."""
    path = tmp_path / "seen"
    monkeypatch.setenv("SEEN", str(path))
    return path


def plugin(name: str) -> tuple[str, str]:
    return "--plugin", f"samples_plugins:{name}"


def ends(seen: Path) -> dict[str, list[str]]:
    """Return by job how its runs have ended: the kind, the class of the error, whether its process died, the task."""
    found: dict[str, list[str]] = {}
    for line in lines(seen):
        if line.startswith("ended "):
            _, job_id, kind, error, was_killed, task, *_ = line.split()
            found.setdefault(job_id, []).append(f"{kind} {error} {was_killed} {task}")
    return found


def events(seen: Path) -> list[str]:
    return [line.split()[0] for line in lines(seen)]


def test_what_is_called_when(start: Start, queue: Queue, seen: Path, mode: str) -> None:
    good, bad = queue.enqueue("samples.ok", 5), queue.enqueue("samples.fail", "x y")
    tree = start(*plugin("Recorder"), "-b", "-n", "2", mode=mode)
    assert tree.wait() == 0
    assert good.result(1) == 5
    assert ends(seen) == {
        good.id: ["finished - False samples.ok"],
        bad.id: ["failed ValueError False samples.fail"],
    }
    happened = events(seen)
    assert happened[-1] == "worker_stop"
    assert happened.count("worker_start") == happened.count("worker_stop") == 1
    processes = 1 if mode == "thread" else 2
    assert happened.count("process_start") == happened.count("process_stop") == processes
    assert happened.count("thread_start") == happened.count("thread_stop") == 2
    assert f"before {bad.id} samples.fail ['x y'] {{}} default" in lines(seen)
    assert f"worker_start {tree.pid}" in lines(seen)


def test_children_that_import_for_themselves_have_plugins_too(start: Start, queue: Queue, seen: Path) -> None:
    job = queue.enqueue("samples.ok", 5)
    tree = start(*plugin("Recorder"), "-b", "-n", "1", serve=("samples", "samples_processes"))
    assert tree.wait() == 0
    assert ends(seen) == {job.id: ["finished - False samples.ok"]}


def test_retries_stops_and_shutdowns_are_told_apart(
    start: Start, queue: Queue, store: redis.Redis, seen: Path, mode: str
) -> None:
    tree = start(*plugin("Recorder"), "-n", "2", "--grace", "0", mode=mode)
    retried = queue.enqueue("samples.fail", retry=Retry(1))
    eventually(lambda: status(store, retried.id) == "failed")
    stopped = queue.enqueue("samples.nap", 60)
    eventually(lambda: status(store, stopped.id) == "started")
    assert stop(store, stopped.id, 20)
    given_back = queue.enqueue("samples.nap", 60)
    eventually(lambda: status(store, given_back.id) == "started")
    assert tree.stop() == 0
    found = ends(seen)
    # in any order: each is reported after its outcome, and another process may run the retry at once
    assert sorted(found[retried.id]) == [
        "failed ValueError False samples.fail",
        "retried ValueError False samples.fail",
    ]
    assert found[stopped.id] == ["stopped - False samples.nap"]
    assert found[given_back.id] == ["interrupted - False samples.nap"]
    assert status(store, given_back.id) == "queued"
    store.flushall()


def test_a_death_is_reported_by_the_process_that_records_it(
    start: Start, queue: Queue, store: redis.Redis, seen: Path, mode: str
) -> None:
    job = queue.enqueue("samples.kill_itself", str(seen.with_name("died")))
    tree = start(*plugin("Recorder"), "-b", "-n", "1", mode=mode)
    assert tree.wait() == 0
    assert ends(seen) == {job.id: ["failed - True samples.kill_itself"]}
    (line,) = [line for line in lines(seen) if line.startswith("ended")]
    assert "was killed by SIGKILL" in line
    result = Job.fetch(job.id, store, Auto).latest_result()
    assert result is not None
    assert "was killed by SIGKILL" in str(result.exc_string)


def test_a_job_past_its_limit_that_does_not_react_is_reported(
    start: Start, queue: Queue, seen: Path, mode: str
) -> None:
    job = queue.enqueue("samples.nap", 60, job_timeout=1)
    tree = start(*plugin("Recorder"), "-b", "-n", "2", mode=mode)
    assert tree.wait() == 0
    (end,) = ends(seen)[job.id]
    assert end.split()[0] == "failed"


def test_a_death_leaves_the_same_record_with_and_without_plugins(
    start: Start, queue: Queue, store: redis.Redis, seen: Path
) -> None:
    plain, told = queue.enqueue("samples.kill_itself", str(seen.with_name("died"))), None
    assert start("-b", "-n", "1", "--on-crash", "fail").wait() == 0
    told = queue.enqueue("samples.kill_itself", str(seen.with_name("died")))
    assert start(*plugin("Recorder"), "-b", "-n", "1", "--on-crash", "fail").wait() == 0
    assert told.id in ends(seen)
    records = [{name for name, value in store.hgetall(keys.job(job.id)).items() if value} for job in (plain, told)]
    assert records[0] ^ records[1] <= {b"last_heartbeat", b"worker_name"}
    assert {store.ttl(keys.job(job.id)) > 0 for job in (plain, told)} == {True}
    assert store.zcard(keys.registry("failed", "default")) == 2


def test_around_job_is_part_of_the_job(start: Start, queue: Queue, store: redis.Redis, mode: str) -> None:
    job = queue.enqueue("samples.ok", 21)
    assert start(*plugin("Doubler"), "-b", "-n", "1", mode=mode).wait() == 0
    assert job.result(1) == 42
    refused = queue.enqueue("samples.ok", 21)
    assert start(*plugin("Refuser"), "-b", "-n", "1", mode=mode).wait() == 0
    assert status(store, refused.id) == "failed"


@pytest.mark.parametrize("name", ["Raiser", "Leaver", "Breaker"])
def test_one_that_raises_in_each_method_changes_nothing(
    start: Start, queue: Queue, store: redis.Redis, seen: Path, mode: str, name: str
) -> None:
    jobs = [queue.enqueue("samples.ok", n) for n in range(20)]
    dies = queue.enqueue("samples.kill_itself", str(seen.with_name("died")))
    tree = start(*plugin(name), "-b", "-n", "2", mode=mode)
    assert tree.wait() == 0
    assert [job.result(1) for job in jobs] == list(range(20))
    assert status(store, dies.id) == "failed"
    methods = ("worker_start", "worker_stop", "process_start", "process_stop", "thread_start", "thread_stop")
    for method in (*methods, "job_ended"):
        assert f"plugin samples_plugins:{name}: {method}" in tree.log, method


def test_copies_that_one_forks_end_where_its_method_does(start: Start, queue: Queue, mode: str) -> None:
    """No job runs twice, no process is left."""
    jobs = [queue.enqueue("samples.ok", n) for n in range(20)]
    tree = start(*plugin("Forker"), "-b", "-n", "2", mode=mode)
    assert tree.wait() == 0
    assert [job.result(1) for job in jobs] == list(range(20))
    assert tree.done == 20
    eventually(lambda: not tree.processes())


def test_one_that_kills_its_process_before_it_can_run_jobs_ends_the_worker(
    start: Start, queue: Queue, store: redis.Redis, mode: str
) -> None:
    job = queue.enqueue("samples.ok", 1)
    tree = start(*plugin("Killer"), "-n", "1", mode=mode, KILL_IN="process_start", KILL_BY="6")
    assert tree.wait() == 2
    last = tree.log.strip().splitlines()[-1]
    assert "was killed by SIGABRT in process_start of the plugin samples_plugins:Killer" in last
    assert status(store, job.id) == "queued"
    store.flushall()


@pytest.mark.spread("mode")
@pytest.mark.parametrize("method", ["process_start", "thread_start", "around_job", "job_ended", "process_stop"])
def test_one_that_kills_its_process_once_loses_no_job(
    start: Start, queue: Queue, store: redis.Redis, mode: str, method: str, tmp_path: Path
) -> None:
    jobs = [queue.enqueue("samples.ok", n) for n in range(10)]
    tree = start(*plugin("Killer"), "-b", "-n", "2", mode=mode, KILL_IN=method, ONCE=str(tmp_path / "once"))
    assert tree.wait() == 0
    assert [job.result(1) for job in jobs] == list(range(10))
    assert (tmp_path / "once").exists()
    counted = [store.hget(keys.job(job.id), "jobq_crashes") for job in jobs]
    beside = 1 if mode == "thread" else 0  # the job of the other thread may be taken for the cause
    assert len(list(filter(None, counted))) <= (1 if method == "around_job" else beside)


def test_one_that_hangs_in_process_start_is_named(start: Start, queue: Queue, mode: str) -> None:
    job = queue.enqueue("samples.ok", 1)
    tree = start(*plugin("Hanger"), "-b", "-n", "1", mode=mode, HANG_IN="process_start", HANG_FOR="11")
    assert job.result(60) == 1
    assert tree.wait() == 0
    assert "does not run yet: process_start of the plugin samples_plugins:Hanger has not ended" in tree.log


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_that_hangs_for_ever_in_process_start_ends_the_worker(
    start: Start, queue: Queue, store: redis.Redis
) -> None:
    job = queue.enqueue("samples.ok", 1)
    tree = start(*plugin("Hanger"), "-n", "1", HANG_IN="process_start", HANG_FOR="60")
    assert tree.wait(200) == 2
    assert "process_start of the plugin samples_plugins:Hanger has not ended" in tree.log.strip().splitlines()[-1]
    assert status(store, job.id) == "queued"
    store.flushall()


@pytest.mark.slow
def test_one_that_hangs_behind_a_job_is_ended(start: Start, queue: Queue, mode: str) -> None:
    tree = start(*plugin("Hanger"), "-n", "2", mode=mode, HANG_IN="job_ended", HANG_FOR="40")
    assert queue.enqueue("samples.ok", 1).result(9) == 1  # it is recorded before the plugin is called
    said = "job_ended of job" if mode == "process" else "its thread is written off"  # it sleeps in C
    eventually(lambda: said in tree.log)
    assert queue.enqueue("samples.ok", 2).result(9) == 2
    assert tree.stop() == 0


def test_one_that_hangs_at_the_end_does_not_keep_the_worker(start: Start, queue: Queue, mode: str) -> None:
    queue.enqueue("samples.ok", 1)
    tree = start(*plugin("Hanger"), "-b", "-n", "1", mode=mode, HANG_IN="process_stop", HANG_FOR="60")
    began = time.monotonic()
    assert tree.wait() == 0
    assert time.monotonic() - began < 40
    assert "plugin samples_plugins:Hanger: process_stop has not ended after 5 s" in tree.log


def test_one_that_hangs_in_the_supervisor_keeps_no_job_waiting(start: Start, queue: Queue) -> None:
    job = queue.enqueue("samples.ok", 1)
    tree = start(*plugin("Hanger"), "-n", "1", HANG_IN="worker_start", HANG_FOR="60")
    assert job.result(20) == 1
    assert tree.stop() == 0
    assert "a plugin's worker_start or worker_stop has not ended after 5 s" in tree.log


def test_one_that_cannot_be_loaded_ends_the_worker(start: Start, store: redis.Redis) -> None:
    tree = start(*plugin("Nope"), "-n", "1")
    assert tree.wait() == 2
    assert "--plugin samples_plugins:Nope: samples_plugins has no Nope." in tree.log.strip().splitlines()[-1]
    checked = start(*plugin("Nope"), "--check")
    assert checked.wait() == 2


def test_a_field_of_the_producer_is_there_where_the_job_runs(
    start: Start, store: redis.Redis, seen: Path, mode: str
) -> None:
    queue = Queue(connection=store, plugins=["samples_plugins:Tagger"])
    queue.enqueue("samples.ok", 1)
    queue.enqueue_many("samples.ok", range(3))
    assert start(*plugin("Tagger"), "-b", "-n", "1", mode=mode).wait() == 0
    assert lines(seen) == ["tag a tag"] * 4


@pytest.mark.parametrize("place", ["SimpleWorker", "Worker"])
def test_rqs_worker_classes_use_them(start_rq: Start, queue: Queue, store: redis.Redis, seen: Path, place: str) -> None:
    good, bad = queue.enqueue("samples.ok", 5), queue.enqueue("samples.fail")
    retried = queue.enqueue("samples.fail", retry=Retry(1))
    flags = ("--burst", "-S", "jobqueue.serializers.Auto", "default")
    tree: Tree = start_rq(place, *flags, JOBQ_PLUGINS="samples_plugins:Recorder")
    assert tree.wait() == 0
    found = ends(seen)
    assert found[good.id] == ["finished - False samples.ok"]
    assert found[bad.id] == ["failed ValueError False samples.fail"]
    # in any order: each is reported after its outcome, and another process may run the retry at once
    assert sorted(found[retried.id]) == [
        "failed ValueError False samples.fail",
        "retried ValueError False samples.fail",
    ]
    happened = events(seen)
    once = ("worker_start", "process_start", "thread_start", "thread_stop", "process_stop", "worker_stop")
    assert [event for event in happened if event in once] == list(once)


def test_rqs_worker_reports_deaths(start_rq: Start, queue: Queue, seen: Path) -> None:
    job = queue.enqueue("samples.kill_itself", str(seen.with_name("died")))
    flags = ("--burst", "-S", "jobqueue.serializers.Auto", "default")
    tree: Tree = start_rq("Worker", *flags, JOBQ_PLUGINS="samples_plugins:Recorder")
    assert tree.wait() == 0
    assert ends(seen) == {job.id: ["failed - True samples.kill_itself"]}


def test_an_executors_own_workers_use_them(server: object, seen: Path, mode: str) -> None:
    url = server.url  # type: ignore[attr-defined]
    with JobExecutor(mode, 1, url=url, modules=["samples"], plugins=["samples_plugins:Doubler"]) as executor:
        assert executor.submit("samples:ok", 4).result(30) == 8


def test_a_stop_calls_them(start: Start, queue: Queue, seen: Path, mode: str) -> None:
    tree = start(*plugin("Recorder"), "-n", "1", mode=mode)
    assert queue.enqueue("samples.ok", 1).result(20) == 1
    eventually(lambda: "worker_start" in events(seen))  # in a thread of the supervisor that nothing waits for
    tree.send(signal.SIGTERM)
    assert tree.wait() == 0
    found = events(seen)
    assert found[-3:] == ["thread_stop", "process_stop", "worker_stop"], (found, tree.log)


@pytest.mark.parametrize("place", ["SimpleWorker", "Worker"])
def test_a_stop_while_rqs_worker_classes_import_plugins_is_not_lost(start_rq: Start, place: str) -> None:
    """RQ's handler raises in any line. RQ's own test of its worker pool waited for ever for such a worker."""
    tree: Tree = start_rq(place, "-S", "json", "default", JOBQ_PLUGINS="samples_stopping:Stopping")
    assert tree.wait() == 0


@pytest.mark.parametrize("place", ["SimpleWorker", "Worker"])
def test_one_that_hangs_in_rqs_worker_classes_is_ended(start_rq: Start, queue: Queue, place: str) -> None:
    job = queue.enqueue("samples.ok", 5)
    flags = ("--burst", "-S", "jobqueue.serializers.Auto", "default")
    tree: Tree = start_rq(place, *flags, JOBQ_PLUGINS="samples_plugins:Hanger", HANG_IN="process_start", HANG_FOR="40")
    assert tree.wait() == 0
    assert job.result(1) == 5
    assert "plugin samples_plugins:Hanger: process_start failed: JobTimeoutException" in tree.log
