"""SimpleWorker in this process does with a job what RQ's loop does, and leaves the same in the store."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest
import redis
import rq
from helpers import eventually
from rq import Callback, Repeat, Retry, get_current_job
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend

from jobqueue.protocol import keys
from jobqueue.workers.child import prefetch
from jobqueue.workers.child.request_thread import RequestThread
from jobqueue.workers.rq_classes.worker import SimpleWorker


def double(job_id: str) -> str:
    job = get_current_job()
    assert job is not None
    job.meta["seen"] = job.get_status().value
    job.save_meta()
    return job_id * 2


def forget_me() -> None:
    job = get_current_job()
    assert job is not None
    job.result_ttl = 0


def enqueue_another(socket: str) -> None:
    rq.Queue(connection=redis.Redis(unix_socket_path=socket)).enqueue("samples.ok", "another", job_id="another")


def returns_a_lock() -> Any:
    return threading.Lock()


def run(store: redis.Redis, *queues: rq.Queue, **options: Any) -> bool:
    return SimpleWorker(list(queues), connection=store).work(burst=True, logging_level="WARNING", **options)


def status(job: Job) -> str:
    return str(job.get_status(refresh=True).value)


@pytest.fixture
def rq_queue(store: redis.Redis) -> rq.Queue:
    return rq.Queue(connection=store)


def test_a_worker_leaves_no_key_of_ours(store: redis.Redis, rq_queue: rq.Queue) -> None:
    jobs = [rq_queue.enqueue("samples.ok", n) for n in range(100)]
    assert run(store, rq_queue) is True
    assert run(store, rq_queue) is False
    assert [job.return_value() for job in jobs] == list(range(100))
    assert list(store.scan_iter("rq:jobq:*")) == [keys.SEQ.encode()]


def test_a_worker_leaves_no_thread(store: redis.Redis, rq_queue: rq.Queue) -> None:
    before = threading.active_count()
    for _ in range(3):
        rq_queue.enqueue("samples.nap", 0.1)
        run(store, rq_queue)
    eventually(lambda: threading.active_count() <= before)  # RQ's listener and our request thread may take a moment


def test_the_environment_stays_as_it_was(store: redis.Redis, rq_queue: rq.Queue) -> None:
    """As with RQ's SimpleWorker, the environment is this process's own: its later programs would inherit a job's id."""
    before = dict(os.environ)
    job = rq_queue.enqueue("samples.ok", 1)
    run(store, rq_queue)
    assert job.return_value() == 1
    assert dict(os.environ) == before


def test_the_current_job_of_rq_is_set(store: redis.Redis, rq_queue: rq.Queue) -> None:
    seen = rq_queue.enqueue(double, "a")
    gone = rq_queue.enqueue(forget_me)
    run(store, rq_queue)
    assert seen.return_value() == "aa"
    assert seen.get_meta() == {"seen": "started"}
    assert not Job.exists(gone.id, store)


def test_what_a_job_enqueues_is_run_before_the_burst_ends(store: redis.Redis, rq_queue: rq.Queue) -> None:
    socket = store.connection_pool.connection_kwargs["path"]
    rq_queue.enqueue(enqueue_another, socket)
    run(store, rq_queue)
    assert status(Job.fetch("another", store)) == "finished"


def test_dependents_are_run_before_the_burst_ends(store: redis.Redis, rq_queue: rq.Queue) -> None:
    job = rq_queue.enqueue("samples.ok", 0)
    for _ in range(5):
        job = rq_queue.enqueue("samples.ok", 0, depends_on=job)
    run(store, rq_queue)
    assert status(job) == "finished"


def test_a_burst_waits_for_jobs_that_are_being_given_back(
    store: redis.Redis, rq_queue: rq.Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs behind a long one return to the queue: for a moment they are in no list of waiting jobs."""
    give_back, given = RequestThread.give_back, []

    def late(thread: RequestThread, tokens: list[tuple[str, str, int, str]]) -> None:
        time.sleep(0.5 if tokens else 0.0)
        give_back(thread, tokens)
        given.extend(tokens)

    monkeypatch.setattr(RequestThread, "give_back", late)
    monkeypatch.setattr(prefetch, "AHEAD", 1000.0)  # a busy machine makes short jobs long, which have no company
    monkeypatch.setattr(prefetch, "LONG", 1000.0)
    jobs = [rq_queue.enqueue("samples.ok", n) for n in range(20)]
    jobs += [rq_queue.enqueue("samples.nap", 0.2), rq_queue.enqueue("samples.ok", 2)]
    run(store, rq_queue)
    assert {status(job) for job in jobs} == {"finished"}
    assert given, "nothing went back: the test shows nothing"


def test_repeats_retries_and_callbacks(store: redis.Redis, rq_queue: rq.Queue) -> None:
    repeated = rq_queue.enqueue("samples.ok", 1, repeat=Repeat(times=2))
    retried = rq_queue.enqueue("samples.fail", retry=Retry(max=2))
    called = rq_queue.enqueue("samples.ok", 5, on_success=Callback("samples.on_success"))
    run(store, rq_queue)
    assert len(repeated.results()) == 3
    assert status(retried) == "failed"
    assert Job.fetch(retried.id, store).retries_left == 0
    assert status(called) == "finished"


def test_a_result_that_cannot_be_encoded_fails_the_job(store: redis.Redis, rq_queue: rq.Queue) -> None:
    job = rq_queue.enqueue(returns_a_lock)
    run(store, rq_queue)
    assert (status(job), job.return_value()) == ("finished", "Unserializable return value")


def test_exception_handlers_are_called(store: redis.Redis, rq_queue: rq.Queue) -> None:
    heard: list[str] = []
    rq_queue.enqueue("samples.fail", "ouch")
    worker = SimpleWorker([rq_queue], connection=store, exception_handlers=[lambda job, *e: heard.append(str(e[1]))])
    worker.work(burst=True, logging_level="CRITICAL")
    assert heard == ["ouch"]


def test_a_custom_serializer(store: redis.Redis) -> None:
    queue = rq.Queue(connection=store, serializer=JSONSerializer)
    job = queue.enqueue("samples.ok", [1])
    SimpleWorker([queue], connection=store, serializer=JSONSerializer).work(burst=True, logging_level="WARNING")
    assert job.return_value() == [1]


def test_round_robin(store: redis.Redis, rq_queue: rq.Queue) -> None:
    """One job of each queue runs in turn, which needs one claim at a time."""
    queues = [rq.Queue(name, connection=store) for name in "abc"]
    jobs = [queue.enqueue("samples.ok", n) for queue in queues for n in range(3)]
    run(store, *queues, dequeue_strategy="round_robin")
    ended = sorted(jobs, key=lambda job: Job.fetch(job.id, store).ended_at or 0)
    assert [job.origin for job in ended] == list("abc" * 3)


def test_a_burst_ends_while_workers_are_suspended(store: redis.Redis, rq_queue: rq.Queue) -> None:
    suspend(store)
    rq_queue.enqueue("samples.ok", 1)
    assert run(store, rq_queue) is False
    resume(store)
    assert run(store, rq_queue) is True


def test_a_signal_that_arrives_before_the_wait_ends_it(store: redis.Redis, rq_queue: rq.Queue) -> None:
    """The signal arrives just before the wait, or in another thread: the worker does not sleep for a minute."""
    worker, noticed = SimpleWorker([rq_queue], connection=store), []

    def end() -> None:
        eventually(lambda: worker.get_state() == "idle" and store.info("clients")["blocked_clients"])
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        deadline = time.monotonic() + 20.0
        while not worker._shutdown_requested_date and time.monotonic() < deadline:
            time.sleep(0.01)
        noticed.append(worker._shutdown_requested_date)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    thread = threading.Thread(target=end)
    thread.start()
    try:
        worker.work(logging_level="WARNING", max_idle_time=100)
    finally:
        thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert noticed[0], "not within 20 s"


def test_max_idle_time_ends_the_worker(store: redis.Redis, rq_queue: rq.Queue) -> None:
    worker = SimpleWorker([rq_queue], connection=store)
    assert worker.work(max_idle_time=1, logging_level="WARNING") is False
    assert not rq.Worker.all(connection=store)


def test_a_worker_with_the_name_of_a_dead_one_rescues_its_jobs(store: redis.Redis, rq_queue: rq.Queue) -> None:
    job = rq_queue.enqueue("samples.ok", 1)
    store.lpop(rq_queue.key)
    store.sadd(keys.OWNERS, "w:0.dead")
    store.zadd(keys.own("w:0.dead"), {job.id: 1})
    SimpleWorker([rq_queue], name="w", connection=store).work(burst=True, logging_level="WARNING")
    assert status(job) == "finished"
    assert not store.exists(keys.OWNERS)


def test_an_idle_worker_pauses_while_the_store_refuses_writes(store: redis.Redis, rq_queue: rq.Queue) -> None:
    """An idle worker cannot store that it is idle, and pauses between two attempts."""
    worker = SimpleWorker([rq_queue], connection=store)
    refused: list[int] = []

    def refuse() -> None:
        try:
            eventually(lambda: store.info("clients")["blocked_clients"])
            store.replicaof("127.0.0.1", 1)
            for _ in range(2):
                assert worker.engine is not None
                worker.engine.stir()  # as after a push of which the worker is not told any more
                time.sleep(1.5)
                refused.append(store.info("errorstats").get("errorstat_READONLY", {}).get("count", 0))
        finally:
            store.replicaof("NO", "ONE")
            worker._stop_requested = True
            eventually(lambda: worker.engine is None or worker.engine.stir())

    beside = threading.Thread(target=refuse)
    beside.start()
    worker.work(logging_level="WARNING")
    beside.join(30)
    assert 2 < refused[1] < 200
