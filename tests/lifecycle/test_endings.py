"""Every way in which a job can end, while its worker continues: one worker in each mode runs them all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import rq
from helpers import Server, Tree, assert_nothing_left, eventually, lines
from rq import Callback
from rq.job import Job, JobStatus
from samples import words_of

from jobqueue.errors import JobFailed
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.serializers import Auto

numbers = itertools.count()


@pytest.fixture(scope="module", params=["thread", "process"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def worker(module_server: Server, mode: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    flags = ["--mode", mode, "-n", "3", "-I", "samples"]
    tree = Tree(module_server.url, tmp_path_factory.mktemp("worker"), flags, {})
    try:
        eventually(lambda: module_server.client.scard(keys.WORKERS))  # it has looked at the queue's head: a job that
        yield tree  # it may not serve would be refused at once there, not as a job
        assert tree.stop() == 0
        assert "Traceback" not in tree.log, tree.log
        assert_nothing_left([tree], module_server.client)
    finally:
        tree.destroy()


@pytest.fixture
def store(module_server: Server) -> redis.Redis:
    return module_server.client


@pytest.fixture
def queue(store: redis.Redis, worker: Tree) -> Iterator[Queue]:
    """The worker's queue. After each test the worker runs a job in every slot, which shows that no later job is
    affected."""
    queue = Queue(connection=store)
    yield queue
    values = [next(numbers) for _ in range(20)]
    assert [job.result(30) for job in [queue.enqueue("samples.ok", n) for n in values]] == values


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file for which jobs wait; it is made when the test ends at the latest."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def ended(store: redis.Redis, job_id: str) -> Job:
    """Wait until a job has ended and is recorded, and read it as RQ does."""

    def look() -> Job | None:
        job = Job.fetch(job_id, store, Auto)
        return job if job.get_status() in (JobStatus.FINISHED, JobStatus.FAILED) else None

    job = eventually(look)
    assert job is not None
    return job


def failure(store: redis.Redis, job_id: str) -> str:
    """Return the remote traceback of a failed job, which is in RQ's registry too."""
    job = ended(store, job_id)
    assert job.get_status() is JobStatus.FAILED
    assert store.zscore(keys.registry("failed", job.origin), job_id) is not None
    return str(job.latest_result().exc_string)


# -- well ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 0, "", [1, {"a": None}], "grüße \U0001f600", 2**70])
def test_a_value(queue: Queue, value: object) -> None:
    assert queue.enqueue("samples.ok", value).result(30) == value


def test_rq_reads_the_result(queue: Queue, store: redis.Redis, worker: Tree) -> None:
    job = queue.enqueue("samples.ok", 5)
    assert job.result(30) == 5
    read = Job.fetch(job.id, store, "json")
    assert read.get_status() is JobStatus.FINISHED
    assert read.return_value() == 5
    assert read.started_at <= read.ended_at
    assert read.worker_name in worker.log
    assert store.zscore(keys.registry("finished", "default"), job.id) is not None
    assert 0 < store.ttl(keys.job(job.id)) <= 500


def test_a_big_result(queue: Queue) -> None:
    """The result is larger than the journal's page, so it is settled at once."""
    assert queue.enqueue("samples.big", 300_000).result(30) == "x" * 300_000


def test_a_coroutine(queue: Queue) -> None:
    assert queue.enqueue("samples.coroutine", "done").result(30) == "done"


def test_the_current_job(queue: Queue, store: redis.Redis) -> None:
    job = queue.enqueue("samples.current")
    assert job.result(30) == {
        "id": job.id,
        "origin": "default",
        "status": "started",
        "func_name": "samples.current",
    }
    assert Job.fetch(job.id, store, Auto).meta == {"said": "hello"}


@pytest.mark.parametrize("ttl", [0, 77, -1])
def test_result_ttl(queue: Queue, store: redis.Redis, ttl: int, tmp_path: Path) -> None:
    record = str(tmp_path / "record")
    job = queue.enqueue("samples.note", record, "ran", result_ttl=ttl)
    eventually(lambda: lines(record) == ["ran"])
    if ttl == 0:
        eventually(lambda: not store.exists(keys.job(job.id), keys.results(job.id)))
    else:
        assert job.result(30) == "ran"
        left = {store.ttl(keys.job(job.id)), store.ttl(keys.results(job.id))}
        assert left <= ({-1} if ttl == -1 else {*range(40, 78)})


def test_dependents_wait(queue: Queue, store: redis.Redis, tmp_path: Path) -> None:
    """A chain and a fan: each job runs after the jobs on which it depends."""
    record = str(tmp_path / "record")
    first = queue.enqueue("samples.note_and_nap", record, "first", 0.05)
    fan = [queue.enqueue("samples.note", record, f"fan {n}", depends_on=first) for n in range(3)]
    last = queue.enqueue("samples.note", record, "last", depends_on=fan)
    assert last.result(30) == "last"
    ran = lines(record)
    assert ran[:2] == ["start first", "end first"]
    assert sorted(ran[2:5]) == ["fan 0", "fan 1", "fan 2"]
    assert ran[5:] == ["last"]


def test_dependents_of_a_quick_job(queue: Queue, store: redis.Redis) -> None:
    """Dependents that are enqueued while the job is claimed and run do not wait for ever."""
    for n in range(20):
        first = queue.enqueue("samples.ok", n)
        assert queue.enqueue("samples.ok", "after", depends_on=first).result(30) == "after"


def test_a_dependent_of_a_failed_job_waits(queue: Queue, store: redis.Redis) -> None:
    first = queue.enqueue("samples.fail")
    second = queue.enqueue("samples.ok", depends_on=first)
    assert failure(store, first.id)
    assert second.get_status(refresh=True) is JobStatus.DEFERRED
    second.delete()


def test_a_success_callback(queue: Queue, store: redis.Redis) -> None:
    job = queue.enqueue("samples.ok", 5, on_success=Callback("samples.on_success"))
    assert job.result(30) == 5
    words = store.hgetall(words_of(job.id))
    assert words == {b"success": b"5", b"calls": b"1"}


# -- badly -----------------------------------------------------------------------------------------------------------


def test_an_exception(queue: Queue, store: redis.Redis) -> None:
    """The traceback begins in the job's own code."""
    job = queue.enqueue("samples.fail", "as you wished")
    with pytest.raises(JobFailed, match="as you wished") as caught:
        job.result(30)
    text = failure(store, job.id)
    assert caught.value.traceback.strip() == text.strip()
    first, *_, last = text.strip().splitlines()
    assert (first, last) == ("Traceback (most recent call last):", "ValueError: as you wished")
    assert "samples.py" in text.splitlines()[1]


def test_sys_exit_fails_only_the_job(queue: Queue, store: redis.Redis) -> None:
    assert "SystemExit: 3" in failure(store, queue.enqueue("samples.leave").id)


def test_a_result_that_json_cannot_carry(queue: Queue, store: redis.Redis) -> None:
    text = failure(store, queue.enqueue("samples.return_a_set").id)
    assert "return_a_set returned a value that json cannot carry" in text
    assert "type set" in text


def test_a_missing_function_fails_the_job(queue: Queue, store: redis.Redis) -> None:
    assert "nonsense" in failure(store, queue.enqueue("samples.nonsense").id)


def test_a_function_of_a_module_that_is_not_served_is_refused(queue: Queue, store: redis.Redis) -> None:
    """A function of another module under the name of a served one is refused too."""
    assert "does not serve os.getcwd: start it with -I os" in failure(store, queue.enqueue("os.getcwd").id)
    assert "does not serve samples.borrowed" in failure(store, queue.enqueue("samples.borrowed").id)


def test_a_pickled_job_is_refused(queue: Queue, store: redis.Redis) -> None:
    job = rq.Queue(connection=store).enqueue("samples.ok", 5)
    assert "start it with --accept json,pickle and requeue the job" in failure(store, job.id)


def test_data_that_is_no_call_fails_the_job(queue: Queue, store: redis.Redis) -> None:
    job = queue.enqueue("samples.ok")
    eventually(lambda: job.get_status(refresh=True) is JobStatus.FINISHED)
    store.hset(keys.job(job.id), mapping={"data": b"\xff\xfe", "status": "queued"})
    store.rpush(keys.queue("default"), job.id)
    eventually(lambda: store.hget(keys.job(job.id), "status") == b"failed")


@pytest.mark.parametrize("function", ["samples.nap", "samples.spin", "samples.sleep_in_c"])
def test_the_time_limit(queue: Queue, store: redis.Redis, mode: str, function: str) -> None:
    blocked = mode == "thread" and function == "samples.sleep_in_c"  # raised only when the call returns
    job = queue.enqueue(function, 2.5 if blocked else 60, job_timeout=1)
    said = "The job ran longer than its time limit of 1 s."
    text = failure(store, job.id).strip()
    assert said in text if blocked else text.endswith(said)  # a blocked and late slot may have been written off


def test_retries(queue: Queue, store: redis.Redis, tmp_path: Path) -> None:
    job = queue.enqueue("samples.fail_times", str(tmp_path / "a"), 2, retry=rq.Retry(max=3))
    assert job.result(30) == 3
    assert Job.fetch(job.id, store, Auto).retries_left == 1
    job = queue.enqueue("samples.fail_times", str(tmp_path / "b"), 5, retry=rq.Retry(max=2))
    assert failure(store, job.id).strip().endswith("failure 3")
    assert len(lines(tmp_path / "b")) == 3


def test_a_retry_with_an_interval(queue: Queue, tmp_path: Path) -> None:
    """The job is in RQ's scheduled registry until then, and our scheduler enqueues it."""
    job = queue.enqueue("samples.fail_times", str(tmp_path / "a"), 1, retry=rq.Retry(max=1, interval=1))
    assert job.result(30) == 2


def test_a_returned_retry(queue: Queue, tmp_path: Path) -> None:
    job = queue.enqueue("samples.ask_for_retry", str(tmp_path / "a"), 2)
    assert eventually(lambda: lines(tmp_path / "a") == ["ran"] * 3)
    assert job.result(30) == 3


def test_a_failure_callback(queue: Queue, store: redis.Redis) -> None:
    job = queue.enqueue("samples.fail", "no", on_failure=Callback("samples.on_failure"))
    assert failure(store, job.id).strip().endswith("ValueError: no")
    assert store.hgetall(words_of(job.id)) == {b"failure": b"ValueError: no", b"calls": b"1"}


def test_a_success_callback_that_fails(queue: Queue, store: redis.Redis) -> None:
    """As in RQ, the job fails, and its failure callback is called."""
    job = queue.enqueue(
        "samples.ok", on_success=Callback("samples.bad_callback"), on_failure=Callback("samples.on_failure")
    )
    assert "RuntimeError: the callback failed" in failure(store, job.id)
    assert store.hget(words_of(job.id), "failure") == b"RuntimeError: the callback failed"


def test_a_callback_has_a_time_limit(queue: Queue, store: redis.Redis) -> None:
    job = queue.enqueue("samples.ok", on_success=Callback("samples.slow_callback", timeout=1))
    assert "its time limit of 1 s" in failure(store, job.id)


def test_a_job_deleted_while_it_waits(queue: Queue, store: redis.Redis) -> None:
    """The job leaves the queue, and the worker continues."""
    store.rpush(keys.queue("default"), "nobody")
    eventually(lambda: not store.llen(keys.queue("default")))
    assert not store.exists(keys.job("nobody"))


def test_a_job_deleted_while_it_runs(queue: Queue, store: redis.Redis, tmp_path: Path, gate: Path) -> None:
    record = str(tmp_path / "record")
    job = queue.enqueue("samples.wait_for", record, 1, str(gate))
    eventually(lambda: lines(record))
    store.delete(keys.job(job.id))
    gate.touch()
    eventually(lambda: len(lines(record)) == 2)
    eventually(lambda: not any(job.id.encode() in claims(store, key) for key in store.scan_iter(keys.own("*"))))
    assert not store.exists(keys.job(job.id))


def claims(store: redis.Redis, key: bytes) -> list[bytes]:
    return list(store.zrange(key, 0, -1))


def test_a_running_job_is_visible_to_rq(
    queue: Queue, store: redis.Redis, worker: Tree, tmp_path: Path, gate: Path
) -> None:
    """Status, start, worker, RQ's started registry and execution are set; all are gone when the job has ended."""
    record = str(tmp_path / "record")
    job = queue.enqueue("samples.wait_for", record, 1, str(gate))
    eventually(lambda: Job.fetch(job.id, store, Auto).get_status() is JobStatus.STARTED)
    read = Job.fetch(job.id, store, Auto)
    assert read.worker_name in worker.log
    [execution] = read.get_executions()
    assert job.id in rq.registry.StartedJobRegistry("default", store).get_job_ids(cleanup=False)
    assert execution.worker_name == read.worker_name
    gate.touch()
    assert job.result(30) == 1
    assert Job.fetch(job.id, store, Auto).get_executions() == []
    assert job.id not in rq.registry.StartedJobRegistry("default", store).get_job_ids(cleanup=False)
