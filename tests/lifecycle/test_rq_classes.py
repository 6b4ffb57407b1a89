"""``rq worker`` with our classes in place of RQ's: it does what RQ does, it loses no jobs, and a death costs one
job."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
import redis
import rq
import samples_rq
from helpers import ROOT, Server, Tree, eventually, lines, program_path
from rq.command import send_stop_job_command
from rq.exceptions import StopRequested
from rq.job import Job, Retry
from rq.rate_limit import RateLimit
from rq.registry import FailedJobRegistry, FinishedJobRegistry

from jobqueue.protocol import keys
from jobqueue.workers.rq_classes.worker import SimpleWorker

StartRQ = Callable[..., Tree]


@pytest.fixture(params=["SimpleWorker", "Worker"])
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def status(job: Job) -> str:
    return str(job.get_status(refresh=True).value)


def all_ended(store: redis.Redis, jobs: list[Job]) -> list[bytes]:
    """Return how each job ended; empty while one has not ended."""
    with store.pipeline(transaction=False) as pipe:
        for job in jobs:
            pipe.hget(keys.job(job.id), "status")
        found = pipe.execute()
    return found if {*found} <= {b"finished", b"failed"} else []


def owners(store: redis.Redis) -> set[bytes]:
    found: set[bytes] = store.smembers(keys.OWNERS)  # type: ignore[assignment]
    return found


def is_to_stop(store: redis.Redis) -> bool:
    """Wait until the worker takes no other job: it logs this after it has told its horse to stop."""
    return any(worker.shutdown_requested_date for worker in rq.Worker.all(connection=store))


def only(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return the horse, after RQ's maintenance has ended, which has a process of its own."""
    return processes if len(processes) == 1 else []


@pytest.mark.parametrize("whose", ["rq.worker", "jobqueue.rq"])
def test_a_custom_job_class(server: Server, store: redis.Redis, place: str, whose: str, tmp_path: Path) -> None:
    queue = samples_rq.OwnQueue(connection=store)
    tell = rq.Callback(samples_rq.tell)
    called = {"meta": {"user": "ann"}, "on_success": tell, "on_failure": tell}
    plain = queue.enqueue(samples_rq.whose)
    good = queue.enqueue(samples_rq.whose, **called)
    bad = queue.enqueue(samples_rq.whose_and_fail, **called)
    more = ["--url", server.url, "--worker-class", f"{whose}.{place}", "--job-class", "samples_rq.OwnJob", "--burst"]
    more += ["--queue-class", "samples_rq.OwnQueue", "--exception-handler", "samples_rq.handle_own"]
    tree = Tree(server.url, tmp_path, more, {}, command=("rq.cli", "worker"))
    try:
        assert tree.wait() == 0
    finally:
        tree.destroy()
    assert "RQ's own loop" not in tree.log
    assert (plain.return_value(), good.return_value()) == (["OwnJob", "nobody", 1], ["OwnJob", "ann", 1])
    assert store.lrange(samples_rq.told(good.id), 0, -1) == [b"called back ann"]
    assert sorted(store.lrange(samples_rq.told(bad.id), 0, -1)) == [b"called back ann", b"handled ann"]


def test_jobs_run_as_rqs_do(start_rq: StartRQ, place: str, store: redis.Redis) -> None:
    """Pickled arguments and results, any function, no flag; no key of jobq is left."""
    queue = rq.Queue(connection=store)
    jobs = [queue.enqueue("samples.ok", {n}) for n in range(200)]
    bad = queue.enqueue("samples.fail", "no")
    assert start_rq(place, "--burst").wait() == 0
    assert [job.return_value() for job in jobs] == [{n} for n in range(200)]
    assert status(bad) == "failed"
    assert "no" in (bad.latest_result().exc_string or "")
    assert not owners(store)
    assert not list(store.scan_iter("rq:jobq:own:*")) + list(store.scan_iter("rq:jobq:lease:*"))
    assert store.llen("rq:queue:default:intermediate") == 0


def test_a_job_that_takes_sigterm_does_not_keep_the_worker(
    start_rq: StartRQ, store: redis.Redis, tmp_path: Path
) -> None:
    """SIGTERM is the signal by which the parent asks its horse to stop."""
    queue = rq.Queue(connection=store)
    queue.enqueue("samples_rq.take_sigterm")
    running = queue.enqueue("samples.wait_for", str(tmp_path / "record"), 1, str(tmp_path / "gate"))
    last = queue.enqueue("samples.ok", 1)
    tree = start_rq("Worker")
    eventually(lambda: lines(tmp_path / "record"))
    os.kill(tree.pid, signal.SIGTERM)
    eventually(lambda: is_to_stop(store))
    (tmp_path / "gate").touch()
    assert tree.wait() == 0
    assert (status(running), status(last)) == ("finished", "queued")


@pytest.mark.parametrize(
    "callback",
    ["exit_in_callback", "cannot_find_in_callback", "confuse_the_store_in_callback"],
)
def test_an_exception_of_a_success_callback_fails_the_job(
    start_rq: StartRQ, place: str, store: redis.Redis, callback: str
) -> None:
    """The job fails once, also if the exception looks like an error of the store; as with RQ."""
    queue = rq.Queue(connection=store)
    job = queue.enqueue("samples.ok", 1, on_success=rq.Callback(f"samples_rq.{callback}"))
    after = queue.enqueue("samples.ok", 2)
    assert start_rq(place, "--burst").wait() == 0
    assert (status(job), status(after)) == ("failed", "finished")
    assert store.get(samples_rq.told(job.id)) == b"1"


def test_a_base_exception_fails_the_job(start_rq: StartRQ, place: str, store: redis.Redis) -> None:
    queue = rq.Queue(connection=store)
    job, after = queue.enqueue("samples_rq.cancel_a_part"), queue.enqueue("samples.ok", 2)
    assert start_rq(place, "--burst").wait() == 0
    assert (status(job), status(after)) == ("failed", "finished")
    assert "CancelledError" in (job.latest_result().exc_string or "")


def test_callbacks_see_attributes_that_the_job_set_on_itself(start_rq: StartRQ, place: str, store: redis.Redis) -> None:
    job = rq.Queue(connection=store).enqueue(
        "samples_rq.leave_things", 7, on_success=rq.Callback("samples_rq.find_things")
    )
    assert start_rq(place, "--burst").wait() == 0
    assert store.lrange(samples_rq.told(job.id), 0, -1) == [b"({'a': 7}, 'started', True)"]


def test_a_job_may_block_on_its_connection_for_long(start_rq: StartRQ, place: str, store: redis.Redis) -> None:
    job = rq.Queue(connection=store).enqueue("samples_rq.wait_long_for_nothing", 10.5)
    assert start_rq(place, "--burst").wait() == 0
    assert (status(job), job.return_value()) == ("finished", None)


def test_one_horse_runs_many_jobs(start_rq: StartRQ, store: redis.Redis) -> None:
    queue = rq.Queue(connection=store)
    jobs = [queue.enqueue(os.getpid) for _ in range(20)]
    tree = start_rq("Worker", "--burst")
    assert tree.wait() == 0
    assert len({job.return_value() for job in jobs}) == 1
    assert jobs[0].return_value() != tree.pid


def test_a_killed_worker_loses_no_job(start_rq: StartRQ, place: str, store: redis.Redis, tmp_path: Path) -> None:
    """Two queues, where RQ's worker loses the jobs that it has popped. The running job fails; all others run, once."""
    record = str(tmp_path / "record")
    queues = [rq.Queue(name, connection=store) for name in ("high", "low")]
    jobs = [queue.enqueue("samples.note", record, f"{queue.name} {n}") for n in range(1000) for queue in queues]
    for kill in range(3):
        tree = start_rq(place, "high", "low")
        eventually(lambda kill=kill: len(lines(record)) > 100 * (kill + 1))
        tree.kill()
    last = start_rq(place, "high", "low")
    ended = eventually(lambda: all_ended(store, jobs), 60, every=0.2)
    assert ended.count(b"failed") <= 3, "at most the one job that ran at each kill"
    eventually(lambda: len(owners(store)) == 1)
    assert len(set(lines(record))) >= len(jobs) - 3
    last.stop()


@pytest.mark.parametrize("how", ["leave_with_zero", "become_another_program"])
def test_a_job_that_ends_its_horse_with_exit_code_0(start_rq: StartRQ, store: redis.Redis, how: str) -> None:
    """The horse counts as done only if it says so itself, not because of its exit code 0."""
    queue = rq.Queue(connection=store)
    tree = start_rq("Worker")
    poison = queue.enqueue(f"samples_rq.{how}")
    jobs = [queue.enqueue("samples.ok", n) for n in range(5)]
    eventually(lambda: {status(job) for job in jobs} == {"finished"})
    assert status(poison) == "failed"
    assert tree.stop() == 0


def test_a_job_that_blocks_all_signals(start_rq: StartRQ, place: str, store: redis.Redis) -> None:
    """The next job has its time limit, and an idle worker receives the request to stop."""
    queue = rq.Queue(connection=store)
    tree = start_rq(place)
    queue.enqueue("samples_rq.block_all_signals")
    late = queue.enqueue("samples.nap", 60, job_timeout=1)
    after = queue.enqueue("samples_rq.block_all_signals")
    eventually(lambda: status(after) == "finished")
    assert "Task exceeded maximum timeout value" in (late.latest_result().exc_string or "")
    assert tree.stop() == 0


def test_a_job_that_closes_the_standard_streams(start_rq: StartRQ, place: str, store: redis.Redis) -> None:
    queue = rq.Queue(connection=store)
    start_rq(place)
    job = queue.enqueue("samples_rq.close_the_standard_streams")
    eventually(lambda: status(job) == "finished")


def test_the_name_of_a_killed_worker_is_free_after_its_lease(
    start_rq: StartRQ, place: str, store: redis.Redis, tmp_path: Path
) -> None:
    """RQ alone would refuse the name until the registration expires. The job that the dead worker ran fails."""
    queue = rq.Queue(connection=store)
    running = queue.enqueue("samples.wait_for", str(tmp_path / "record"), "first", str(tmp_path / "gate"))
    first = start_rq(place, "--name", "printer")
    eventually(lambda: status(running) == "started")
    first.kill()
    job = queue.enqueue("samples.ok", 1)
    second = start_rq(place, "--name", "printer")
    eventually(lambda: status(job) == "finished", 60)
    assert status(running) == "failed"
    assert [worker.name for worker in rq.Worker.all(connection=store)] == ["printer"]
    third = start_rq(place, "--name", "printer", "--burst")
    assert third.wait() != 0
    assert "There exists an active worker named 'printer' already" in third.log
    second.stop()


def test_a_jobq_worker_rescues_the_jobs_of_a_killed_rq_class(
    start_rq: StartRQ, place: str, store: redis.Redis, tmp_path: Path, server: Server
) -> None:
    record = str(tmp_path / "record")
    queue = rq.Queue(connection=store)
    running = queue.enqueue("samples.wait_for", record, "first", str(tmp_path / "gate"))
    waiting = [queue.enqueue("samples.ok", n) for n in range(5)]
    tree = start_rq(place)
    eventually(lambda: status(running) == "started")
    tree.kill()
    flags = ["--accept", "json,pickle", "-I", "samples"]
    rescuer = Tree(server.url, tmp_path, flags, {"JOBQ_LEASE": "1"})
    try:
        eventually(lambda: status(running) == "failed")
        assert "LeaseExpired" in (running.latest_result().exc_string or "")
        eventually(lambda: {status(job) for job in waiting} == {"finished"})
        rescuer.stop()
    finally:
        rescuer.destroy()


def test_a_job_that_kills_its_horse_fails_alone(start_rq: StartRQ, store: redis.Redis, tmp_path: Path) -> None:
    queue = rq.Queue(connection=store)
    before = [queue.enqueue("samples.ok", n) for n in range(20)]
    poison = queue.enqueue("samples.kill_itself", str(tmp_path / "record"))
    again = queue.enqueue("samples.kill_itself", str(tmp_path / "again"), retry=Retry(max=2))
    after = [queue.enqueue("samples.ok", n) for n in range(20)]
    tree = start_rq("Worker", "--burst", lease="60")
    assert tree.wait() == 0
    assert {status(job) for job in before + after} == {"finished"}
    assert status(poison) == "failed"
    assert "Work-horse terminated unexpectedly; waitpid returned 9" in (poison.latest_result().exc_string or "")
    assert len(lines(tmp_path / "record")) == 1
    assert status(again) == "failed"
    assert len(lines(tmp_path / "again")) == 3, "RQ's retries apply"
    assert {poison.id, again.id} == set(FailedJobRegistry(queue=queue).get_job_ids())


def test_a_stop_waits_for_the_job(start_rq: StartRQ, place: str, store: redis.Redis, tmp_path: Path) -> None:
    """SIGTERM: the running job finishes, the jobs that were claimed behind it wait in their old order."""
    record, gate = str(tmp_path / "record"), tmp_path / "gate"
    queue = rq.Queue(connection=store)
    running = queue.enqueue("samples.wait_for", record, "first", str(gate))
    waiting = [queue.enqueue("samples.ok", n) for n in range(5)]
    tree = start_rq(place)
    eventually(lambda: status(running) == "started")
    tree.send_to_group(signal.SIGTERM)
    eventually(lambda: is_to_stop(store))
    gate.touch()
    assert tree.wait() == 0
    assert status(running) == "finished"
    assert queue.get_job_ids() == [job.id for job in waiting]
    assert not owners(store)


def test_an_idle_worker_wakes_for_a_job_and_stops(start_rq: StartRQ, place: str, store: redis.Redis) -> None:
    queues = [rq.Queue(name, connection=store) for name in ("high", "low")]
    tree = start_rq(place, "high", "low")
    for queue in (*queues, *queues):
        eventually(lambda: any(w.get_state() == "idle" for w in rq.Worker.all(connection=store)))
        job = queue.enqueue("samples.ok", 1)
        eventually(lambda job=job: status(job) == "finished")
    assert tree.stop() == 0
    assert not rq.Worker.all(connection=store)


def test_a_job_is_stopped_on_request(start_rq: StartRQ, place: str, store: redis.Redis, tmp_path: Path) -> None:
    queue = rq.Queue(connection=store)
    job = queue.enqueue("samples.wait_for", str(tmp_path / "record"), "first", str(tmp_path / "gate"))
    tree = start_rq(place)
    eventually(lambda: status(job) == "started")
    send_stop_job_command(store, job.id)
    eventually(lambda: status(job) == "stopped")
    after = queue.enqueue("samples.ok", 1)
    eventually(lambda: status(after) == "finished")
    assert tree.stop() == 0


def test_a_time_limit_has_rqs_text(start_rq: StartRQ, place: str, store: redis.Redis) -> None:
    job = rq.Queue(connection=store).enqueue("samples.nap", 60, job_timeout=1)
    assert start_rq(place, "--burst").wait() == 0
    text = job.latest_result().exc_string or ""
    assert "rq.timeouts.JobTimeoutException: Task exceeded maximum timeout value (1 seconds)" in text


def test_max_jobs_ends_the_worker(start_rq: StartRQ, place: str, store: redis.Redis) -> None:
    queue = rq.Queue(connection=store)
    for n in range(50):
        queue.enqueue("samples.ok", n)
    assert start_rq(place, "--max-jobs", "7").wait() == 0
    assert FinishedJobRegistry(queue=queue).count == 7
    assert queue.count == 43


@pytest.mark.parametrize("how", ["flushed", "taken for dead"])
def test_the_registration_is_restored_by_the_next_heartbeat(
    start_rq: StartRQ, place: str, store: redis.Redis, how: str
) -> None:
    """The next heartbeat restores any lost part of the registration."""
    tree = start_rq(place, "default", "low")
    [worker] = eventually(lambda: [w for w in rq.Worker.all(connection=store) if w.get_state() == "idle"])
    if how == "flushed":
        store.flushall()
    else:
        store.srem(keys.WORKERS, worker.key)
        store.srem(keys.workers_of("low"), worker.key)
        store.hset(worker.key, "death", "2026-01-01T00:00:00.000000Z")
        store.delete(keys.lease(worker.name), keys.OWNERS)
        store.expire(worker.key, 60)
    eventually(lambda: store.hget(worker.key, "birth") and store.ttl(worker.key) > 60)
    [again] = eventually(lambda: rq.Worker.all(connection=store))
    assert (again.name, again.queue_names(), again.birth_date) == (worker.name, ["default", "low"], worker.birth_date)
    assert store.smembers(keys.workers_of("low")) == {worker.key.encode()}
    eventually(lambda: store.hget(worker.key, "death") is None and store.exists(keys.lease(worker.name)))
    job = rq.Queue("low", connection=store).enqueue("samples.ok", 1)
    eventually(lambda: status(job) == "finished")
    assert tree.stop() == 0


@pytest.mark.parametrize("how", ["close_everything", "allow_no_files"])
def test_a_job_that_closes_its_processes_descriptors(
    start_rq: StartRQ, place: str, store: redis.Redis, how: str
) -> None:
    """The next jobs run. (In RQ's SimpleWorker, which has one process, a limit on open files ends the worker.)"""
    if (place, how) == ("SimpleWorker", "allow_no_files"):
        pytest.skip("its process is the worker")
    queue = rq.Queue(connection=store)
    tree = start_rq(place)
    cut = queue.enqueue(f"samples.{how}")
    jobs = [queue.enqueue("samples.ok", n) for n in range(10)]
    assert eventually(lambda: all_ended(store, [cut, *jobs]), 60) == [b"finished"] * 11
    assert tree.stop() == 0


def test_the_worker_continues_after_a_job_closed_all_descriptors(store: redis.Redis) -> None:
    """After a job has closed all descriptors, the first request may go to another file that has the connection's number
    now."""
    worker, answers = SimpleWorker(["default"], connection=store), [redis.TimeoutError(), redis.ConnectionError(), "me"]
    assert worker._own(Mock(own=Mock(side_effect=answers))) == "me"
    worker._stop_requested = True
    with pytest.raises(StopRequested):
        worker._own(Mock(own=Mock(side_effect=redis.TimeoutError())))


@pytest.mark.parametrize("error", [redis.ConnectionError("Error 9"), redis.TimeoutError("writing to socket")])
def test_a_lost_subscription_is_closed_without_an_error(store: redis.Redis, error: Exception) -> None:
    worker = SimpleWorker(["default"], connection=store)
    worker.pubsub, worker.pubsub_thread = Mock(unsubscribe=Mock(side_effect=error)), Mock()
    worker.unsubscribe()
    assert worker.pubsub.close.called


def test_a_horse_that_is_stopped_while_it_is_idle_is_replaced(start_rq: StartRQ, store: redis.Redis) -> None:
    queue = rq.Queue(connection=store)
    tree = start_rq("Worker")
    job = queue.enqueue("samples.ok", 1)
    eventually(lambda: status(job) == "finished")
    eventually(lambda: "cleaning group registries" in tree.log)
    [horse] = eventually(lambda: only(psutil.Process(tree.pid).children()))
    horse.suspend()
    job = queue.enqueue("samples.ok", 2)
    eventually(lambda: status(job) == "finished", 60)
    assert not horse.is_running()
    assert tree.stop() == 0


def test_a_flushed_store_does_not_end_the_worker(start_rq: StartRQ, place: str, store: redis.Redis) -> None:
    queue = rq.Queue(connection=store)
    tree = start_rq(place)
    eventually(lambda: rq.Worker.all(connection=store))
    store.flushall()
    job = queue.enqueue("samples.ok", 1)
    eventually(lambda: status(job) == "finished")
    assert tree.stop() == 0


def test_a_store_flushed_while_a_job_runs_does_not_end_the_worker(
    start_rq: StartRQ, place: str, store: redis.Redis, tmp_path: Path
) -> None:
    queue, record, gate = rq.Queue(connection=store), tmp_path / "record", tmp_path / "gate"
    tree = start_rq(place)
    queue.enqueue("samples.wait_for", str(record), "n", str(gate))
    eventually(lambda: lines(record))
    store.flushall()
    gate.touch()
    jobs = [queue.enqueue("samples.ok", n) for n in range(3)]
    eventually(lambda: [status(job) for job in jobs] == ["finished"] * 3)
    assert "ValueError" not in tree.log
    assert tree.stop() == 0


def test_rqs_worker_pool_with_our_class(server: Server, store: redis.Redis, tmp_path: Path) -> None:
    queue = rq.Queue(connection=store)
    jobs = [queue.enqueue("samples.ok", n) for n in range(300)]
    flags = ["--url", server.url, "--worker-class", "jobqueue.rq.Worker", "--burst", "-n", "2"]
    pool = Tree(server.url, tmp_path, flags, {}, command=("rq.cli", "worker-pool"))
    try:
        assert pool.wait() == 0
        assert {status(job) for job in jobs} == {"finished"}
    finally:
        pool.destroy()


def test_a_burst_waits_for_jobs_that_a_finish_enqueues(start_rq: StartRQ, place: str, store: redis.Redis) -> None:
    """The end of a rate-limited job puts the next one into the queue, after the worker found the queue empty."""
    queue = rq.Queue(connection=store)
    names = ["ok", "ok", "ok", "fail", "ok"]
    jobs = [queue.enqueue(f"samples.{name}", "x", rate_limit=RateLimit("api", 1)) for name in names]
    assert start_rq(place, "--burst").wait() == 0
    assert [status(job) for job in jobs] == ["finished", "finished", "finished", "failed", "finished"]
    (registration,) = store.keys("rq:worker:*")  # RQ's registry keeps it for a minute
    assert store.hget(registration, "state") == b"idle"


def test_a_process_forked_by_a_job_dies_of_sigterm(start_rq: StartRQ, store: redis.Redis) -> None:
    """The copy dies as with RQ's Worker, whose horse does not pass its handler on to copies."""
    job = rq.Queue(connection=store).enqueue("samples_rq.end_a_process_of_ones_own")
    start_rq("Worker", "--burst").wait()
    assert job.return_value() == -signal.SIGTERM


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "own").mkdir()
    server = Server(tmp_path / "own", keep=True)
    yield server
    server.stop()


def test_an_outage_does_not_end_the_worker(own_server: Server, place: str, tmp_path: Path) -> None:
    """The worker continues, even if RQ's maintenance is due or the horse dies meanwhile; RQ's worker would end and
    leave its job."""
    store = own_server.client
    queue = rq.Queue(connection=store)
    runs = queue.enqueue("samples.wait_for", str(tmp_path / "record"), 1, str(tmp_path / "gate"))
    more = ("--url", own_server.url, "--worker-class", f"jobqueue.rq.{place}", "--maintenance-interval", "1")
    tree = Tree(own_server.url, tmp_path, more, {}, command=("rq.cli", "worker"))
    try:
        eventually(lambda: status(runs) == "started")
        own_server.kill()
        time.sleep(2.5)
        for horse in psutil.Process(tree.process.pid).children():
            horse.kill()
        time.sleep(0.5)
        (tmp_path / "gate").touch()
        own_server.start()
        then = queue.enqueue("samples.ok", 2)
        eventually(lambda: status(then) == "finished")
        eventually(lambda: status(runs) == ("finished" if place == "SimpleWorker" else "failed"))
        own_server.kill()
        time.sleep(1.5)  # now while the worker is idle
        own_server.start()
        again = queue.enqueue("samples.ok", 3)
        eventually(lambda: status(again) == "finished")
        assert tree.process.poll() is None
    finally:
        tree.destroy()


def test_a_worker_can_be_stopped_during_an_outage(own_server: Server, place: str, tmp_path: Path) -> None:
    """The running job continues to its end."""
    store = own_server.client
    runs = rq.Queue(connection=store).enqueue("samples.wait_for", str(tmp_path / "record"), 1, str(tmp_path / "gate"))
    more = ("--url", own_server.url, "--worker-class", f"jobqueue.rq.{place}")
    tree = Tree(own_server.url, tmp_path, more, {}, command=("rq.cli", "worker"))
    try:
        eventually(lambda: status(runs) == "started")
        own_server.kill()
        tree.process.terminate()
        eventually(lambda: "could not say that it stops" in tree.log)
        (tmp_path / "gate").touch()
        tree.process.wait(30)
        assert lines(tmp_path / "record") == ["start 1", "end 1"]
    finally:
        tree.destroy()


STOPPED_AFTER_THE_FORK = """
import os, sys, time
import redis, rq
from jobqueue.workers.rq_classes.horse import Horse
from jobqueue.workers.rq_classes.worker import Worker

def stop_at_once(horse):
    raise SystemExit("at once")

os.setsid = lambda: time.sleep(5)  # the child is slow
Horse._watch = stop_at_once
r = redis.Redis(unix_socket_path=sys.argv[1])
Worker([rq.Queue(connection=r)], connection=r).work(burst=True)
"""


def test_a_cold_shutdown_right_after_the_fork_kills_only_the_child(server: Server) -> None:
    """The kill hits the child's process group, not the one in which the child was born: that is the parent's, with
    others."""
    command = [sys.executable, "-c", STOPPED_AFTER_THE_FORK, server.socket]
    env = {**os.environ, "PYTHONPATH": program_path(ROOT)}
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, start_new_session=True)
    assert (ran.returncode, ran.stderr.splitlines()[-1]) == (1, "at once")


@pytest.mark.parametrize("refusal", ["read-only", "full"])
def test_an_idle_worker_pauses_while_the_store_refuses_writes(
    start_rq: StartRQ, place: str, store: redis.Redis, refusal: str
) -> None:
    """When idle, the worker waits between two attempts, and runs jobs when the store accepts writes again."""
    queue = rq.Queue(connection=store)
    start_rq(place, lease="10")
    eventually(lambda: store.info("clients")["blocked_clients"])
    try:
        store.config_set("maxmemory", 1) if refusal == "full" else store.replicaof("127.0.0.1", 1)
        store.client_kill_filter(_type="normal", skipme=True)
        eventually(lambda: refused(store) > 3)
        counts = [asked(store)]
        for _ in range(4):
            time.sleep(1)  # what is asked in a second
            counts.append(asked(store))
        assert min(after - before for before, after in itertools.pairwise(counts)) < 150
    finally:
        store.config_set("maxmemory", 0)
        store.replicaof("NO", "ONE")
    job = queue.enqueue("samples.ok", 1)
    eventually(lambda: status(job) == "finished")


def asked(store: redis.Redis) -> int:
    return int(store.info("stats")["total_commands_processed"])


def refused(store: redis.Redis) -> int:
    stats = store.info("errorstats")
    return sum(stats.get(f"errorstat_{kind}", {}).get("count", 0) for kind in ("OOM", "READONLY"))


@pytest.mark.parametrize("how", ["keep_the_main_thread", "hold_still"])
def test_a_horse_that_is_stuck_between_two_jobs_is_replaced(start_rq: StartRQ, store: redis.Redis, how: str) -> None:
    """The horse's main thread is blocked, or all its threads are: it is replaced, and the next jobs run."""
    queue = rq.Queue(connection=store)
    queue.enqueue(f"samples_unfriendly.{how}")
    tree = start_rq("Worker")
    eventually(lambda: store.scard(keys.OWNERS) and not queue.count)
    job = queue.enqueue("samples.ok", 1)
    eventually(lambda: status(job) == "finished", 60)
    assert any(words in tree.log for words in ("has not come back", "it does not react"))
    os.kill(tree.pid, signal.SIGTERM)
    assert tree.wait() == 0


def test_an_idle_horse_is_not_replaced(start_rq: StartRQ, place: str, store: redis.Redis) -> None:
    """An idle horse has a pulse, so the parent does not replace it."""
    queue = rq.Queue(connection=store)
    first = queue.enqueue("samples_unfriendly.watch_closely_and_count")
    tree = start_rq(place)
    if place == "Worker":
        eventually(lambda: int(store.get("rounds") or 0) >= 3)
    else:
        eventually(lambda: status(first) == "finished")
    job = queue.enqueue("samples.ok", 1)
    eventually(lambda: status(job) == "finished")
    assert "has not come back" not in tree.log
    assert "is replaced" not in tree.log
