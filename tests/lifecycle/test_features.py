"""RQ's features as a user sees them, in both modes. test_state_identity.py compares how each kind of job ends, in every
key; the tests here check what can only be seen while jobs run, and what flags of the worker do."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import redis
import rq
import samples
import samples_rq
from conftest import Start
from helpers import Server, eventually, failed, jobq, lines, status, uncounted
from rq.group import Group
from rq.rate_limit import RateLimit

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys

SERVE = ("samples", "samples_rq")


def handled(store: redis.Redis, job: rq.job.Job) -> list[str]:
    return [word.decode() for word in store.lrange(samples_rq.handled(job.id), 0, -1)]


# -- exception handlers ----------------------------------------------------------------------------------------------


def test_exception_handlers(start: Start, mode: str, store: redis.Redis, queue: Queue) -> None:
    """Handlers are called in their order, until one ends the chain; for each failure, also one that is retried."""
    once = queue.enqueue(samples.fail, "no")
    twice = queue.enqueue(samples.fail, "no", retry=rq.Retry(max=1))
    late = queue.enqueue(samples.spin, 60, job_timeout=1)
    fine = queue.enqueue(samples.ok, 1)
    handlers = [f"samples_rq:{name}" for name in ("handle", "handle_for_good", "handle_never")]
    flags = [part for name in handlers for part in ("--exception-handler", name)]
    assert start("--burst", "-n", "1", *flags, mode=mode).wait() == 0
    assert handled(store, once) == ["first ValueError: no", "second"]
    assert handled(store, twice) == ["first ValueError: no", "second"] * 2
    assert handled(store, late) == [
        "first TimeLimitExceeded: The job ran longer than its time limit of 1 s.",
        "second",
    ]
    assert handled(store, fine) == []
    assert "ValueError: no" in failed(store, once.id)


@pytest.mark.parametrize(
    ("handler", "said"), [("handle_badly", "the handler failed"), ("handle_and_exit", "SystemExit: 3")]
)
def test_a_handler_that_fails_does_not_hide_the_failure(
    start: Start, mode: str, store: redis.Redis, queue: Queue, handler: str, said: str
) -> None:
    job = queue.enqueue(samples.fail, "the cause")
    tree = start("--burst", "-n", "1", "--exception-handler", f"samples_rq.{handler}", mode=mode)
    assert tree.wait() == 0
    assert "the cause" in failed(store, job.id)
    assert f"{said}\n" in tree.log
    tree._log.write_text("")  # the traceback that the test asked for


@pytest.mark.parametrize("name", ["samples_rq:no_such", "no_such_module:handle", "samples_rq:Basket.kind"])
def test_a_missing_exception_handler_is_refused(start: Start, name: str) -> None:
    tree = start("--exception-handler", name)
    assert tree.wait() == 2
    assert f"--exception-handler {name.replace(':', '.')}" in tree.log
    assert "Traceback" not in tree.log


# -- what user code may raise, and leave ------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", ["1", "2"])
def test_a_base_exception_fails_its_job_alone(
    start: Start, mode: str, store: redis.Redis, queue: Queue, slots: str
) -> None:
    """asyncio's CancelledError is no Exception; no other job is affected, and the slot continues."""
    bad = [queue.enqueue("samples_rq.cancel_a_part") for _ in range(4)]
    good = [queue.enqueue(samples.ok, n) for n in range(20)]
    tree = start("--burst", "-n", slots, "-I", "samples_rq", mode=mode)
    assert tree.wait() == 0
    assert [job.result(timeout=1) for job in good] == list(range(20))
    for job in bad:
        assert failed(store, job.id).rstrip().endswith("CancelledError")
        assert store.hget(keys.job(job.id), "jobq_crashes") is None


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        ("exit_in_callback", "SystemExit: 3"),
        ("cannot_find_in_callback", "FileNotFoundError"),
        ("confuse_the_store_in_callback", "WRONGTYPE"),
    ],
)
def test_an_exception_of_a_success_callback_fails_the_job(
    start: Start, mode: str, store: redis.Redis, queue: Queue, callback: str, words: str
) -> None:
    """The job fails once, also if the exception looks like an error of the store."""
    job = queue.enqueue(samples.ok, 1, on_success=rq.Callback(f"samples_rq.{callback}"))
    after = queue.enqueue(samples.ok, 2)
    assert start("--burst", "-n", "1", "-I", "samples_rq", mode=mode).wait() == 0
    assert words in failed(store, job.id)
    assert store.get(samples_rq.told(job.id)) == b"1"
    assert after.result(timeout=1) == 2


@pytest.mark.slow
def test_a_success_callback_that_cannot_reach_another_store(
    start: Start, mode: str, store: redis.Redis, queue: Queue
) -> None:
    """The finish is tried again, as the store may have been ours; then the job fails."""
    job = queue.enqueue(samples.ok, 1, on_success=rq.Callback("samples_rq.lose_the_connection_in_callback"))
    assert start("--burst", "-n", "1", "-I", "samples_rq", mode=mode).wait() == 0
    assert "ConnectionError" in failed(store, job.id)
    assert store.get(samples_rq.told(job.id)) == b"4"


def test_callbacks_see_attributes_that_the_job_set_on_itself(
    start: Start, mode: str, store: redis.Redis, queue: Queue
) -> None:
    """Its callbacks find the attributes, and see a job that runs, however short it was."""
    job = queue.enqueue("samples_rq.leave_things", 7, on_success=rq.Callback("samples_rq.find_things"))
    assert start("--burst", "-n", "1", "-I", "samples_rq", mode=mode).wait() == 0
    assert store.lrange(samples_rq.told(job.id), 0, -1) == [b"({'a': 7}, 'started', True)"]


def test_an_exception_without_a_text(start: Start, mode: str, store: redis.Redis, queue: Queue) -> None:
    job = queue.enqueue("samples_rq.say_nothing")
    tree = start("--burst", "-n", "1", "-I", "samples_rq", mode=mode)
    assert tree.wait() == 0
    assert "Unspeakable" in failed(store, job.id)
    assert "Unspeakable (its text cannot be had: ValueError)" in tree.log
    assert "Logging error" not in tree.log


def test_a_job_may_block_on_its_connection_for_long(start: Start, mode: str, queue: Queue) -> None:
    job = queue.enqueue("samples_rq.wait_long_for_nothing", 10.5)
    assert start("--burst", "-n", "1", "-I", "samples_rq", mode=mode).wait() == 0
    assert job.result(timeout=1) is None


# -- classes of one's own --------------------------------------------------------------------------------------------


def test_a_job_class(start: Start, mode: str, store: redis.Redis) -> None:
    """Tasks, callbacks and handlers see the class, with jobq's own finish and with RQ's."""
    queue = samples_rq.OwnQueue(connection=store)
    told = {"meta": {"user": "ann"}, "on_success": rq.Callback(samples_rq.tell)}
    told["on_failure"] = told["on_success"]
    plain = queue.enqueue(samples_rq.whose)
    good = queue.enqueue(samples_rq.whose, **told)
    bad = queue.enqueue(samples_rq.whose_and_fail, **told)
    last = queue.enqueue(samples_rq.whose, meta={"user": "bob"}, depends_on=good)
    flags = ["-I", "samples_rq", "-S", "pickle", "-j", "samples_rq:OwnJob", "--queue-class", "samples_rq.OwnQueue"]
    handler = ["--exception-handler", "samples_rq.handle_own"]
    assert start("--burst", "-n", "1", *flags, *handler, mode=mode).wait() == 0
    assert plain.return_value() == ["OwnJob", "nobody", 1]
    assert good.return_value() == ["OwnJob", "ann", 1]
    assert last.return_value() == ["OwnJob", "bob", 1]
    assert "['OwnJob', 'ann', 1]" in failed(store, bad.id)
    assert store.lrange(samples_rq.told(good.id), 0, -1) == [b"called back ann"]
    assert store.lrange(samples_rq.told(bad.id), 0, -1) == [b"called back ann", b"handled ann"]


def test_a_serializer(start: Start, mode: str, store: redis.Redis) -> None:
    """Arguments, meta and results are in its format, with jobq's own finish and with RQ's."""
    queue = Queue(connection=store, serializer="samples_rq.Backwards")
    first = queue.enqueue(samples.ok, {"a": [1]}, meta={"user": "ann"})
    last = queue.enqueue(samples.ok, 2, depends_on=first, on_success=rq.Callback(samples.on_success))
    shown = queue.enqueue(samples_rq.report_progress)
    bad = queue.enqueue(samples.return_a_set)
    other = Queue(connection=store).enqueue(samples.ok, 1)
    assert start("--burst", "-n", "1", "-I", "samples_rq", "-S", "samples_rq:Backwards", mode=mode).wait() == 0
    assert first.result(timeout=1) == {"a": [1]}
    assert last.result(timeout=1) == 2
    assert shown.get_meta() == {"progress": 100}
    assert "samples_rq.Backwards cannot carry" in failed(store, bad.id)
    assert "not a call in the format of samples_rq.Backwards" in failed(store, other.id)


@pytest.mark.parametrize(
    ("flag", "name", "words"),
    [
        ("--job-class", "samples_rq:LoudJob", "LoudJob.perform is overridden"),
        ("--job-class", "samples_rq.whose", "no subclass of rq.job.Job"),
        ("--job-class", "samples_rq.NoSuch", "--job-class samples_rq.NoSuch: "),
        ("--queue-class", "samples_rq.OwnJob", "no subclass of rq.queue.Queue"),
        ("--serializer", "samples_rq.OwnJob", "has the functions dumps and loads"),
    ],
)
def test_a_class_that_cannot_be_used_is_refused(start: Start, flag: str, name: str, words: str) -> None:
    for more in ([], ["--check"]):
        tree = start(flag, name, *more)
        assert tree.wait() == 2
        (line,) = [line for line in tree.log.splitlines() if line.startswith("jobq: ")]
        assert words in line
        assert "Traceback" not in tree.log


# -- several queues --------------------------------------------------------------------------------------------------


def order_of(start: Start, store: redis.Redis, record: Path, strategy: str, mode: str) -> str:
    """Return which queue each job came from, in the order in which one slot ran them."""
    record.unlink(missing_ok=True)
    for name in "abc":
        Queue(name, connection=store).enqueue_many(samples.note, [str(record)] * 8, [name] * 8)
    flags = ("--burst", "-n", "1", "--dequeue-strategy", strategy, "a", "b", "c")
    assert start(*flags, mode=mode).wait() == 0
    return "".join(lines(record))


def test_dequeue_strategies(start: Start, mode: str, store: redis.Redis, tmp_path: Path) -> None:
    record = tmp_path / "record"
    assert order_of(start, store, record, "ordered", mode) == "a" * 8 + "b" * 8 + "c" * 8
    assert order_of(start, store, record, "round_robin", mode) == "abc" * 8
    assert any(  # by chance in the given order once in a billion times
        order_of(start, store, record, "random", mode) not in ("abc" * 8, "a" * 8 + "b" * 8 + "c" * 8) for _ in range(2)
    )


def test_round_robin_keeps_its_order_with_long_jobs(
    start: Start, mode: str, store: redis.Redis, tmp_path: Path
) -> None:
    """Jobs that were claimed ahead go back from behind a long job, and the order of the queues is kept."""
    record = str(tmp_path / "record")
    for name in "abc":
        Queue(name, connection=store).enqueue_many(samples.note_after, [record] * 3, [name] * 3, [0.1] * 3)
    flags = ("--burst", "-n", "1", "--dequeue-strategy", "round_robin", "a", "b", "c")
    assert start(*flags, mode=mode).wait() == 0
    assert "".join(lines(record)) == "abc" * 3


@pytest.mark.parametrize("strategy", ["round_robin", "random"])
def test_strategies_lose_no_job_with_several_workers(
    start: Start, mode: str, store: redis.Redis, tmp_path: Path, strategy: str
) -> None:
    record = str(tmp_path / "record")
    for name in "abc":
        texts = [f"{name}{n}" for n in range(100)]
        Queue(name, connection=store).enqueue_many(samples.note, [record] * 100, texts)
    flags = ("--burst", "-n", "2" if mode == "process" else "8", "--dequeue-strategy", strategy, "c", "b", "a")
    assert start(*flags, mode=mode).wait() == 0
    assert sorted(lines(record)) == sorted(f"{name}{n}" for name in "abc" for n in range(100))


def test_at_the_front(start: Start, mode: str, queue: Queue, tmp_path: Path) -> None:
    record = str(tmp_path / "record")
    for n in range(3):
        queue.enqueue(samples.note, record, n)
    queue.enqueue(samples.note, record, "first", at_front=True)
    assert start("--burst", "-n", "1", mode=mode).wait() == 0
    assert lines(record) == ["first", "0", "1", "2"]


# -- when things run -------------------------------------------------------------------------------------------------


def test_a_rate_limit(start: Start, mode: str, store: redis.Redis) -> None:
    """Never more than two jobs run at a time, though six could, and all run in the end."""
    queue = rq.Queue(connection=store)
    limit = RateLimit("api", concurrency=2)
    jobs = [queue.enqueue(samples_rq.count_company, "company", 0.1, "gate", rate_limit=limit) for _ in range(6)]
    start("-n", "6", "--accept", "json,pickle", mode=mode, serve=SERVE)
    eventually(lambda: store.get("company") == b"2")  # however late the second slot starts
    store.set("gate", "open")
    eventually(lambda: all(job.is_finished for job in jobs))
    assert max(job.return_value(refresh=True) for job in jobs) == 2


def test_a_repeat_with_an_interval(start: Start, mode: str, queue: Queue, tmp_path: Path) -> None:
    record = str(tmp_path / "record")
    queue.enqueue(samples.note, record, "ran", repeat=rq.Repeat(times=2, interval=1))
    start("-n", "1", mode=mode)
    eventually(lambda: lines(record) == ["ran"] * 3)


def test_retries_with_intervals(start: Start, mode: str, queue: Queue, tmp_path: Path) -> None:
    record = str(tmp_path / "record")
    job = queue.enqueue(samples.fail_times, record, 2, retry=rq.Retry(max=2, interval=[0, 1]))
    start("-n", "1", mode=mode)
    assert job.result(30) == 3
    assert lines(record) == ["ran"] * 3


def test_suspend_and_resume(
    start: Start, mode: str, server: Server, store: redis.Redis, queue: Queue, tmp_path: Path
) -> None:
    """RQ's switch works while the worker runs: running jobs continue, and no other starts."""
    record, gate = str(tmp_path / "record"), tmp_path / "gate"
    running = queue.enqueue(samples.wait_for, record, 1, str(gate))
    start("-n", "2", mode=mode)
    eventually(lambda: lines(record))
    rq.suspension.suspend(store)
    waiting = queue.enqueue(samples.ok, 2)
    gate.touch()
    assert running.result(30) == 1
    assert status(store, waiting.id) == "queued"
    assert "suspended" in jobq(server, "info").stdout
    rq.suspension.resume(store)
    assert waiting.result(30) == 2


def test_progress_in_meta_is_visible_while_the_job_runs(start: Start, mode: str, store: redis.Redis) -> None:
    job = rq.Queue(connection=store).enqueue(samples_rq.report_progress, meta={"who": "me"})
    start("-n", "1", "--accept", "json,pickle", mode=mode, serve=SERVE)
    eventually(lambda: job.get_meta().get("progress") == 100)
    assert job.get_meta()["who"] == "me"


def test_results_ttl(start: Start, mode: str, queue: Queue, store: redis.Redis) -> None:
    """The default for jobs that do not set their own."""
    kept, own = queue.enqueue(samples.ok, 1), queue.enqueue(samples.ok, 1, result_ttl=5000)
    slow = queue.enqueue(samples.ok, 1, on_success=rq.Callback(samples.on_success))
    assert start("--burst", "-n", "1", "--results-ttl", "90", mode=mode).wait() == 0
    assert [60 < ttl(store, job) <= 90 for job in (kept, slow)] == [True, True]
    assert 4900 < ttl(store, own) <= 5000


def ttl(store: redis.Redis, job: Any) -> int:
    return int(store.ttl(job.key))  # type: ignore[arg-type]


def test_a_group_and_a_unique_job(start: Start, mode: str, store: redis.Redis) -> None:
    queue = rq.Queue(connection=store)
    group = Group.create(store, "them")
    group.enqueue_many(queue, [rq.Queue.prepare_data(samples.ok, (n,)) for n in range(3)])
    queue.enqueue(samples.ok, 1, job_id="one", unique=True)
    with pytest.raises(rq.exceptions.DuplicateJobError):
        queue.enqueue(samples.ok, 1, job_id="one", unique=True)
    assert start("--burst", "-n", "2", "--accept", "json,pickle", mode=mode).wait() == 0
    assert sorted(job.return_value() for job in group.get_jobs()) == [0, 1, 2]
    assert status(store, "one") == "finished"


def test_rqs_environment_variables(start: Start, mode: str, store: redis.Redis, queue: Queue) -> None:
    """The job's id is set only where a process runs one job at a time, as the environment belongs to the process."""
    job = queue.enqueue(samples_rq.environment)
    start("-n", "2", mode=mode, serve=SERVE, RQ_JOB_ID="of the job that started this worker")
    worker, job_id = job.result(30)
    assert store.exists(keys.worker(worker))
    assert job_id == (job.id if mode == "process" else None)


def test_a_running_job_sees_its_worker_and_its_start(start: Start, mode: str, store: redis.Redis, queue: Queue) -> None:
    """The job sees them also in its first 50 ms, and when the store has an earlier run by another worker."""
    job = queue.enqueue(samples_rq.seen_by_itself)
    store.hset(keys.job(job.id), mapping={"worker_name": "another", "started_at": "2020-01-01T00:00:00.000000Z"})
    start("-n", "2", mode=mode, serve=SERVE)
    worker, seen, seconds = job.result(30)
    assert store.exists(keys.worker(worker))
    assert seen == "started"
    assert 0 <= seconds < 10


@pytest.mark.parametrize("function", [samples_rq.take_the_alarm, samples_rq.take_the_alarm_and_spin])
def test_a_job_that_installs_its_own_sigalrm_handler(
    start: Start, queue: Queue, store: redis.Redis, function: Any
) -> None:
    """Time limits still hold: a job that reacts gets an exception, and its process is not killed."""
    first = queue.enqueue(function, job_timeout=1)
    then = queue.enqueue("samples.spin", 60, job_timeout=1)
    start("-n", "1", mode="process", serve=SERVE)
    eventually(lambda: failed(store, then.id))
    spun = [then] if function is samples_rq.take_the_alarm else [first, then]
    for job in spun:
        eventually(lambda job=job: "in spin" in failed(store, job.id))  # type: ignore[misc]  # its traceback
        assert uncounted(store, job.id)


def test_a_process_forked_by_a_job_dies_of_sigterm(start: Start, queue: Queue) -> None:
    job = queue.enqueue(samples_rq.end_a_process_of_ones_own)
    start("-n", "1", mode="process", serve=SERVE)
    assert job.result(30) == -signal.SIGTERM
