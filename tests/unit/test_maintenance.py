"""RQ's maintenance: jobs that dead RQ workers left are repaired; jobs that our processes hold are not touched."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import pytest
import redis
import rq
import samples
import samples_rq
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from jobqueue.protocol import keys
from jobqueue.store.connection import Address
from jobqueue.workers.roles.maintenance import Maintenance
from jobqueue.workers.rq_finish.maintenance import Intermediate, MaintenanceRound
from jobqueue.workers.shared.messages import MAINTENANCE
from jobqueue.workers.shared.settings import Settings

OWNER = "w-1:0.1"
CALL = "samples.ok"


@pytest.fixture
def client() -> redis.Redis:
    return fakeredis.FakeRedis()


@pytest.fixture
def chores(client: redis.Redis) -> Iterator[Callable[..., None]]:
    """Run one round."""
    ours, theirs = socket.socketpair()

    def run(**told: Any) -> None:
        MaintenanceRound(Settings(Address(url="redis://127.0.0.1:1/0"), "w", ("q",), 1, 1, **told), ours, client).run()

    yield run
    ours.close()
    theirs.close()


@pytest.fixture
def clean(chores: Callable[..., None]) -> Callable[..., None]:
    """Run one round of a worker that accepts these formats."""
    return lambda *accept: chores(accept=accept or ("json",))


def queue(client: redis.Redis, serializer: object = JSONSerializer) -> rq.Queue:
    return rq.Queue("q", connection=client, serializer=serializer)


def abandoned(client: redis.Redis, q: rq.Queue, **options: object) -> Job:
    """Make a job look as when RQ's worker was killed while it ran."""
    job = q.enqueue(CALL, 1, **options)
    client.lrem(q.key, 1, job.id)
    with client.pipeline() as pipe:
        execution = Execution.create(job, ttl=100, pipeline=pipe, worker_name="theirs")
        job.prepare_for_execution("theirs", pipe)
        pipe.zadd(keys.registry("wip", "q"), {execution.composite_key: time.time() - 1})
        pipe.execute()
    return job


def stuck(client: redis.Redis, q: rq.Queue, seconds: float) -> Job:
    """Make a job look as if RQ's worker lost it between two lists, and maintenance saw it there this long ago."""
    job = q.enqueue(CALL, 1)
    client.lrem(q.key, 1, job.id)
    client.rpush(keys.intermediate("q"), job.id)
    client.set(IntermediateQueue(q.key, client).get_first_seen_key(job.id), time.time() - seconds)
    return job


def hold(client: redis.Redis, job: Job) -> None:
    client.sadd(keys.OWNERS, OWNER)
    client.zadd(keys.own(OWNER), {job.id: 1})


def test_jobs_that_a_dead_rq_worker_ran_fail(client: redis.Redis, clean: Callable[..., None]) -> None:
    q = queue(client)
    once, again = abandoned(client, q), abandoned(client, q, retry=rq.Retry(max=2))
    clean()
    assert once.get_status() is JobStatus.FAILED
    assert client.zscore(keys.registry("failed", "q"), once.id)
    assert again.get_status() is JobStatus.QUEUED
    assert q.job_ids == [again.id]
    assert not client.exists(keys.registry("wip", "q"))


opened: list[str] = []


def mark() -> None:
    opened.append("opened")


class Trap:
    """An object whose unpickling is recorded."""

    def __reduce__(self) -> tuple[object, ...]:
        return mark, ()


def test_pickled_jobs_are_read_only_where_pickle_is_accepted(client: redis.Redis, clean: Callable[..., None]) -> None:
    """Only the meta of such a job would be read; it stays as it is."""
    q = queue(client, None)
    job = abandoned(client, q, meta={"a": Trap()}, retry=rq.Retry(max=2))
    raw = client.hget(keys.job(job.id), "meta")
    opened.clear()
    clean()
    assert job.get_status() is JobStatus.QUEUED
    assert client.hget(keys.job(job.id), "meta") == raw
    assert opened == []
    told = abandoned(client, q, meta={"a": {1}}, retry=rq.Retry(max=2))
    clean("json", "pickle")
    told.refresh()
    assert (told.args, told.meta, told.get_status()) == ((1,), {"a": {1}}, JobStatus.QUEUED)


def test_abandoned_jobs_keep_the_workers_job_class_and_format(client: redis.Redis, chores: Callable[..., None]) -> None:
    """Callbacks get an abandoned job in the job class and format of the worker."""
    q = rq.Queue("q", connection=client, serializer=samples_rq.Backwards)
    job = abandoned(client, q, meta={"user": "ann"}, on_failure=rq.Callback("samples_rq.tell"))
    chores(job_class="samples_rq.OwnJob", serializer="samples_rq.Backwards", modules=("samples_rq",))
    assert job.get_status() is JobStatus.FAILED
    assert client.lrange(samples_rq.told(job.id), 0, -1) == [b"called back ann"]


def test_jobs_that_our_processes_hold_do_not_count_as_abandoned(
    client: redis.Redis, clean: Callable[..., None]
) -> None:
    """The supervisor of such a job died with its host: a rescue will handle the job."""
    q = queue(client)
    job, other = abandoned(client, q), abandoned(client, q)
    hold(client, job)
    clean()
    assert job.get_status() is JobStatus.STARTED
    assert other.get_status() is JobStatus.FAILED


def test_jobs_that_rq_lost_between_two_lists_are_repaired(client: redis.Redis, clean: Callable[..., None]) -> None:
    q = queue(client)
    lost, fresh, ours = stuck(client, q, 61), stuck(client, q, 1), stuck(client, q, 61)
    hold(client, ours)
    clean()
    assert lost.get_status() is JobStatus.FAILED
    assert "stuck" in str(lost.latest_result().exc_string)
    assert {fresh.get_status(), ours.get_status()} == {JobStatus.QUEUED}
    assert client.lrange(keys.intermediate("q"), 0, -1) == [fresh.id.encode(), ours.id.encode()]
    seen = IntermediateQueue(q.key, client).get_first_seen_key
    assert [client.exists(seen(job.id)) for job in (lost, fresh)] == [0, 1]


def test_ids_of_expired_jobs_leave_the_registries(client: redis.Redis, clean: Callable[..., None]) -> None:
    """RQ keeps such ids in the deferred and canceled registries for ever, with the sets of their dependents."""
    q = queue(client)
    parent = q.enqueue(CALL, 1)
    child = q.enqueue(CALL, 1, depends_on=parent)
    q.enqueue(CALL, 1, depends_on=child)
    parent.cancel()
    for job in (parent, child):
        client.delete(job.key)
    clean()
    assert not client.exists(keys.registry("canceled", "q"), keys.dependents(parent.id), keys.dependents(child.id))
    assert client.zcard(keys.registry("deferred", "q")) == 1


def test_a_job_that_is_claimed_and_settled_during_the_round_is_left_alone(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is claimed after the first reading of what is held and settled before the second: it is in neither
    reading, and not stuck."""
    q = queue(client)
    job = stuck(client, q, 1)

    def look(store: redis.Redis) -> set[str]:
        if looks:
            client.lrem(keys.intermediate("q"), 1, job.id)
        looks.append(store)
        return set()

    looks: list[redis.Redis] = []
    monkeypatch.setattr("jobqueue.workers.rq_finish.maintenance.held_by_us", look)
    assert Intermediate(q.key, client).get_job_ids() == []
    assert len(looks) == 2


def test_callbacks_and_exception_handlers_of_abandoned_jobs_are_called(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only callbacks that are served are called, and the operator's exception handlers."""
    q = queue(client)
    served, other = (abandoned(client, q, on_failure=rq.Callback(f)) for f in ("samples.on_failure", "os.getpid"))
    ours, theirs = socket.socketpair()
    told = {"modules": ("samples",), "exception_handlers": ("samples_rq.handle",)}
    with ours, theirs:
        MaintenanceRound(Settings(Address(url="redis://127.0.0.1:1/0"), "w", ("q",), 1, 1, **told), ours, client).run()
    assert client.hget(samples.words_of(served.id), "failure") is not None
    assert {job.get_status() for job in (served, other)} == {JobStatus.FAILED}
    assert [client.llen(samples_rq.handled(job.id)) for job in (served, other)] == [1, 1]


def test_a_dependent_that_is_ready_is_enqueued(client: redis.Redis, clean: Callable[..., None]) -> None:
    """The worker of such a dependent died after it recorded the dependency's end and before it enqueued the
    dependent."""
    q = queue(client)
    job = q.enqueue(CALL, 1)
    client.lrem(q.key, 1, job.id)
    client.hset(keys.job(job.id), "status", "ready_to_enqueue")
    client.zadd(keys.registry("ready", "q"), {job.id: 1})
    clean()
    assert q.job_ids == [job.id]
    assert not client.exists(keys.registry("ready", "q"))


def test_entries_that_cannot_be_read_do_not_hold_up_the_others(
    client: redis.Redis, clean: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """RQ's code would fail at each of these entries, in every round; the entries after them are maintained."""
    client.zadd(
        keys.registry("wip", "q"), {"a:b:c": 1, b"\xff:\xfe": 1, "no_execution": 1, "other:run": time.time() + 99}
    )
    client.zadd(keys.registry("ready", "q"), {b"\xff": 1})
    client.rpush(keys.intermediate("q"), b"\xff\xfe", b"\xff\xfe")
    test_a_dependent_that_is_ready_is_enqueued(client, clean)
    assert client.zrange(keys.registry("wip", "q"), 0, -1) == [b"other:run"]
    assert not client.exists(keys.intermediate("q"), keys.registry("ready", "q"))
    assert (
        "rq:wip:q: 3 entries that are no ids of jobs are taken out: 'a:b:c', 'no_execution', '\\xff:\\xfe'"
        in caplog.text
    )


def test_expired_entries_are_removed(client: redis.Redis, clean: Callable[..., None]) -> None:
    for kind in ("finished", "failed"):
        client.zadd(keys.registry(kind, "q"), {"old": 1, "kept": time.time() + 100})
    client.sadd(keys.WORKERS, keys.worker("gone"))
    client.sadd(keys.workers_of("q"), keys.worker("gone"))
    client.sadd("rq:groups", "rq:group:gone")
    clean()
    assert [client.zrange(keys.registry(kind, "q"), 0, -1) for kind in ("finished", "failed")] == [[b"kept"]] * 2
    assert not client.exists(keys.WORKERS, keys.workers_of("q"))


def test_the_round_respects_rqs_lock(client: redis.Redis, clean: Callable[..., None]) -> None:
    q = queue(client)
    job = abandoned(client, q)
    assert q.acquire_maintenance_lock()
    clean()
    assert job.get_status() is JobStatus.STARTED
    q.release_maintenance_lock()
    clean()
    assert job.get_status() is JobStatus.FAILED
    assert q.acquire_maintenance_lock()


def test_the_lock_is_released_after_an_error(
    client: redis.Redis, clean: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise NoSuchJobError("as you wished")

    monkeypatch.setattr("jobqueue.workers.rq_finish.maintenance.clean_worker_registry", fail)
    with pytest.raises(NoSuchJobError):
        clean()
    assert queue(client).acquire_maintenance_lock()


# -- when ----------------------------------------------------------------------------------------------------------


class Tree:
    """Stand in for a supervisor's main loop and fork server."""

    def __init__(self, interval: float, burst: bool = False) -> None:
        self.forks, self.plain = 0, list[bool]()
        self.role = Maintenance(interval, burst, lambda event: event(), self._fork, lambda: 1000.0)

    def _fork(self, plain: bool) -> bool:
        self.forks += 1
        self.plain.append(plain)
        self.role.forked(MAINTENANCE, 100 + self.forks)
        return True

    def steps(self, *times: float) -> list[bool]:
        return [self.role.step(1000.0 + at) for at in times]


def test_a_round_is_started_every_ten_minutes() -> None:
    tree = Tree(600)
    assert tree.steps(0, 50, 95, 96, 600, 800) == [False, False, True, False, False, True]
    assert tree.forks == 1  # the first was still running
    assert tree.role.died(101, 0)
    assert not tree.role.running
    assert tree.steps(1500) == [True]
    assert tree.forks == 2


def test_a_round_that_died_is_repeated_without_user_code() -> None:
    tree = Tree(600)
    tree.steps(95)
    assert tree.role.died(101, 9)
    assert (tree.plain, tree.role.running) == ([False, True], True)
    assert tree.role.died(102, 9)  # it was not user code that failed: the next try is when a round is due
    assert (tree.plain, tree.role.running) == ([False, True], False)
    assert tree.steps(1500) == [True]
    assert tree.plain == [False, True, False]


def test_a_round_that_takes_too_long_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr("jobqueue.workers.roles.maintenance.os.kill", lambda *what: killed.append(what))
    tree = Tree(600)
    tree.steps(95, 500)
    assert killed == []
    tree.steps(601)
    assert killed == [(101, signal.SIGKILL)]


def test_a_round_that_a_callback_has_stopped_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr("jobqueue.workers.roles.maintenance.os.kill", lambda *what: killed.append(what))
    stopped: set[int] = set()
    monkeypatch.setattr("jobqueue.workers.roles.maintenance.is_stopped", stopped.__contains__)
    tree = Tree(600)
    tree.steps(95, 100)
    stopped.add(101)
    tree.steps(101, 102)
    stopped.clear()  # somebody has continued it
    tree.steps(103, 104)
    stopped.add(101)
    tree.steps(105, 106)
    assert killed == []
    tree.steps(107)
    assert killed == [(101, signal.SIGKILL)]


def test_an_interval_of_zero_switches_maintenance_off() -> None:
    tree = Tree(0, burst=True)
    assert tree.steps(0, 10_000) == [False, False]
    assert not tree.role.awaited


def test_a_burst_begins_with_a_round() -> None:
    tree = Tree(600, burst=True)
    assert tree.role.awaited
    assert tree.steps(0) == [True]
    assert (tree.role.awaited, tree.role.running) == (False, True)
    tree.role.all_died()
    assert not tree.role.running


def test_after_an_outage_the_round_waits() -> None:
    tree = Tree(600, burst=True)
    tree.role.reconnected()
    assert tree.steps(0, 50, 95) == [False, False, True]
    assert not tree.role.awaited
