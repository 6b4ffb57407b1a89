"""Which owners are rescued, when, and what happens to their jobs."""

from __future__ import annotations

import base64
import json
import signal
import time
from typing import Any

import fakeredis
import pytest
from rq.job import Job

from jobqueue.protocol import keys
from jobqueue.protocol.claims import Claimed, StartMark
from jobqueue.protocol.outcomes import RETURNED, JobOutcome
from jobqueue.protocol.protocol import Protocol
from jobqueue.protocol.rescue import Ruling, Verdict
from jobqueue.serializers import Auto
from jobqueue.store.connection import Address
from jobqueue.workers.roles.rescuer import REMEMBERED, Rescuer
from jobqueue.workers.roles.stand_in import stand_in
from jobqueue.workers.shared.deaths import FENCED, DeathReport, LeftForRQ, cause_of_death, end_of_process
from jobqueue.workers.shared.endings import encode_text
from jobqueue.workers.shared.journal import CAME_BACK, PULSE, REVOKED, SharedPage, make_file
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.shared.timestamps import rq_time

OURS, THEIRS = "us", "them"
NOW = 1_795_000_000.0
LEFT: list[LeftForRQ] = []


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    LEFT.clear()


def looks(watch: Rescuer, start: float, end: float) -> list[str]:
    """Step every 2 s, as the roles thread does, and once more at the end; return the workers that were rescued."""
    rescued: list[str] = []
    while start < end:
        rescued += watch.step(start)
        start += 2.0
    return rescued + watch.step(end)


def crash(job: Claimed, cause: str = "gone") -> Ruling:
    return Ruling(job.claim, Verdict.CRASH, encode_text(cause))


def owner(worker: str, child: int = 0) -> str:
    return f"{worker}:{child}.1"


@pytest.fixture
def store() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis()


def settings(**told: Any) -> Settings:
    return Settings(Address(url="redis://127.0.0.1:1/0"), OURS, ("default",), 1, 1, **told)


def rescuer(store: fakeredis.FakeRedis, **told: Any) -> Rescuer:
    return Rescuer(settings(**told), store, LEFT.append)


def claimed(store: fakeredis.FakeRedis, name: str, *ids: str, **more: str) -> list[Claimed]:
    store.sadd(keys.OWNERS, name)
    data = json.dumps(["jobqueue.tasks.square", None, [2], {}])
    fields = {"status": "queued", "origin": "default", "created_at": rq_time(NOW), "data": data}
    Protocol(store).enqueue("default", [(i, {**fields, **more}) for i in ids])
    return Protocol(store).cycle(name, name.partition(":")[0], ["default"], [], len(ids), len(ids)).jobs


def done(job: Claimed) -> JobOutcome:
    payload = base64.b64encode(b"4")
    return JobOutcome(job.id, job.claim, "default", RETURNED, 500, payload, rq_time(NOW), rq_time(NOW), NOW, NOW)


def waiting(store: fakeredis.FakeRedis) -> list[str]:
    return [i.decode() for i in store.lrange(keys.queue("default"), 0, -1)]


# -- our own -------------------------------------------------------------------------------------------------------


def test_the_buffer_of_a_child_that_holds_still_is_given_back(store: fakeredis.FakeRedis) -> None:
    """Jobs behind the running one are given back; the child has to ask before it starts any job."""
    first, _second = claimed(store, owner(OURS), "a", "b")
    page = SharedPage(make_file(1, 1), 0, 1)
    page.begin(0, first.claim, time.monotonic(), 0.0)
    stand_in(Protocol(store), settings(), owner(OURS), page, page.get(PULSE))
    assert (waiting(store), store.hget(keys.job("a"), "status")) == (["b"], b"started")
    assert page.revoked
    page.set(CAME_BACK, page.get(REVOKED))
    assert not page.revoked


def test_a_child_that_reacts_again_is_left_alone(store: fakeredis.FakeRedis) -> None:
    """The request is late, or repeated after a lost reply: by then the child runs other jobs."""
    claimed(store, owner(OURS), "a")
    page = SharedPage(make_file(1, 1), 0, 1)
    page.set(PULSE, 8)
    stand_in(Protocol(store), settings(), owner(OURS), page, 7)
    assert waiting(store) == []
    assert not page.revoked


def test_the_jobs_of_a_dead_child_are_settled_counted_and_given_back(store: fakeredis.FakeRedis) -> None:
    """Finished jobs are settled, running ones counted, buffered ones given back. If there is both a record and a
    running claim, the record counts."""
    finished, both, running, _ = claimed(store, owner(OURS), *"abcd")
    cause = cause_of_death(77, signal.SIGKILL).recorded
    death_report = DeathReport(owner(OURS), [done(finished), done(both)], [crash(both, cause), crash(running, cause)])
    rescuer(store).rescue_own(death_report)
    assert [Job.fetch(i, store, Auto).return_value() for i in "ab"] == [4, 4]
    assert waiting(store) == ["c", "d"]
    assert store.hget(keys.job("c"), "jobq_crashes") == b"1"
    assert store.hget(keys.job("b"), "jobq_crashes") is None
    assert not store.exists(keys.OWNERS, keys.own(owner(OURS)), keys.intermediate("default"))


def test_deaths_and_rescued_jobs_are_counted_once(store: fakeredis.FakeRedis) -> None:
    finished, running, _ = claimed(store, owner(OURS), *"abc")
    for _ in range(2):
        rescuer(store).rescue_own(DeathReport(owner(OURS), [done(finished)], [crash(running)], death="SIGKILL"))
    once = ("process:SIGKILL", "job:given_back", "job:run_again", "run:died:SIGKILL")
    assert store.hgetall(keys.DEATHS) == {name.encode(): b"1" for name in once}


@pytest.mark.parametrize(
    ("verdict", "counted"),
    [
        (Verdict.CRASH, {b"run:died:SIGKILL": b"1"}),
        (Verdict.SUSPECT, {b"run:died:SIGKILL": b"1"}),
        (Verdict.FAIL, {b"run:failed:time_limit": b"1"}),
        (Verdict.STOP, {b"run:stopped:stopped": b"1"}),
        (Verdict.INTERRUPT, {}),
    ],
)
def test_a_run_that_died_with_its_process_is_counted_by_the_ruling(
    store: fakeredis.FakeRedis, verdict: Verdict, counted: dict[bytes, bytes]
) -> None:
    """Once, also where RQ's own code ends the job and a final rescue follows."""
    [job] = claimed(store, owner(OURS), "a")
    report = DeathReport(owner(OURS), [], [Ruling(job.claim, verdict, encode_text("gone"))], death="SIGKILL")
    left = rescuer(store).rescue_own(report)
    assert left is not None
    if left.jobs:
        rescuer(store).close(left)
    assert {name: n for name, n in store.hgetall(keys.DEATHS).items() if name.startswith(b"run:")} == counted


@pytest.mark.parametrize(
    ("retries", "leaves_failures", "ending"), [("", False, "failed"), ("", True, "failed"), ("1", False, "run_again")]
)
def test_a_job_that_fails_with_its_process_is_counted_as_rescued(
    store: fakeredis.FakeRedis, retries: str, leaves_failures: bool, ending: str
) -> None:
    """Once, whether RESCUE records its failure, RQ's own code, or a final rescue in the place of that."""
    [job] = claimed(store, owner(OURS), "a", **({"retries_left": retries} if retries else {}))
    mine = rescuer(store)
    mine.leaves_failures = leaves_failures
    ruling = Ruling(job.claim, Verdict.FAIL, encode_text("gone"))
    left = mine.rescue_own(DeathReport(owner(OURS), [], [ruling], death="time_limit"))
    assert left is not None
    assert bool(left.jobs) == (leaves_failures or bool(retries))
    if left.jobs:
        mine.close(left)
    assert {n: c for n, c in store.hgetall(keys.DEATHS).items() if n.startswith(b"job:")} == {
        f"job:{ending}".encode(): b"1"
    }


def test_a_repeated_rescue_changes_nothing(store: fakeredis.FakeRedis) -> None:
    finished, running = claimed(store, owner(OURS), *"ab")
    death_report = DeathReport(owner(OURS), [done(finished)], [crash(running)])
    for _ in range(3):
        rescuer(store).rescue_own(death_report)
    assert waiting(store) == ["b"]
    assert store.hget(keys.job("b"), "jobq_crashes") == b"1"
    assert store.xlen(keys.results("a")) == 1


def forget_the_rescue(store: fakeredis.FakeRedis, name: str, *jobs: Claimed) -> None:
    """Undo a rescue, as in a store that was killed before it wrote the rescue to its disk."""
    store.delete(keys.queue("default"))
    for job in jobs:
        store.hset(keys.job(job.id), "status", "queued")
        store.hdel(keys.job(job.id), "jobq_crashes")
        store.rpush(keys.intermediate("default"), job.id)
    store.sadd(keys.OWNERS, name)
    store.zadd(keys.own(name), {job.id: job.claim for job in jobs})


def test_a_rescue_that_the_store_lost_is_repeated(store: fakeredis.FakeRedis) -> None:
    finished, running, _ = jobs = claimed(store, owner(OURS), *"abc")
    claimed(store, owner(OURS, 1), "d")  # lives
    watch = rescuer(store)
    watch.rescue_own(DeathReport(owner(OURS), [done(finished)], [crash(running)]))
    forget_the_rescue(store, owner(OURS), *jobs[1:])
    watch.step(100.0)
    assert waiting(store) == ["b", "c"]
    assert store.hget(keys.job("b"), "jobq_crashes") == b"1"
    assert store.smembers(keys.OWNERS) == {owner(OURS, 1).encode()}
    assert (store.xlen(keys.results("a")), LEFT) == (1, [])


def test_a_lost_rescue_with_jobs_for_rqs_finish_is_handed_on_again(store: fakeredis.FakeRedis) -> None:
    (running,) = claimed(store, owner(OURS), "a")
    store.hset(keys.job("a"), mapping={"failure_callback_name": "samples.ok", "jobq_on_crash": "fail"})
    watch = rescuer(store)
    left = watch.rescue_own(DeathReport(owner(OURS), [], [crash(running)]))
    assert left is not None
    watch.step(100.0)  # the finish is under way: the rescue is not lost yet
    assert LEFT == []
    watch.close(left)
    forget_the_rescue(store, owner(OURS), running)
    watch.step(102.0)
    watch.step(104.0)
    assert [[job.id for job in left.jobs] for left in LEFT] == [["a"]]
    watch.close(LEFT[0])
    assert store.smembers(keys.OWNERS) == set()


def test_a_limited_number_of_rescues_is_remembered(store: fakeredis.FakeRedis) -> None:
    watch = rescuer(store)
    for n in range(2 * REMEMBERED):
        watch.rescue_own(DeathReport(owner(OURS, n), [], []))
    assert len(watch._rescued) == REMEMBERED


def test_many_finished_jobs_are_settled(store: fakeredis.FakeRedis) -> None:
    jobs = claimed(store, owner(OURS), *(f"j{n}" for n in range(200)))
    rescuer(store).rescue_own(DeathReport(owner(OURS), [done(job) for job in jobs], []))
    assert store.zcard(keys.registry("finished", "default")) == 200
    assert waiting(store) == []


def test_a_poison_job_fails_with_the_cause(store: fakeredis.FakeRedis) -> None:
    for _ in range(3):
        store.sadd(keys.OWNERS, owner(OURS))
        [job] = claimed(store, owner(OURS), "a")
        death_report = DeathReport(owner(OURS), [], [crash(job, cause_of_death(77, signal.SIGSEGV).recorded)])
        rescuer(store).rescue_own(death_report)
    failed = Job.fetch("a", store, Auto)
    assert failed.get_status().value == "failed"
    said = "ChildKilled: The process that ran this job (pid 77) was killed by SIGSEGV."
    assert failed.latest_result().exc_string == said


def test_the_workers_on_crash_setting_applies(store: fakeredis.FakeRedis) -> None:
    [job] = claimed(store, owner(OURS), "a")
    rescuer(store, on_crash="fail").rescue_own(DeathReport(owner(OURS), [], [crash(job)]))
    assert Job.fetch("a", store, Auto).get_status().value == "failed"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (signal.SIGKILL, "(pid 5) was killed by SIGKILL."),
        (7 << 8, "(pid 5) exited with status 7."),
        (0, "(pid 5) exited with status 0."),
        (None, "(pid 5) is gone."),
    ],
)
def test_the_cause_of_a_wait_status(status: int | None, words: str) -> None:
    cause = cause_of_death(5, status).recorded
    assert cause.startswith("ChildKilled: ")
    assert cause.endswith(words)


def test_jobs_for_rqs_finish_are_handed_on(store: fakeredis.FakeRedis) -> None:
    """A finished job with dependents and one that fails with a callback stay with the dead owner until RQ's finish."""
    finished, running = claimed(store, owner(OURS), *"ab")
    store.sadd(keys.dependents("a"), "waits")
    store.hset(keys.job("b"), mapping={"failure_callback_name": "samples.ok", "jobq_on_crash": "fail"})
    rescue = rescuer(store)
    left = rescue.rescue_own(DeathReport(owner(OURS), [done(finished)], [crash(running)]))
    assert left is not None
    assert [(job.id, job.verdict) for job in left.jobs] == [("b", Verdict.FAIL), ("a", Verdict.RETURNED)]
    assert store.zcard(keys.own(owner(OURS))) == 2
    rescue.close(left)
    assert Job.fetch("b", store, Auto).get_status().value == "failed"
    assert not store.exists(keys.OWNERS, keys.own(owner(OURS)))


def test_each_tree_is_judged_by_its_own_lease(store: fakeredis.FakeRedis) -> None:
    claimed(store, owner(THEIRS), "a")
    store.hset(keys.worker(THEIRS), mapping={"jobq_lease": 10.0, "queues": "default,other"})
    store.sadd(keys.workers_of("other"), keys.worker(THEIRS))
    watch = rescuer(store, lease=2.0)
    assert looks(watch, 100.0, 109.0) == []
    assert watch.step(110.0) == [THEIRS]
    assert not store.exists(keys.workers_of("other"))


def test_a_kill_for_want_of_memory_is_named() -> None:
    assert cause_of_death(5, signal.SIGKILL, out_of_memory=True).recorded.startswith("OutOfMemory: The process")
    assert cause_of_death(5, signal.SIGSEGV, out_of_memory=True).recorded.startswith("ChildKilled: ")
    assert cause_of_death(5, 7 << 8, out_of_memory=True).recorded.startswith("ChildKilled: ")


# -- other trees ---------------------------------------------------------------------------------------------------


def test_a_tree_whose_lease_stands_still_is_rescued(store: fakeredis.FakeRedis) -> None:
    """This rescuer has to see the lease stand still for the whole lease time, by its own clock."""
    claimed(store, owner(THEIRS), "a", "b")
    store.set(keys.lease(THEIRS), 5)
    store.sadd(keys.WORKERS, keys.worker(THEIRS))
    watch = rescuer(store, lease=10.0)
    assert looks(watch, 100.0, 109.9) == []
    assert waiting(store) == []
    assert watch.step(110.0) == [THEIRS]
    assert waiting(store) == ["a", "b"]
    assert not store.exists(keys.OWNERS, keys.lease(THEIRS), keys.WORKERS, keys.own(owner(THEIRS)))
    assert watch.step(112.0) == []


def test_a_rescuer_that_dies_after_the_last_owner_leaves_no_tree_behind(
    store: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last owner name and the tree itself are deleted in one step: no later rescuer would find the tree."""
    for n, job in enumerate("ab"):
        claimed(store, owner(THEIRS, n), job)
    store.set(keys.lease(THEIRS), 5)
    store.hset(keys.worker(THEIRS), "queues", "default,other")
    for key in (keys.WORKERS, keys.workers_of("default"), keys.workers_of("other")):
        store.sadd(key, keys.worker(THEIRS))
    watch = rescuer(store, lease=10.0)
    looks(watch, 100.0, 108.0)
    run, names = Protocol.rescue, [2]

    def rescue(*args: Any, **told: Any) -> Any:
        done = run(*args, **told)
        names[0] -= 1
        if not names[0]:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(Protocol, "rescue", rescue)
    with pytest.raises(KeyboardInterrupt):
        watch.step(110.0)
    assert sorted(waiting(store)) == ["a", "b"]
    assert not store.exists(keys.OWNERS, keys.WORKERS, keys.workers_of("default"), keys.workers_of("other"))
    assert not store.exists(keys.lease(THEIRS))
    assert 0 < store.ttl(keys.worker(THEIRS)) <= 60


def register(store: fakeredis.FakeRedis, worker: str, lease: int = 5) -> None:
    store.set(keys.lease(worker), lease)
    store.hset(keys.worker(worker), "queues", "default,other")
    for key in (keys.WORKERS, keys.workers_of("default"), keys.workers_of("other")):
        store.sadd(key, keys.worker(worker))


def is_registered(store: fakeredis.FakeRedis, worker: str) -> bool:
    lists = (keys.WORKERS, keys.workers_of("default"), keys.workers_of("other"))
    there = [bool(store.sismember(key, keys.worker(worker))) for key in lists] + [
        bool(store.exists(keys.lease(worker)))
    ]
    assert len({*there}) == 1, there
    return there[0]


def test_a_dead_tree_without_an_owner_name_is_deleted(store: fakeredis.FakeRedis) -> None:
    """The tree died before its first child, or between two: its registration and its lease are deleted all the same."""
    register(store, THEIRS)
    watch = rescuer(store, lease=10.0)
    assert looks(watch, 100.0, 109.0) == []
    assert is_registered(store, THEIRS)
    assert watch.step(111.0) == [THEIRS]
    assert not is_registered(store, THEIRS)
    assert 0 < store.ttl(keys.worker(THEIRS)) <= 60
    assert watch.step(113.0) == []


def test_a_living_tree_without_an_owner_name_is_left_alone(store: fakeredis.FakeRedis) -> None:
    register(store, THEIRS)
    watch = rescuer(store, lease=10.0)
    looks(watch, 100.0, 109.0)
    store.incr(keys.lease(THEIRS))
    assert watch.step(111.0) == []
    assert is_registered(store, THEIRS)


def test_two_rescuers_share_the_owners_of_a_tree(store: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rescuer takes an owner, and the one that takes the last owner strikes the tree off, whatever its place in
    the list."""
    register(store, THEIRS)
    for n, job in enumerate("ab"):
        claimed(store, owner(THEIRS, n), job)
    first, second = rescuer(store, lease=10.0), rescuer(store, lease=10.0)
    for watch in (first, second):
        looks(watch, 100.0, 109.0)
    run, begun = Protocol.rescue, []

    def rescue(self: Protocol, name: str, *args: Any, **told: Any) -> Any:
        begun.append(name)
        if len(begun) == 1:  # the second does all of it before the first has begun
            assert second.step(111.0) == [THEIRS]
        return run(self, name, *args, **told)

    monkeypatch.setattr(Protocol, "rescue", rescue)
    first.step(111.0)
    assert sorted(waiting(store)) == ["a", "b"]
    assert not is_registered(store, THEIRS)


def test_a_tree_stays_until_rqs_finish_has_ended_its_last_job(store: fakeredis.FakeRedis) -> None:
    """The owner name stays until that is done; then the tree is deleted, unless another child has taken the name."""
    register(store, THEIRS)
    [job] = claimed(store, owner(THEIRS), "a", failure_callback_name="samples.on_failure", jobq_on_crash="fail")
    Protocol(store).start_mark(owner(THEIRS), THEIRS, [StartMark(job, rq_time(NOW), 90)])
    watch = rescuer(store, lease=10.0)
    assert looks(watch, 100.0, 110.0) == [THEIRS]
    assert is_registered(store, THEIRS)
    [left] = LEFT
    store.incr(keys.lease(THEIRS))
    watch.close(left)
    assert is_registered(store, THEIRS)


def test_a_worker_without_a_registration_is_removed_from_the_lists(store: fakeredis.FakeRedis) -> None:
    """All trees died at once, and the next one starts long after their registrations and leases have expired."""
    store.sadd(keys.WORKERS, keys.worker(THEIRS), keys.worker("rqs"))
    store.sadd(keys.workers_of("default"), keys.worker(THEIRS))
    store.hset(keys.worker("rqs"), "queues", "default")
    rescuer(store).step(100.0)
    assert store.smembers(keys.WORKERS) == {keys.worker("rqs").encode()}
    assert not store.exists(keys.workers_of("default"))


def test_a_tree_whose_lease_is_renewed_is_left_alone(store: fakeredis.FakeRedis) -> None:
    claimed(store, owner(THEIRS), "a")
    watch = rescuer(store, lease=10.0)
    for second in range(100, 200, 3):
        store.incr(keys.lease(THEIRS))
        assert watch.step(float(second)) == []
    assert waiting(store) == []


def test_a_tree_without_a_lease_is_rescued_after_the_same_wait(store: fakeredis.FakeRedis) -> None:
    """A lease that was flushed or has expired leads to the same wait, and to the same rescue."""
    claimed(store, owner(THEIRS), "a")
    watch = rescuer(store, lease=10.0)
    assert looks(watch, 100.0, 110.0) == [THEIRS]
    assert waiting(store) == ["a"]


def test_after_an_outage_the_wait_starts_again(store: fakeredis.FakeRedis) -> None:
    claimed(store, owner(THEIRS), "a")
    watch = rescuer(store, lease=10.0)
    looks(watch, 100.0, 108.0)
    watch.reconnected()
    assert looks(watch, 110.0, 119.0) == []
    assert watch.step(120.0) == [THEIRS]


def test_after_a_stop_of_the_rescuer_itself_no_tree_is_rescued(store: fakeredis.FakeRedis) -> None:
    """All containers were paused and resumed: no lease was renewed meanwhile, and no tree is dead."""
    claimed(store, owner(THEIRS), "a")
    watch = rescuer(store, lease=10.0)
    assert looks(watch, 100.0, 104.0) == []
    assert watch.step(160.0) == []
    assert looks(watch, 162.0, 170.0) == [THEIRS]


def test_after_a_stop_of_the_machine_living_trees_are_not_rescued(store: fakeredis.FakeRedis) -> None:
    """The rescuer may look before living trees have renewed their leases."""
    for name in (THEIRS, "alive"):
        claimed(store, owner(name), name)
        store.hset(keys.worker(name), "jobq_lease", 2.0)
    watch = rescuer(store, lease=2.0)
    assert watch.every < 1.0
    assert [watch.step(now) for now in (100.0, 103.0)] == [[], []]
    store.incr(keys.lease("alive"))
    assert watch.step(103.6) == [THEIRS]
    assert waiting(store) == [THEIRS]


def test_all_children_of_a_dead_tree_are_rescued(store: fakeredis.FakeRedis) -> None:
    for n, job in enumerate("abc"):
        claimed(store, owner(THEIRS, n), job)
    claimed(store, owner("alive"), "d")
    watch = rescuer(store, lease=10.0)
    looks(watch, 100.0, 104.0)
    store.incr(keys.lease("alive"))
    assert looks(watch, 106.0, 110.0) == [THEIRS]
    assert sorted(waiting(store)) == list("abc")
    assert store.smembers(keys.OWNERS) == {owner("alive").encode()}


def test_our_own_tree_is_left_alone(store: fakeredis.FakeRedis) -> None:
    claimed(store, owner(OURS), "a")
    watch = rescuer(store, lease=10.0)
    assert [watch.step(now) for now in (100.0, 200.0, 300.0)] == [[], [], []]
    assert waiting(store) == []


def test_two_rescuers_give_each_job_back_once(store: fakeredis.FakeRedis) -> None:
    """Each job is given back once."""
    [started, _] = claimed(store, owner(THEIRS), "a", "b")
    Protocol(store).start_mark(owner(THEIRS), THEIRS, [StartMark(started, rq_time(NOW), 90)])
    first, second = rescuer(store, lease=10.0), rescuer(store, lease=10.0)
    for watch in (first, second):
        looks(watch, 100.0, 109.0)
    assert first.step(111.0) == [THEIRS]
    assert second.step(111.0) == []
    assert waiting(store) == ["a", "b"]
    assert store.hget(keys.job("a"), "jobq_crashes") == b"1"
    assert store.hget(keys.job("b"), "jobq_redelivered") == b"1"


def test_the_workers_name_is_read_from_the_owners_name(store: fakeredis.FakeRedis) -> None:
    """The worker's name ends at the last colon of the owner's."""
    name = "host-1.example-77-abc"
    claimed(store, f"{name}:12.3", "a")
    watch = rescuer(store, lease=10.0)
    assert looks(watch, 100.0, 110.0) == [name]


def test_a_fenced_child_did_not_die_of_its_job() -> None:
    assert "counted as dead" in end_of_process(FENCED << 8, ran=False)
    assert end_of_process(FENCED << 8) == "exited with status 3"
    assert end_of_process(signal.SIGKILL, ran=False) == "was killed by SIGKILL"
