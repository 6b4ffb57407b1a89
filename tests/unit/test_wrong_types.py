"""Wrong keys and values in the store: keys of a wrong type, ids that are no text, hashes with invalid fields. For every
script, each key that it reads or writes is made wrong: no script stops in its middle, and no other job leaves its
place."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from test_protocol import NOW, ONE, TWO, Desk, W, raised, returned

from jobqueue.admin.inspector import Inspector
from jobqueue.doctor.examine import examine
from jobqueue.errors import NoSuchJob
from jobqueue.protocol import keys
from jobqueue.protocol.bounds import LONGEST
from jobqueue.protocol.claims import Claimed
from jobqueue.protocol.outcomes import Ack
from jobqueue.protocol.protocol import Protocol
from jobqueue.schedules.timetable import Due, Schedule, Timetable
from jobqueue.schedules.timing import BadSchedule, Timing
from jobqueue.store.connection import redis
from jobqueue.workers.shared.timestamps import rq_time

Acts = tuple[Callable[[Desk], Any], Callable[[Desk, Any], Any]]
IDS = ("a", "b", "c", "d")
REGISTRIES = ("finished", "failed", "scheduled", "canceled", "deferred")


class RealDesk(Desk):
    """A desk with a real server: scripts fail with the server's own error texts."""

    def __init__(self, store: redis.Redis) -> None:
        self.store, self.protocol = store, Protocol(store)
        self.clear()

    def clear(self) -> RealDesk:
        self.store.flushall()
        self.store.sadd(keys.OWNERS, ONE, TWO)
        return self


@pytest.fixture
def desk(store: redis.Redis) -> RealDesk:
    return RealDesk(store)


SCHEDULE = Schedule("every", Timing(5.0), "default", {"data": b"[]", "status": b"queued"}, ttl=50)


def claimed(desk: RealDesk, **fields: Any) -> list[Claimed]:
    desk.enqueue(*IDS, **fields)
    return desk.all()


def marked(desk: RealDesk) -> list[Claimed]:
    jobs = claimed(desk, ttl=60)
    desk.mark(*jobs)
    return jobs


def delayed(desk: RealDesk) -> None:
    desk.enqueue(*IDS)
    for job_id in IDS:
        desk.store.lrem(keys.queue("default"), 1, job_id)
        desk.store.hset(keys.job(job_id), mapping={"status": "scheduled", "ttl": 30})
        desk.store.zadd(keys.registry("scheduled", "default"), {job_id: 1})


def lost_jobs(desk: RealDesk) -> tuple[str, ...]:
    desk.enqueue(*IDS)
    desk.store.delete(keys.queue("default"))
    h = desk.store.hmget(keys.job("a"), "status", "enqueued_at", "started_at", "worker_name")
    return tuple((value or b"").decode() for value in h)


def a_schedule(desk: RealDesk) -> Due:
    Timetable(desk.store).put(SCHEDULE, 5.0)
    return Timetable(desk.store).upcoming().due[0]


def give_back(desk: RealDesk, jobs: list[Claimed]) -> int:
    return desk.protocol.give_back(W, [job.token(ONE) for job in jobs])


def tick(desk: Desk, due: Due) -> None:
    with contextlib.suppress(BadSchedule):  # if its own keys have a wrong type, it says so and writes nothing
        Timetable(desk.store).tick(due, time.time() + 5)


SCRIPTS: dict[str, Acts] = {
    "enqueue": (
        lambda desk: None,
        lambda desk, _: desk.protocol.enqueue("default", [(i, {"data": "[]"}) for i in IDS], ttl=30),
    ),
    "claim": (lambda desk: desk.enqueue(*IDS), lambda desk, _: desk.all()),
    "claim and settle": (
        lambda desk: (desk.enqueue(*IDS), desk.claim(2, idle=2).jobs)[1],
        lambda desk, jobs: desk.protocol.cycle(ONE, W, ["default"], [returned(jobs[0]), raised(jobs[1])], 9, 9),
    ),
    "settle": (marked, lambda desk, jobs: desk.settle(*map(returned, jobs[:2]), *map(raised, jobs[2:]))),
    "start mark": (claimed, lambda desk, jobs: desk.mark(*jobs)),
    "give back": (marked, give_back),
    "reconcile": (marked, lambda desk, jobs: desk.protocol.run("reconcile", 1, keys.own(ONE), ONE, W)),
    "stand in": (
        claimed,
        lambda desk, jobs: desk.protocol.stand_in(ONE, W, 90, 99, [(jobs[0].claim, rq_time(NOW))], [jobs[1].claim]),
    ),
    "rescue": (marked, lambda desk, jobs: desk.rescue(running=[jobs[0].claim])),
    "rescue, unknown": (marked, lambda desk, jobs: desk.rescue(running=None)),
    "rescue, failed": (marked, lambda desk, jobs: desk.rescue(running=[job.claim for job in jobs], most=1, final=True)),
    "cancel": (lambda desk: desk.enqueue(*IDS), lambda desk, _: desk.protocol.cancel("default", IDS[:2])),
    "due": (delayed, lambda desk, _: desk.protocol.due(["default"])),
    "bring back": (lost_jobs, lambda desk, seen: desk.protocol.bring_back("default", "a", seen)),
    "heartbeat": (marked, lambda desk, _: desk.protocol.heartbeat(W, 90)),
    "schedule": (a_schedule, lambda desk, _: Timetable(desk.store).put(SCHEDULE, 7.0, "first")),
    "tick": (a_schedule, lambda desk, due: tick(desk, due)),
    "upcoming": (a_schedule, lambda desk, _: Timetable(desk.store).upcoming()),
}


def places(desk: RealDesk) -> dict[str, list[str]]:
    """Return where the jobs are, from RQ's lists and registries and the owners' zsets."""
    found: dict[str, list[str]] = {job_id: [] for job_id in IDS}
    for key in map(bytes.decode, desk.store.keys()):
        kind = desk.store.type(key).decode()
        members: Any = []
        if key == keys.queue("default") and kind == "list":
            members = desk.store.lrange(key, 0, -1)
        elif kind == "zset" and (key.split(":")[1] in REGISTRIES or key.startswith(keys.own(""))):
            members = desk.store.zrange(key, 0, -1)
        for member in members:
            found.get(member.decode(), []).append(key)
    return found


def plant(store: redis.Redis, key: str) -> str:
    """Replace the key by one of another type; return its former type."""
    kind = store.type(key).decode()
    store.delete(key)
    if kind == "string" or not kind:
        store.rpush(key, "what is this?")
    else:
        store.set(key, "what is this?")
    return kind


def as_it_should_be(desk: RealDesk, setup: Any, act: Any) -> tuple[list[str], dict[str, list[str]]]:
    """Return all keys that exist before and after the script, and where the jobs are afterwards."""
    given = setup(desk)
    before = set(desk.store.keys())
    act(desk, given)
    return sorted(key.decode() for key in before | set(desk.store.keys())), places(desk)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_key_of_a_wrong_type_stops_no_script(desk: RealDesk, name: str) -> None:
    setup, act = SCRIPTS[name]
    all_keys, fine = as_it_should_be(desk, setup, act)
    for key in all_keys:
        given = setup(desk.clear())
        before = places(desk)
        plant(desk.store, key)
        still = places(desk)  # the jobs that the wrong key itself made unreadable
        act(desk, given)
        after = places(desk)
        for job_id in IDS:
            if fine[job_id] and (still[job_id] or not before[job_id]):
                gone = key in (keys.job(job_id), keys.OWNERS) and not after[job_id]
                assert len(after[job_id]) == 1 or gone, (key, job_id, before, after)


def test_an_id_whose_key_is_no_hash_is_claimed_and_fails(desk: RealDesk) -> None:
    desk.enqueue("a", "b")
    desk.store.set(keys.job("wrong"), "x")
    desk.store.linsert(keys.queue("default"), "before", "b", "wrong")
    jobs = desk.all()
    assert [(job.id, bool(job.data)) for job in jobs] == [("a", True), ("wrong", False), ("b", True)]
    assert desk.held() == ["a", "wrong", "b"]
    assert desk.store.get(keys.aside(keys.job("wrong"))) == b"x"
    assert [key for key, _ in desk.store.zscan_iter(keys.ASIDE)] == [keys.job("wrong").encode()]
    assert 0 < desk.store.ttl(keys.aside(keys.job("wrong"))) <= 604_800
    assert desk.settle(*map(raised, jobs)) == [1, 1, 1]
    assert desk.job("wrong").get_status() == "failed"
    assert desk.job("wrong").origin == "default"


def test_a_hash_without_data_counts_as_a_job(desk: RealDesk) -> None:
    desk.store.hset(keys.job("partly"), "meta", "{}")
    desk.store.rpush(keys.queue("default"), "partly", "gone")
    (job,) = desk.all()
    assert (job.id, job.data) == ("partly", b"")
    assert desk.rescue() is not None  # by its origin, which the claim has written
    assert desk.waiting() == ["partly"]


@pytest.mark.parametrize("kind", ["string", "hash", "set"])
def test_a_queue_of_another_type_does_not_hold_up_the_others(desk: RealDesk, kind: str) -> None:
    desk.enqueue("a", queue="other")
    key = keys.queue("default")
    {
        "string": lambda: desk.store.set(key, 1),
        "hash": lambda: desk.store.hset(key, "a", 1),
        "set": lambda: desk.store.sadd(key, 1),
    }[kind]()
    assert [job.id for job in desk.claim(queues=("default", "other")).jobs] == ["a"]
    assert desk.store.type(keys.aside(key)).decode() == kind
    desk.enqueue("b")
    assert [job.id for job in desk.claim(queues=("default", "other")).jobs] == ["b"]


ODD = [b"\xff\xfe", b"a\x00b", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf5\x80\x80\x80", b"caf\xe9"]
EVEN = ["é", "日本", "𝄞", "a b", "x" * 100_000, "a:b", "\x7f", "\x1f"]


@pytest.mark.parametrize("job_id", ODD, ids=repr)
def test_an_id_that_is_not_utf8_gets_a_new_id(desk: RealDesk, job_id: bytes) -> None:
    desk.enqueue("a", "b")
    fields: Any = desk.store.hgetall(keys.job("a"))
    desk.store.hset(keys.job("").encode() + job_id, mapping=fields)
    desk.store.linsert(keys.queue("default"), "before", "b", job_id)
    jobs = desk.all()
    assert [job.id for job in jobs][::2] == ["a", "b"]
    assert jobs[1].id.startswith("renamed-")
    assert jobs[1].data == jobs[0].data
    assert desk.settle(*map(returned, jobs)) == [1, 1, 1]
    assert desk.store.zrange(keys.ASIDE, 0, -1) == [keys.job("").encode() + job_id]
    assert not desk.store.exists(keys.job("").encode() + job_id)


@pytest.mark.parametrize("job_id", EVEN, ids=lambda job_id: job_id[:3])
def test_an_id_with_other_characters_stays(desk: RealDesk, job_id: str) -> None:
    desk.enqueue("a", job_id, "b")
    jobs = desk.all()
    assert [job.id for job in jobs] == ["a", job_id, "b"]
    desk.mark(*jobs)
    assert desk.settle(*map(returned, jobs)) == [1, 1, 1]


# -- junk in a hash ------------------------------------------------------------------------------------------------

JUNK = [
    "1e18",
    "9223372036854775807",
    "-1e18",
    "nan",
    "inf",
    "-inf",
    "soon",
    "",
    "1.5",
    "0x10",
    "1e400",
    "9" * 400,
    "-5",
    "0",
]
FIELDS = ["timeout", "result_ttl", "failure_ttl", "ttl", "retries_left", "repeats_left", "jobq_order", "jobq_crashes",
          "jobq_redelivered", "jobq_suspect", "rate_limit_concurrency", "created_at", "enqueue_at_front"]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in ("schedule", "tick", "upcoming", "enqueue")])
@pytest.mark.parametrize("field", FIELDS)
def test_invalid_fields_in_a_hash(desk: RealDesk, name: str, field: str) -> None:
    setup, act = SCRIPTS[name]
    for junk in JUNK[: -1 if field.endswith("ttl") else None]:  # 0 is valid: the job is not kept
        given = setup(desk.clear())
        for job_id in IDS:
            desk.store.hset(keys.job(job_id), field, junk)
        before = places(desk)
        act(desk, given)
        after = places(desk)
        for job_id in IDS:
            assert desk.store.exists(keys.job(job_id)), (junk, "the job is gone")
            assert len(after[job_id]) == 1 or not before[job_id], (junk, after)


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e18", LONGEST), ("inf", LONGEST), ("-7", -1), ("1.9", 1), ("nan", None), ("", None), ("x", None), ("60", 60)],
)
def test_numbers_of_a_claimed_job_are_clamped(desk: RealDesk, text: str, number: int | None) -> None:
    fields = {"timeout": text, "result_ttl": text, "failure_ttl": text, "retries_left": text}
    desk.enqueue("a", **fields)
    (job,) = desk.all()
    assert (job.result_ttl, job.failure_ttl, job.retries_left) == (number, number, number or 0)
    assert job.timeout is None if number is None else abs((job.timeout or 0) - number) < 1


@pytest.mark.parametrize("ttl", [10**18, LONGEST + 1, 2**63, 1e300])
def test_an_outcome_that_would_be_kept_too_long_is_kept_for_a_hundred_years(desk: RealDesk, ttl: Any) -> None:
    (job, other) = claimed(desk)[:2]
    assert desk.settle(returned(job, ttl=ttl), raised(other)._replace(ttl=ttl)) == [1, 1]
    for job_id, kind in (("a", "finished"), ("b", "failed")):
        assert LONGEST - 60 < desk.store.ttl(keys.job(job_id)) <= LONGEST
        assert LONGEST - 60 < desk.store.ttl(keys.results(job_id)) <= LONGEST
        assert abs((desk.store.zscore(keys.registry(kind, "default"), job_id) or 0) - time.time() - LONGEST) < 60


@pytest.mark.parametrize("junk", ["abc", "9223372036854775807", "1.5", "", b"\xff"])
def test_invalid_claim_counters_start_again_beyond_all_others(desk: RealDesk, junk: Any) -> None:
    before = claimed(desk)
    desk.store.set(keys.SEQ, junk)
    desk.enqueue("e")
    (job,) = desk.all()
    assert max(job.claim for job in before) < job.claim < 2**53
    assert desk.protocol.newest_claim() == job.claim


def test_invalid_counters_start_again(desk: RealDesk) -> None:
    jobs = claimed(desk)
    desk.store.hset(
        keys.worker(W),
        mapping={"successful_job_count": "many", "failed_job_count": 2**63 - 1, "total_working_time": "nan"},
    )
    assert desk.settle(returned(jobs[0]), raised(jobs[1])) == [1, 1]
    assert desk.store.hmget(keys.worker(W), "successful_job_count", "failed_job_count") == [b"1", b"1"]


def test_an_owner_whose_key_has_a_wrong_type_continues(desk: RealDesk) -> None:
    desk.enqueue(*IDS)
    desk.store.set(keys.own(ONE), json.dumps("x"))
    jobs = desk.all()
    assert desk.settle(*map(returned, jobs)) == [1] * 4
    desk.store.delete(keys.job("a"))
    assert desk.settle(returned(jobs[0]), owner=TWO) == [0]
    assert Ack.GONE not in desk.settle(returned(jobs[0]))


def test_readers_skip_entries_of_a_wrong_type(desk: RealDesk) -> None:
    desk.enqueue("a")
    store = desk.store
    store.set(keys.job("wrong"), "x")
    store.rpush(keys.queue("default"), "wrong", b"\xff\xfe")
    store.set(keys.queue("third"), "x")
    store.sadd(keys.QUEUES, keys.queue("third"), keys.queue("").encode() + b"\xff")
    store.sadd(keys.registry("failed", "default"), "x")
    store.set(keys.worker("w"), "x")
    store.sadd(keys.WORKERS, keys.worker("w"))
    inspector = Inspector(store)
    assert {queue.name: queue.queued for queue in inspector.overview().queues} == {"default": 3, "third": 0}
    assert [job.id for job in inspector.waiting()[0]][:2] == ["a", "wrong"]
    assert inspector.failed() == []
    with pytest.raises(NoSuchJob, match="something else"):
        inspector.job("wrong")
    assert inspector.job("a").position == 0
    desk.all()
    told = [finding for finding in examine(store, sleep=lambda _: None) if finding.check == "wrong keys"]
    assert "rq:job:wrong" in told[0].text
