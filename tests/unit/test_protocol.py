"""Every script: what it does, what RQ reads afterwards, and that it does nothing for a process without the token."""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import fakeredis
import pytest
import redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.rate_limit import RateLimit
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.scheduler import RQScheduler
from rq.worker import Worker

from jobqueue.protocol import keys
from jobqueue.protocol.claims import Claimed, Features, StartMark, Token, features_of
from jobqueue.protocol.cycle import Cycle, CycleState
from jobqueue.protocol.outcomes import RAISED, RETURNED, Ack, JobOutcome
from jobqueue.protocol.protocol import Protocol
from jobqueue.protocol.rescue import ForRQ, Rescue, Ruling
from jobqueue.serializers import Auto
from jobqueue.store.connection import Address
from jobqueue.workers.roles.heartbeat import Heartbeat
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.shared.timestamps import rq_time

W = "host-1-abc"
ONE, TWO = f"{W}:0.1", f"{W}:1.1"
NOW = 1_795_000_000.5


class Desk:
    """A store, two living owners, and short methods for what they do."""

    def __init__(self, store: redis.Redis | None = None) -> None:
        self.store = store or fakeredis.FakeRedis()
        self.protocol = Protocol(self.store)
        self.store.sadd(keys.OWNERS, ONE, TWO)

    def enqueue(self, *ids: str, queue: str = "default", **fields: Any) -> None:
        now = rq_time(time.time())
        base = {"status": "queued", "origin": queue, "created_at": now, "enqueued_at": now, "description": "x"}
        data = json.dumps(["jobqueue.tasks.square", None, [2], {}])
        assert all(self.protocol.enqueue(queue, [(i, {**base, "data": data, **fields}) for i in ids]))

    def claim(self, want: int = 64, owner: str = ONE, queues: tuple[str, ...] = ("default",), idle: int = 1) -> Cycle:
        return self.protocol.cycle(owner, W, queues, [], want, idle)

    def all(self, owner: str = ONE) -> list[Claimed]:
        """Claim everything, although two owners share the queue."""
        return self.claim(64, owner, idle=64).jobs

    def settle(self, *outcomes: JobOutcome, owner: str = ONE) -> list[int]:
        return self.protocol.cycle(owner, W, ["default"], outcomes, 0).acks

    def waiting(self, queue: str = "default") -> list[str]:
        return [i.decode() for i in self.store.lrange(keys.queue(queue), 0, -1)]

    def held(self, owner: str = ONE) -> list[str]:
        return [i.decode() for i in self.store.zrange(keys.own(owner), 0, -1)]

    def intermediate(self, queue: str = "default") -> list[str]:
        return [i.decode() for i in self.store.lrange(keys.intermediate(queue), 0, -1)]

    def job(self, job_id: str) -> Job:
        return Job.fetch(job_id, self.store, Auto)

    def mark(self, *jobs: Claimed, owner: str = ONE) -> list[bool]:
        return self.protocol.start_mark(owner, W, [StartMark(job, rq_time(NOW), 90) for job in jobs])

    def rescue(
        self, owner: str = ONE, running: Sequence[int] | None = (), verdict: str = "crash", **told: Any
    ) -> Rescue | None:
        cause = text("ChildKilled: it is gone")
        judged = None if running is None else [Ruling(claim, verdict, cause) for claim in running]
        base = {"on_crash": "retry", "most": 3, "final": False, "cause": cause, "ended_at": rq_time(NOW), "ended": NOW}
        return self.protocol.rescue(owner, W, running=judged, **{**base, **told})

    def running_is_clean(self, job_id: str) -> None:
        """Assert that no key shows the job as running any more."""
        for pattern in ("rq:wip:*", "rq:execution*", "rq:worker:*:executions", "rq:jobq:fin:*"):
            assert not [k for k in self.store.keys(pattern) if self.mentions(k, job_id)]

    def mentions(self, key: bytes, job_id: str) -> bool:
        return job_id.encode() in key or (self.store.type(key) == b"zset" and bool(self.store.zcard(key)))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def text(words: str) -> bytes:
    return base64.b64encode(zlib.compress(words.encode()))


def returned(job: Claimed, value: Any = 4, ttl: int = 500, **changes: Any) -> JobOutcome:
    payload = b"" if value is None else base64.b64encode(json.dumps(value).encode())
    times = (rq_time(NOW), rq_time(NOW + 0.25), NOW, NOW + 0.25)
    return JobOutcome(job.id, job.claim, job.queue, RETURNED, ttl, payload, *times)._replace(**changes)


def raised(job: Claimed, words: str = "ValueError: no") -> JobOutcome:
    return returned(job)._replace(kind=RAISED, payload=text(words), ttl=1000)


# -- ENQUEUE -------------------------------------------------------------------------------------------------------


def test_enqueue_is_idempotent(desk: Desk) -> None:
    jobs = [("a", {"data": "1"}), ("b", {"data": "2"})]
    assert desk.protocol.enqueue("default", jobs) == [True, True]
    assert desk.protocol.enqueue("default", [*jobs, ("c", {"data": "3"})]) == [False, False, True]
    assert desk.waiting() == ["a", "b", "c"]
    assert desk.store.smembers(keys.QUEUES) == {keys.queue("default").encode()}


def test_enqueue_at_the_front_with_a_ttl(desk: Desk) -> None:
    desk.enqueue("a")
    desk.protocol.enqueue("default", [("b", {"data": "1"})], at_front=True, ttl=30)
    assert desk.waiting() == ["b", "a"]
    assert 0 < desk.store.ttl(keys.job("b")) <= 30


# -- CYCLE: claim --------------------------------------------------------------------------------------------------


def test_a_claim_moves_a_job_from_the_queue_to_the_owner(desk: Desk) -> None:
    desk.enqueue("a", "b")
    cycle = desk.claim(2, idle=2)
    assert cycle.state is CycleState.CLAIMED
    assert [(job.id, job.claim, job.queue) for job in cycle.jobs] == [("a", 1, "default"), ("b", 2, "default")]
    assert (desk.waiting(), desk.held(), desk.intermediate()) == ([], ["a", "b"], ["a", "b"])


def test_the_fields_of_a_claimed_job(desk: Desk) -> None:
    desk.enqueue("a", timeout=30, result_ttl=-1, failure_ttl=60, retries_left=2)
    desk.enqueue("b")
    a, b = desk.claim(2, idle=2).jobs
    assert a == Claimed("a", 1, "default", a.data, 30.0, -1, 60, 2, Features(failure_by_rq=True), a.ready_at)
    assert b == Claimed("b", 2, "default", b.data, None, None, None, 0, Features(), b.ready_at)
    assert b.ready_at == pytest.approx(time.time(), abs=60)
    assert json.loads(a.data)[2] == [2]


def test_invalid_fields_in_a_hash_do_not_stop_a_claim(desk: Desk) -> None:
    desk.enqueue("a", timeout="soon", result_ttl="x", retries_left="many")
    [job] = desk.all()
    assert (job.timeout, job.result_ttl, job.retries_left) == (None, None, 0)


@pytest.mark.parametrize(
    ("fields", "features"),
    [
        ({}, ""),
        ({"ttl": 30}, "m"),
        ({"jobq_redelivered": 1}, "m"),
        ({"rate_limit_key": "k"}, "msf"),
        ({"webhooks": "[]"}, "sf"),
        ({"repeats_left": 1}, "s"),
        ({"repeats_left": 0}, ""),
        ({"success_callback_name": "m.f"}, "s"),
        ({"failure_callback_name": "m.f"}, "f"),
        ({"retries_left": 1}, "f"),
        ({"result_ttl": 0}, "s"),
        ({"success_callback_name": ""}, ""),
        ({"jobq_crashes": 2}, "3"),
        ({"number_of_retries": 1, "jobq_crashes": 1}, "3"),
        ({"retries_left": 0, "jobq_retries": 2}, "3"),
        ({"retries_left": 1, "jobq_retries": 2, "failure_callback_name": "m.f"}, "f3"),
        ({"jobq_crashes": "nan", "number_of_retries": "-4", "ttl": 30}, "m"),
        ({"jobq_crashes": "9" * 400}, "99"),
    ],
)
def test_the_features_of_a_claimed_job(desk: Desk, fields: dict[str, Any], features: str) -> None:
    desk.enqueue("a", **fields)
    assert desk.all()[0].features == features_of(features.encode())


def test_queues_are_read_in_their_order(desk: Desk) -> None:
    desk.enqueue("l1", "l2", queue="low")
    desk.enqueue("h1", "h2", queue="high")
    jobs = desk.claim(3, queues=("high", "low"), idle=3).jobs
    assert [(job.id, job.queue) for job in jobs] == [("h1", "high"), ("h2", "high"), ("l1", "low")]
    assert (desk.waiting("low"), desk.intermediate("high")) == (["l2"], ["h1", "h2"])


def test_an_owner_claims_at_most_its_share_of_a_short_queue(desk: Desk) -> None:
    """With two owners each claims half of the jobs, but at least one for each slot without a job."""
    desk.enqueue(*"abcdefgh")
    assert len(desk.claim(64, idle=1).jobs) == 4
    assert len(desk.claim(64, TWO, idle=1).jobs) == 2
    assert len(desk.claim(64, idle=2).jobs) == 2
    assert desk.claim(64).state is CycleState.EMPTY


def test_a_deleted_job_leaves_the_queue(desk: Desk) -> None:
    desk.enqueue("a", "b")
    desk.store.delete(keys.job("a"))
    assert [job.id for job in desk.all()] == ["b"]
    assert (desk.held(), desk.intermediate()) == (["b"], ["b"])


@pytest.mark.parametrize("state", ["suspended", "paused", "empty", "fenced"])
def test_states_of_a_cycle_without_a_job(desk: Desk, state: str) -> None:
    if state != "empty":
        desk.enqueue("a")
    if state == "suspended":
        desk.store.set(keys.SUSPENDED, 1)
    elif state == "paused":
        desk.store.sadd(keys.PAUSED, "default")
    elif state == "fenced":
        desk.store.srem(keys.OWNERS, ONE)
    assert desk.claim() == Cycle(state, [], [])
    assert desk.waiting() == ([] if state == "empty" else ["a"])


def test_a_paused_queue_is_passed_over(desk: Desk) -> None:
    desk.enqueue("a", queue="one")
    desk.enqueue("b", queue="two")
    desk.store.sadd(keys.PAUSED, "one")
    assert [job.id for job in desk.claim(2, queues=("one", "two"), idle=2).jobs] == ["b"]
    assert desk.claim(2, queues=("one", "two"), idle=2).state is CycleState.EMPTY


# -- CYCLE: settle -------------------------------------------------------------------------------------------------


def test_many_outcomes_in_one_request_are_recorded_as_one_by_one(desk: Desk) -> None:
    """The outcomes are in another order than the claims, from two queues, and have every kind of ending."""
    desk.enqueue(*"abcdefg")
    desk.enqueue("other", queue="low")
    jobs = {job.id: job for job in desk.claim(8, queues=("default", "low"), idle=8).jobs}
    desk.store.sadd(keys.dependents("b"), "child")
    desk.store.hset(keys.job("c"), "status", "canceled")
    desk.store.delete(keys.job("d"))
    desk.mark(jobs["e"])
    outcomes = [
        returned(jobs["g"]),
        *(returned(jobs[job_id]) for job_id in ("other", "b", "c", "d", "e")),
        returned(jobs["a"], ttl=0),
        returned(jobs["g"], 5),  # the same token again
        returned(jobs["f"], claim=99),
    ]
    ok, gone, lost = Ack.RECORDED, Ack.GONE, Ack.LOST
    assert desk.settle(*outcomes) == [ok, ok, Ack.HAS_DEPENDENTS, gone, gone, ok, ok, lost, lost]
    assert (desk.held(), desk.intermediate(), desk.intermediate("low")) == (["b", "f"], ["b", "f"], [])
    assert [i.decode() for i in desk.store.zrange(keys.registry("finished", "default"), 0, -1)] == ["e", "g"]
    assert [i.decode() for i in desk.store.zrange(keys.registry("finished", "low"), 0, -1)] == ["other"]
    assert desk.store.xlen(keys.results("g")) == 1
    assert (desk.job("g").return_value(), desk.store.exists(keys.job("a"))) == (4, 0)
    desk.running_is_clean("e")
    assert desk.store.hget(keys.worker(W), "successful_job_count") == b"4"


def test_the_commands_that_a_short_job_costs_the_store(store: redis.Redis) -> None:
    """A short job costs six commands: two HMGET, HSET, XADD and two EXPIRE. All else is read and written once per
    batch."""
    desk = Desk(store)
    desk.enqueue(*map(str, range(64)))
    store.config_resetstat()
    jobs = desk.claim(64, idle=64).jobs
    desk.settle(*map(returned, jobs))
    calls = {name.removeprefix("cmdstat_"): entry["calls"] for name, entry in store.info("commandstats").items()}
    per_job = {name: count // len(jobs) for name, count in calls.items() if count >= len(jobs)}
    assert per_job == {"hmget": 2, "hset": 1, "xadd": 1, "expire": 2}
    assert sum(calls.values()) - 6 * len(jobs) <= 40  # two scripts, and the commands once per batch
    assert not [key for key in store.keys("rq:*") if store.type(key) == b"list"]


def test_a_result_as_rq_reads_it(desk: Desk) -> None:
    desk.enqueue("a")
    [job] = desk.all()
    assert desk.settle(returned(job, {"x": 4})) == [Ack.RECORDED]
    read = desk.job("a")
    assert read.get_status() is JobStatus.FINISHED
    assert read.return_value() == {"x": 4}
    assert (read.worker_name, read.started_at.timestamp(), read.ended_at.timestamp()) == (W, NOW, NOW + 0.25)
    result = read.latest_result()
    assert (result.type, result.worker_name) == (Result.Type.SUCCESSFUL, W)
    assert FinishedJobRegistry("default", desk.store).get_job_ids() == ["a"]
    assert (desk.held(), desk.intermediate(), desk.waiting()) == ([], [], [])
    assert 0 < desk.store.ttl(keys.job("a")) <= 500
    assert 0 < desk.store.ttl(keys.results("a")) <= 500


def test_a_failure_as_rq_reads_it(desk: Desk) -> None:
    desk.enqueue("a")
    [job] = desk.all()
    assert desk.settle(raised(job)) == [Ack.RECORDED]
    read = desk.job("a")
    assert read.get_status() is JobStatus.FAILED
    assert read.latest_result().exc_string == "ValueError: no"
    assert FailedJobRegistry("default", desk.store).get_job_ids() == ["a"]
    assert 900 < desk.store.ttl(keys.job("a")) <= 1000


def test_a_result_of_none_and_a_result_kept_for_ever(desk: Desk) -> None:
    desk.enqueue("a", ttl=50)
    [job] = desk.all()
    desk.settle(returned(job, None, ttl=-1))
    assert desk.job("a").return_value() is None
    assert (desk.store.ttl(keys.job("a")), desk.store.ttl(keys.results("a"))) == (-1, -1)
    assert desk.store.zscore(keys.registry("finished", "default"), "a") == float("inf")


def test_the_workers_counters(desk: Desk) -> None:
    desk.enqueue(*"abc")
    a, b, c = desk.all()
    assert desk.settle(returned(a), raised(b), returned(c)) == [Ack.RECORDED] * 3
    counters = desk.store.hgetall(keys.worker(W))
    assert counters[b"successful_job_count"] == b"2"
    assert counters[b"failed_job_count"] == b"1"
    assert float(counters[b"total_working_time"]) == pytest.approx(0.75)


def test_a_repeated_settle_changes_nothing(desk: Desk) -> None:
    desk.enqueue("a")
    [job] = desk.all()
    assert desk.settle(returned(job)) == [Ack.RECORDED]
    assert desk.settle(raised(job)) == [Ack.LOST]
    assert desk.job("a").get_status() is JobStatus.FINISHED
    assert desk.store.xlen(keys.results("a")) == 1


def test_without_the_token_nothing_is_written(desk: Desk) -> None:
    """The token does not match: another claim of the job, another owner, or an owner that was struck off."""
    desk.enqueue("a")
    [old] = desk.all()
    desk.protocol.give_back(W, [Token(ONE, "a", old.claim, "default")])
    [new] = desk.all(TWO)
    assert desk.settle(returned(old)) == [Ack.LOST]
    assert desk.settle(returned(new)) == [Ack.LOST]
    assert desk.settle(returned(old), owner=TWO) == [Ack.LOST]
    desk.store.srem(keys.OWNERS, TWO)
    assert desk.protocol.cycle(TWO, W, ["default"], [returned(new)], 1).state is CycleState.FENCED
    assert desk.job("a").get_status() is JobStatus.QUEUED
    assert not desk.store.exists(keys.results("a"))


def test_a_job_whose_hash_is_gone_is_released(desk: Desk) -> None:
    desk.enqueue("a")
    [job] = desk.all()
    desk.mark(job)
    desk.store.delete(keys.job("a"))
    assert desk.settle(returned(job)) == [Ack.GONE]
    assert (desk.held(), desk.intermediate()) == ([], [])
    assert not desk.store.exists(keys.job("a"), keys.results("a"))
    desk.running_is_clean("a")


def test_a_job_with_dependents_is_left_to_rqs_finish(desk: Desk) -> None:
    desk.enqueue("a", "b")
    a, b = desk.all()
    desk.store.sadd(keys.dependents("a"), "waits")
    assert desk.settle(returned(a), returned(b)) == [Ack.HAS_DEPENDENTS, Ack.RECORDED]
    assert desk.held() == ["a"]
    assert desk.job("a").get_status() is JobStatus.QUEUED


# -- START MARK ----------------------------------------------------------------------------------------------------


def test_a_mark_as_rq_reads_it(desk: Desk) -> None:
    desk.enqueue("a", ttl=50)
    desk.store.expire(keys.job("a"), 50)
    [job] = desk.all()
    assert desk.mark(job) == [True]
    read = desk.job("a")
    assert (read.get_status(), read.worker_name) == (JobStatus.STARTED, W)
    assert read.started_at.timestamp() == NOW
    [execution] = read.get_executions()
    assert (execution.job_id, execution.worker_name) == ("a", W)
    assert StartedJobRegistry("default", desk.store).get_job_ids(cleanup=False) == ["a"]
    assert desk.store.ttl(keys.job("a")) == -1  # no expiry while it runs
    assert desk.intermediate() == []
    assert desk.store.hget(keys.worker(W), "state") == b"busy"


def test_a_marked_job_is_settled_without_a_trace(desk: Desk) -> None:
    desk.enqueue("a")
    [job] = desk.all()
    desk.mark(job)
    assert desk.settle(returned(job)) == [Ack.RECORDED]
    desk.running_is_clean("a")
    assert desk.job("a").get_executions() == []


def test_a_late_mark_does_nothing(desk: Desk) -> None:
    desk.enqueue("a", "b", "c")
    a, b, c = desk.all()
    desk.settle(returned(a))
    desk.store.delete(keys.job("b"))
    assert desk.mark(a, b, c) == [False, False, True]
    assert desk.mark(c, owner=TWO) == [False]
    assert desk.job("a").get_status() is JobStatus.FINISHED
    assert not desk.store.exists(keys.job("b"))


# -- HEARTBEAT -----------------------------------------------------------------------------------------------------


def test_heartbeat_renews_running_jobs(desk: Desk) -> None:
    desk.enqueue("a", "b")
    a, b = desk.all()
    desk.mark(a, b)
    desk.settle(returned(b))
    member = desk.store.zrange(keys.registry("wip", "default"), 0, -1)[0]
    desk.store.zadd(keys.registry("wip", "default"), {member: 5})
    assert desk.protocol.heartbeat(W, 90) == 1
    assert desk.store.zscore(keys.registry("wip", "default"), member) > time.time() + 60
    assert desk.store.zcard(keys.registry("wip", "default")) == 1  # b is not created again


def test_heartbeat_removes_jobs_whose_hash_is_gone(desk: Desk) -> None:
    desk.enqueue("a")
    [a] = desk.all()
    desk.mark(a)
    desk.store.delete(*desk.store.keys("rq:execution:*"))
    assert desk.protocol.heartbeat(W, 90) == 0
    assert not desk.store.exists(keys.worker_executions(W))


# -- GIVE BACK -----------------------------------------------------------------------------------------------------


def tokens(owner: str, *jobs: Claimed) -> list[tuple[str, str, int, str]]:
    return [job.token(owner) for job in jobs]


def test_jobs_of_several_children_are_given_back_in_their_old_order(desk: Desk) -> None:
    desk.enqueue(*"abcdefg")
    first = desk.claim(2, idle=2).jobs
    second = desk.claim(2, TWO, idle=2).jobs
    first += desk.claim(1).jobs
    desk.mark(first[0])
    assert desk.protocol.give_back(W, tokens(ONE, *reversed(first)) + tokens(TWO, *second)) == 5
    assert desk.waiting() == list("abcdefg")
    assert (desk.held(), desk.held(TWO), desk.intermediate()) == ([], [], [])
    assert desk.job("a").get_status() is JobStatus.QUEUED
    desk.running_is_clean("a")


def test_jobs_given_back_child_by_child_keep_their_old_order(desk: Desk) -> None:
    desk.enqueue(*"abcdefg")
    first = desk.claim(2, idle=2).jobs
    second = desk.claim(2, TWO, idle=2).jobs
    desk.protocol.give_back(W, tokens(ONE, *first))
    desk.protocol.give_back(W, tokens(TWO, *second))
    assert desk.waiting() == list("abcdefg")


def test_jobs_given_back_twice_keep_their_old_order(desk: Desk) -> None:
    desk.enqueue(*"abcdef")
    desk.protocol.give_back(W, tokens(ONE, *desk.claim(4, idle=4).jobs))
    again = desk.claim(2, idle=2).jobs
    assert [job.id for job in again] == ["a", "b"]
    desk.protocol.give_back(W, tokens(ONE, again[1]))
    desk.protocol.give_back(W, tokens(ONE, again[0]))
    assert desk.waiting() == list("abcdef")


def test_a_repeated_give_back_changes_nothing(desk: Desk) -> None:
    desk.enqueue("a", "b")
    a, b = desk.all()
    desk.settle(returned(b))
    assert desk.protocol.give_back(W, tokens(ONE, a, b)) == 1
    assert desk.protocol.give_back(W, tokens(ONE, a, b)) == 0
    assert desk.waiting() == ["a"]
    assert desk.protocol.give_back(W, []) == 0


def test_a_job_given_back_does_not_count_as_stuck_for_rq(desk: Desk) -> None:
    """RQ's note on the ids that look stuck is deleted too: if it stayed, RQ would fail the job later."""
    desk.enqueue("a")
    [a] = desk.all()
    seen = f"{keys.intermediate('default')}:first_seen:a"
    desk.store.set(seen, 1)
    desk.protocol.give_back(W, tokens(ONE, a))
    assert not desk.store.exists(seen)


# -- RECONCILE -----------------------------------------------------------------------------------------------------


def reconcile(desk: Desk, *known: int, owner: str = ONE) -> int:
    return int(desk.protocol.run("reconcile", 1, keys.own(owner), owner, W, *known))


def test_reconcile_gives_back_jobs_that_the_child_does_not_know(desk: Desk) -> None:
    desk.enqueue(*"abcd")
    jobs = desk.all()
    assert reconcile(desk, jobs[1].claim) == 3
    assert desk.waiting() == ["a", "c", "d"]
    assert (desk.held(), desk.intermediate()) == (["b"], ["b"])
    assert reconcile(desk, jobs[1].claim) == 0


def test_reconcile_of_a_job_that_is_gone(desk: Desk) -> None:
    desk.enqueue("a")
    desk.all()
    desk.store.delete(keys.job("a"))
    assert reconcile(desk) == 0
    assert (desk.held(), desk.waiting()) == ([], [])


def test_reconcile_of_a_fenced_owner(desk: Desk) -> None:
    desk.enqueue("a")
    desk.all()
    desk.store.srem(keys.OWNERS, ONE)
    assert reconcile(desk) == -1
    assert desk.held() == ["a"]


# -- RESCUE --------------------------------------------------------------------------------------------------------


def test_rescue_of_a_child_whose_page_was_read(desk: Desk) -> None:
    desk.enqueue(*"abcd")
    jobs = desk.all()
    desk.mark(jobs[0])
    assert desk.rescue(running=[jobs[0].claim]) == Rescue(3, 1, 0, 0)
    assert desk.waiting() == list("abcd")
    assert (desk.held(), desk.intermediate()) == ([], [])
    assert desk.store.smembers(keys.OWNERS) == {TWO.encode()}
    assert desk.store.hget(keys.job("a"), "jobq_crashes") == b"1"
    assert desk.store.hget(keys.job("b"), "jobq_crashes") is None
    assert desk.job("a").get_status() is JobStatus.QUEUED
    desk.running_is_clean("a")


def test_rescue_without_a_page_goes_by_the_start_marks(desk: Desk) -> None:
    """A job with a start mark counts as crashed; one without is given back uncounted, and marked before it runs from
    then on."""
    desk.enqueue(*"abc")
    a, *_ = desk.all()
    desk.mark(a)
    assert desk.rescue(running=None) == Rescue(2, 1, 0, 2)
    assert desk.store.hget(keys.job("a"), "jobq_crashes") == b"1"
    assert desk.store.hget(keys.job("b"), "jobq_redelivered") == b"1"
    assert [job.features.marked_first for job in desk.all(TWO)] == [False, True, True]


def test_a_repeated_rescue_changes_nothing(desk: Desk) -> None:
    desk.enqueue("a")
    desk.all()
    assert desk.rescue() == Rescue(1, 0, 0, 0)
    assert desk.rescue() is None
    assert desk.waiting() == ["a"]


def test_rescue_is_refused_if_the_lease_was_renewed(desk: Desk) -> None:
    desk.enqueue("a")
    desk.all()
    desk.store.set(keys.lease(W), 5)
    assert desk.rescue(lease="4") is None
    assert (desk.held(), desk.waiting()) == (["a"], [])
    assert desk.rescue(lease="5") == Rescue(1, 0, 0, 0)


def die(desk: Desk, **told: Any) -> Rescue | None:
    """Claim the job, start it, and have its process die while it runs."""
    desk.store.sadd(keys.OWNERS, ONE)
    [job] = desk.all()
    desk.mark(job)
    return desk.rescue(running=[job.claim], **told)


def test_the_third_death_fails_the_job(desk: Desk) -> None:
    desk.enqueue("a", retries_left=5, failure_ttl=70)
    assert die(desk) == Rescue(0, 1, 0, 0)
    assert die(desk) == Rescue(0, 1, 0, 0)
    assert die(desk, ended_at=rq_time(NOW + 2), ended=NOW + 2) == Rescue(0, 0, 1, 0)
    read = desk.job("a")
    assert read.get_status() is JobStatus.FAILED
    assert (read.started_at.timestamp(), read.ended_at.timestamp()) == (NOW, NOW + 2)
    assert read.latest_result().exc_string == "ChildKilled: it is gone"
    assert read.retries_left == 5  # RQ's retries are not used up
    assert 0 < desk.store.ttl(keys.job("a")) <= 70
    assert FailedJobRegistry("default", desk.store).get_job_ids() == ["a"]
    desk.running_is_clean("a")
    assert (desk.waiting(), desk.held(), desk.intermediate()) == ([], [], [])


def test_a_job_that_died_before_its_mark_does_not_keep_an_earlier_start(desk: Desk) -> None:
    desk.enqueue("a", started_at=rq_time(NOW - 60))
    [job] = desk.all()
    assert desk.rescue(running=[job.claim], on_crash="fail") == Rescue(0, 0, 1, 0)
    assert desk.job("a").started_at.timestamp() == NOW


def test_on_crash_fail_fails_the_job_at_the_first_death(desk: Desk) -> None:
    """The first death fails the job; a job's own setting has priority."""
    desk.enqueue("a")
    assert die(desk, on_crash="fail") == Rescue(0, 0, 1, 0)
    desk.enqueue("c", jobq_on_crash="retry")
    assert die(desk, on_crash="fail") == Rescue(0, 1, 0, 0)
    desk.store.delete(keys.queue("default"))
    desk.enqueue("d", jobq_on_crash="fail")
    assert die(desk, on_crash="retry") == Rescue(0, 0, 1, 0)


def test_a_kill_by_the_worker_itself_is_not_counted(desk: Desk) -> None:
    desk.enqueue("a")
    for _ in range(5):
        assert die(desk, verdict="interrupt") == Rescue(0, 1, 0, 0)
    assert desk.store.hget(keys.job("a"), "jobq_crashes") is None
    assert desk.waiting() == ["a"]


@pytest.mark.parametrize(
    ("verdict", "fields", "what"),
    [
        ("fail", {"retries_left": 1}, "fail"),
        ("fail", {"failure_callback_name": "samples.ok"}, "fail"),
        ("interrupt", {"jobq_on_crash": "fail", "retries_left": 1}, "fail"),
        ("crash", {"jobq_crashes": 2, "webhooks": "[]"}, "dead"),
        ("stop", {}, "stop"),
    ],
)
def test_jobs_for_rqs_finish_stay_with_the_dead_owner(desk: Desk, verdict: str, fields: Any, what: str) -> None:
    """The job stays under the dead owner's token, and the owner's name stays; the final call ends it without RQ's
    code."""
    desk.enqueue("a", "b", **fields)
    a, _ = desk.all()
    desk.mark(a)
    told = {"running": [a.claim], "verdict": verdict}
    left = ForRQ("a", a.claim, "default", what, text("ChildKilled: it is gone"))
    assert desk.rescue(**told) == Rescue(1, 0, 0, 0, (left,))
    assert (desk.held(), desk.waiting()) == (["a"], ["b"])
    assert desk.store.sismember(keys.OWNERS, ONE)
    assert desk.rescue(running=[a.claim], verdict=what, final=True) == Rescue(0, 0, 1, 0)
    assert desk.job("a").get_status() is (JobStatus.STOPPED if verdict == "stop" else JobStatus.FAILED)
    assert not desk.store.sismember(keys.OWNERS, ONE)
    desk.running_is_clean("a")


def test_a_suspect_runs_alone_the_next_time(desk: Desk) -> None:
    desk.enqueue("a", "b")
    jobs = desk.all()
    assert desk.rescue(running=[job.claim for job in jobs], verdict="suspect") == Rescue(0, 2, 0, 0)
    assert [job.features for job in desk.all(TWO)] == [Features(alone=True)] * 2
    assert desk.store.hget(keys.job("a"), "jobq_crashes") is None


def test_standing_in_for_a_child_that_holds_still(desk: Desk) -> None:
    desk.enqueue(*"abcd")
    a, b, c, d = desk.all()
    newest = desk.protocol.newest_claim()
    assert newest == d.claim
    desk.enqueue("e")
    [e] = desk.all()  # it has reacted before the supervisor acted
    assert desk.protocol.stand_in(ONE, W, 90, newest, [(a.claim, rq_time(NOW))], [b.claim])
    assert desk.job("a").get_status() is JobStatus.STARTED
    assert desk.waiting() == ["c", "d"]
    assert sorted(desk.held()) == ["a", "b", "e"]
    assert desk.mark(c, d, e) == [False, False, True]
    assert not desk.protocol.stand_in("nobody:0.1", W, 90, newest, [], [])


def test_after_a_rescue_requests_of_the_dead_owner_change_nothing(desk: Desk) -> None:
    desk.enqueue("a")
    [job] = desk.all()
    desk.store.set(keys.fin("a"), job.claim)
    desk.rescue(running=[job.claim])
    assert not desk.store.exists(keys.fin("a"))
    assert desk.mark(job) == [False]
    assert desk.protocol.give_back(W, tokens(ONE, job)) == 0
    assert desk.protocol.cycle(ONE, W, ["default"], [returned(job)], 1).state is CycleState.FENCED
    assert reconcile(desk) == -1
    assert desk.waiting() == ["a"]


# -- DUE -----------------------------------------------------------------------------------------------------------


def schedule(desk: Desk, job_id: str, at: float, **fields: Any) -> None:
    desk.store.hset(keys.job(job_id), mapping={"data": "x", "status": "scheduled", **fields})
    desk.store.zadd(keys.registry("scheduled", "default"), {job_id: at})


def test_due_moves_delayed_jobs_to_their_queues(desk: Desk) -> None:
    now = time.time()
    desk.enqueue("waits")
    schedule(desk, "late", now - 5)
    schedule(desk, "later", now + 500)
    schedule(desk, "front", now - 1, enqueue_at_front=1)
    schedule(desk, "brief", now - 1, ttl=30)
    desk.store.zadd(keys.registry("scheduled", "default"), {"deleted": now - 9})
    assert desk.protocol.due(["default"]) == [4]
    assert desk.waiting()[0] == "front"
    assert sorted(desk.waiting()) == ["brief", "front", "late", "waits"]
    assert desk.store.zrange(keys.registry("scheduled", "default"), 0, -1) == [b"later"]
    assert desk.store.hget(keys.job("late"), "status") == b"queued"
    assert 0 < desk.store.ttl(keys.job("brief")) <= 30
    assert desk.protocol.due(["default"]) == [0]


def test_due_moves_a_limited_number_at_a_time(desk: Desk) -> None:
    for n in range(5):
        schedule(desk, f"j{n}", n)
    assert [desk.protocol.due(["default"], 2) for _ in range(4)] == [[2], [2], [1], [0]]
    assert desk.waiting() == [f"j{n}" for n in range(5)]


def test_due_does_nothing_while_an_rq_scheduler_runs(desk: Desk) -> None:
    schedule(desk, "late", 5)
    desk.store.set(keys.scheduler_lock("default"), 1)
    assert desk.protocol.due(["default"]) == [-1]
    assert desk.waiting() == []


def limited(store: Any, concurrency: int) -> None:
    """Enqueue three due jobs with a rate limit, the second to the front, and a plain one."""
    queue = Queue(connection=store)
    for n, front in enumerate((False, True, False)):
        limit = RateLimit("few", concurrency)
        job = queue.create_job(
            "jobqueue.tasks.square", (n,), job_id=f"l{n}", rate_limit=limit, status=JobStatus.SCHEDULED
        )
        job.enqueue_at_front = front or None
        queue.schedule_job(job, datetime.fromtimestamp(n + 1, UTC))
    queue.enqueue_at(datetime.fromtimestamp(9, UTC), "jobqueue.tasks.square", 3, job_id="plain")


def left(store: Any) -> dict[str, Any]:
    """Return everything except times."""
    found: dict[str, Any] = {}
    for key in sorted(store.scan_iter("*")):
        kind = store.type(key)
        if kind == b"hash":
            raw = {name: value for name, value in store.hgetall(key).items() if not name.endswith(b"_at")}
            found[key] = {name: value for name, value in raw.items() if name != b"data"}
        elif kind == b"zset":
            found[key] = store.zrange(key, 0, -1)
        elif kind in (b"list", b"set"):
            found[key] = store.lrange(key, 0, -1) if kind == b"list" else store.smembers(key)
    return found


@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_due_treats_rate_limits_as_rqs_scheduler_does(desk: Desk, concurrency: int) -> None:
    theirs = fakeredis.FakeRedis()
    limited(theirs, concurrency)
    scheduler = RQScheduler(["default"], connection=theirs)
    scheduler._connection = theirs
    scheduler.prepare_registries(["default"])
    scheduler.enqueue_scheduled_jobs()
    desk.store.flushall()
    limited(desk.store, concurrency)
    assert desk.protocol.due(["default"]) == [4]
    ours, rqs = left(desk.store), left(theirs)
    assert ours[b"rq:rl:few:allowed"] == [b"l0", b"l1", b"l2"][:concurrency]
    queue = b"rq:queue:default"  # RQ puts the plain ones first, we keep the order of their times
    assert sorted(ours.pop(queue)) == sorted(rqs.pop(queue))
    assert ours == rqs


# -- all -----------------------------------------------------------------------------------------------------------


# -- cancel --------------------------------------------------------------------------------------------------------


def is_in(desk: Desk, job_id: str = "a") -> list[str]:
    kinds = ("wip", "finished", "failed", "canceled", "deferred", "scheduled")
    found = [
        k
        for k in kinds
        if any(m.startswith(job_id.encode()) for m in desk.store.zrange(keys.registry(k, "default"), 0, -1))
    ]
    return found + (["queue"] if desk.waiting() else [])


@pytest.mark.parametrize("marked", [False, True])
def test_a_cancel_before_the_end_counts(desk: Desk, marked: bool) -> None:
    desk.enqueue("a")
    [job] = desk.all()
    if marked:
        desk.mark(job)
    assert desk.protocol.cancel_job("a", only_waiting=True) == (False, "started" if marked else "held")
    assert desk.protocol.cancel_job("a", only_waiting=False) == (True, "started" if marked else "queued")
    assert desk.settle(returned(job)) == [Ack.GONE]
    assert (is_in(desk), desk.store.hget(keys.job("a"), "status")) == (["canceled"], b"canceled")
    assert not desk.store.exists(keys.results("a"), keys.own(ONE), keys.intermediate("default"), keys.executions("a"))
    assert desk.settle(returned(job)) == [Ack.GONE]


def test_a_cancel_after_the_end_is_refused(desk: Desk) -> None:
    desk.enqueue("a")
    [job] = desk.all()
    assert desk.settle(returned(job)) == [Ack.RECORDED]
    for only_waiting in (True, False):
        assert desk.protocol.cancel_job("a", only_waiting=only_waiting) == (False, "finished")
    assert is_in(desk) == ["finished"]
    assert desk.protocol.cancel_job("nobody", only_waiting=True) == (False, "")


def test_a_canceled_job_is_not_started(desk: Desk) -> None:
    desk.enqueue("a")
    [job] = desk.all()
    desk.protocol.cancel_job("a", only_waiting=False)
    assert desk.mark(job) == [False]
    assert is_in(desk) == ["canceled"]
    assert not desk.store.exists(keys.own(ONE), keys.intermediate("default"))


@pytest.mark.parametrize("move", ["give back", "reconcile", "rescue"])
def test_a_canceled_job_is_not_requeued(desk: Desk, move: str) -> None:
    desk.enqueue("a")
    [job] = desk.all()
    desk.mark(job)
    desk.protocol.cancel_job("a", only_waiting=False)
    if move == "give back":
        assert desk.protocol.give_back(W, [Token(ONE, "a", job.claim, "default")]) == 0
    elif move == "reconcile":
        assert desk.protocol.run("reconcile", 1, keys.own(ONE), ONE, W) == 0
    else:
        assert desk.rescue(running=[job.claim])
    assert (is_in(desk), desk.store.hget(keys.job("a"), "status")) == (["canceled"], b"canceled")
    assert not desk.store.exists(keys.executions("a"))


def test_a_canceled_job_that_was_scheduled_is_not_enqueued(desk: Desk) -> None:
    """RQ's cancel had read another status than the one that it overwrote."""
    desk.enqueue("a", status="canceled")
    desk.store.delete(keys.queue("default"))
    desk.store.zadd(keys.registry("scheduled", "default"), {"a": 1})
    desk.protocol.due(["default"])
    assert (desk.waiting(), desk.store.hget(keys.job("a"), "status")) == ([], b"canceled")
    assert not desk.store.exists(keys.registry("scheduled", "default"))


def test_a_job_that_was_claimed_twice_ends_in_one_registry(desk: Desk) -> None:
    """The id was put into the queue twice, and two owners claimed it."""
    desk.enqueue("a")
    desk.store.rpush(keys.queue("default"), "a")
    [one], [two] = desk.claim(1).jobs, desk.claim(1, TWO).jobs
    desk.settle(returned(one))
    assert is_in(desk) == ["finished"]
    desk.settle(raised(two), owner=TWO)
    assert is_in(desk) == ["failed"]


@pytest.mark.parametrize("kind", ["finished", "failed"])
@pytest.mark.parametrize("status", ["scheduled", "queued"])
def test_a_job_canceled_between_two_runs_ends_in_one_registry(desk: Desk, kind: str, status: str) -> None:
    """A repeated job is in the finished registry while it waits for its next run."""
    desk.enqueue("a", status=status)
    if status == "scheduled":
        desk.store.delete(keys.queue("default"))
        desk.store.zadd(keys.registry("scheduled", "default"), {"a": 9_999_999_999})
    desk.store.zadd(keys.registry(kind, "default"), {"a": 9_999_999_999})
    assert desk.protocol.cancel_job("a", only_waiting=True) == (True, status)
    assert is_in(desk) == ["canceled"]


def test_ids_of_jobs_that_are_gone_leave_the_registry(desk: Desk) -> None:
    desk.enqueue("there", status="canceled")
    for job_id in ("there", "gone"):
        desk.store.zadd(keys.registry("canceled", "default"), {job_id: 1})
        desk.store.sadd(keys.dependents(job_id), "x")
    assert desk.protocol.forget_gone("canceled", "default") == 1
    assert desk.store.zrange(keys.registry("canceled", "default"), 0, -1) == [b"there"]
    assert desk.store.exists(keys.dependents("there"))
    assert not desk.store.exists(keys.dependents("gone"))


def test_a_canceled_job_leaves_the_registry_that_rqs_cancel_missed(desk: Desk) -> None:
    """The job ended between RQ's reading of the status and RQ's transaction."""
    desk.enqueue("a", status="canceled")
    desk.enqueue("b", status="finished")
    desk.store.delete(keys.queue("default"))
    for kind in ("canceled", "finished"):
        desk.store.zadd(keys.registry(kind, "default"), {"a": 1, "b": 1})
    desk.protocol.forget_gone("canceled", "default")
    assert is_in(desk, "a") == ["canceled"]
    assert is_in(desk, "b") == ["finished", "canceled"]


def test_keys_for_the_life_of_a_worker_expire(desk: Desk) -> None:
    desk.enqueue("a")
    [job] = desk.all()
    desk.protocol.give_back(W, [Token(ONE, "a", job.claim, "default")])
    assert 0 < desk.store.ttl(keys.back("default")) <= 3600
    heartbeat = Heartbeat(Settings(Address(url=""), W, ("default",), 1, 1), desk.store, lambda: False)
    heartbeat.birth()
    assert 0 < desk.store.ttl(keys.lease(W)) <= 480
    desk.store.persist(keys.lease(W))
    heartbeat.step(1.0)
    assert 0 < desk.store.ttl(keys.lease(W)) <= 480


def test_scripts_are_loaded_again_after_a_flush(desk: Desk) -> None:
    desk.enqueue("a", "b")
    assert len(desk.claim(1).jobs) == 1
    desk.store.script_flush()
    assert len(desk.claim(1).jobs) == 1


def heartbeat_of(desk: Desk, is_busy: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> Heartbeat:
    told = Settings(Address(url="redis://127.0.0.1:1/0"), W, ("default", "low"), 2, 1)
    return Heartbeat(told, desk.store, is_busy, clock)


def test_a_job_that_starts_during_a_heartbeat_makes_the_worker_busy(desk: Desk) -> None:
    """The start mark was set before the heartbeat wrote the state that it had read earlier."""
    looks = [False, True]
    heartbeat = heartbeat_of(desk, lambda: looks.pop(0))
    heartbeat.birth()
    heartbeat.step(0.0)
    assert (desk.store.hget(keys.worker(W), "state"), looks) == (b"busy", [])


def test_a_late_renewal_of_the_lease_is_counted(desk: Desk) -> None:
    """Another worker may have rescued jobs meanwhile, so jobs that were claimed before must not start without
    asking."""
    clock = [1000.0]
    heartbeat = heartbeat_of(desk, lambda: False, lambda: clock[0])
    heartbeat.birth()
    for seconds, lapses in ((3.0, 0), (6.9, 0), (7.1, 1), (3.0, 1), (100.0, 2)):
        clock[0] += seconds
        heartbeat.step(clock[0])
        assert (heartbeat.lapses, heartbeat.renewed) == (lapses, clock[0])


def struck_off(store: fakeredis.FakeRedis, *queues: str) -> None:
    """Strike the tree off, as a rescuer does that counts it as dead."""
    store.srem(keys.WORKERS, keys.worker(W))
    for name in queues:
        store.srem(keys.workers_of(name), keys.worker(W))
    store.delete(keys.lease(W))
    store.hset(keys.worker(W), "death", "2026-01-01T00:00:00.000000Z")
    store.expire(keys.worker(W), 60)


@pytest.mark.parametrize("how", ["struck off", "flushed", "lists only"])
def test_each_heartbeat_makes_the_whole_registration_true(desk: Desk, how: str) -> None:
    heartbeat = heartbeat_of(desk, lambda: False)
    heartbeat.birth()
    [before] = Worker.all(connection=desk.store)
    if how == "struck off":
        struck_off(desk.store, "default", "low")
    elif how == "flushed":
        desk.store.flushall()
    else:
        desk.store.delete(keys.WORKERS, keys.workers_of("low"))
    heartbeat.step(1.0)
    [worker] = Worker.all(connection=desk.store)
    assert (worker.name, worker.queue_names(), worker.birth_date) == (W, ["default", "low"], before.birth_date)
    assert desk.store.smembers(keys.workers_of("low")) == {keys.worker(W).encode()}
    assert desk.store.hget(keys.worker(W), "death") is None
    assert desk.store.hget(keys.worker(W), "jobq_lease") is not None
    assert desk.store.ttl(keys.worker(W)) > 60
    assert desk.store.exists(keys.lease(W))


def test_rqs_worker_reads_our_registration(desk: Desk) -> None:
    heartbeat = heartbeat_of(desk, lambda: True)
    heartbeat.step(0.0)
    assert not desk.store.exists(keys.WORKERS)  # not registered yet
    heartbeat.birth()
    heartbeat.step(0.0)
    [worker] = Worker.all(connection=desk.store)
    assert (worker.name, worker.queue_names(), worker.get_state()) == (W, ["default", "low"], "busy")
    lease = int(desk.store.get(keys.lease(W)))
    desk.store.delete(keys.worker(W))
    heartbeat.step(1.0)  # flushed: it is registered again
    assert len(Worker.all(connection=desk.store)) == 1
    assert int(desk.store.get(keys.lease(W))) > lease
    heartbeat.death()
    assert Worker.all(connection=desk.store) == []
    assert not desk.store.exists(keys.lease(W), keys.WORKERS, keys.workers_of("default"))
