"""Schedules in the store: each occurrence is enqueued once, whichever worker does it and whichever process dies."""

from __future__ import annotations

from dataclasses import replace

import fakeredis
import pytest
import redis
from rq import cron_job_registry
from rq.cron import CronScheduler, get_cron_job_ids

from jobqueue.errors import DuplicateJob, JobError, NoSuchJob, UsageError
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.schedules.schedules import Schedules
from jobqueue.schedules.timetable import Due, Schedule, Timetable
from jobqueue.schedules.timing import Timing
from jobqueue.store.connection import Address
from jobqueue.workers.roles.cron_leader import CronLeader
from jobqueue.workers.roles.cron_registration import NAME, CronRegistration
from jobqueue.workers.roles.schedule_ticker import ScheduleTicker
from jobqueue.workers.roles.scheduler import Scheduler
from jobqueue.workers.shared.settings import Settings


@pytest.fixture
def client() -> redis.Redis:
    return fakeredis.FakeRedis()


@pytest.fixture
def q(client: redis.Redis) -> Queue:
    return Queue("q", connection=client)


@pytest.fixture(autouse=True)
def a_leader_leads_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a leader keep its lock until a test deletes it, however slow the test is."""
    monkeypatch.setattr("jobqueue.workers.roles.cron_leader.LEAD", 3600.0)


def entry(q: Queue, schedule_id: str, every: float = 60.0, value: int = 2) -> Schedule:
    return q.plan("square", value, timing=Timing(every), schedule_id=schedule_id, name="squares")


def put_back(client: redis.Redis, schedule_id: str, seconds: float, key: str = keys.SCHEDULES) -> float:
    """Make the schedule due since this number of seconds; return since when."""
    due = round(Timetable(client).now() - seconds, 3)
    client.zadd(key, {schedule_id: due})
    return due


# -- stored schedules ----------------------------------------------------------------------------------------------


def test_an_occurrence_is_enqueued_as_a_job(client: redis.Redis, q: Queue) -> None:
    assert q.schedule("square", 7, every=60, schedule_id="s", meta={"a": 1}, ttl=50, at_front=True) == "s"
    other = q.enqueue("square", 1)
    ScheduleTicker(Timetable(client)).step()
    ids = q.job_ids
    assert len(ids) == 2
    assert ids[1] == other.id
    job = q.fetch_job(ids[0])
    assert (job.args, job.meta, job.origin, job.get_status()) == ([7], {"a": 1}, "q", "queued")
    assert (job.func_name, job.description) == ("jobqueue.tasks.square", "jobqueue.tasks.square(7)")
    assert job.enqueued_at is not None
    assert job.created_at is not None
    assert 0 < client.ttl(keys.job(job.id)) <= 50
    assert client.sismember(keys.QUEUES, keys.queue("q"))
    assert get_cron_job_ids("s", client) == [job.id]
    assert cron_job_registry.get_names(client) == ["s"]


def test_each_occurrence_is_enqueued_once(client: redis.Redis, q: Queue) -> None:
    """Both tickers have read that the schedule is due; one enqueues its job. A repeated request changes nothing."""
    q.schedule("square", 7, every=60, schedule_id="s")
    due = put_back(client, "s", 5)
    one, two = Timetable(client), Timetable(client)
    [mine], [theirs] = one.upcoming().due, two.upcoming().due
    assert mine == theirs
    assert one.tick(mine, due + 60) == f"s-{round(due * 1000)}"
    assert two.tick(theirs, due + 60) == "moved"
    assert one.tick(mine, due + 60) == "moved"
    assert len(q.job_ids) == 1
    assert client.zscore(keys.SCHEDULES, "s") == due + 60


def test_missed_occurrences_are_enqueued_once(client: redis.Redis, q: Queue) -> None:
    q.schedule("square", 7, every=60, schedule_id="s")
    due = put_back(client, "s", 3601)
    ticker = ScheduleTicker(Timetable(client))
    wait = ticker.step()
    assert wait == 1.0
    assert ticker.step() == 1.0
    assert len(q.job_ids) == 1
    assert client.zscore(keys.SCHEDULES, "s") == due + 61 * 60


def test_the_time_until_the_next_occurrence(client: redis.Redis, q: Queue) -> None:
    assert ScheduleTicker(Timetable(client)).step() == 1.0
    q.schedule("square", 7, every=0.25, schedule_id="s")
    assert 0.005 <= ScheduleTicker(Timetable(client)).step() <= 0.25


def test_no_overlap_skips_an_occurrence_while_a_job_runs(client: redis.Redis, q: Queue) -> None:
    q.schedule("square", 7, every=60, schedule_id="s", overlap=False)
    timetable = Timetable(client)
    for _ in range(2):
        due = put_back(client, "s", 1)
        [one] = timetable.upcoming().due
        said = timetable.tick(one, due + 60)
    assert said == "overlap"
    [job_id] = q.job_ids
    client.hset(keys.job(job_id), "status", "finished")
    put_back(client, "s", 0.5)
    [one] = timetable.upcoming().due
    assert timetable.tick(one, 0).startswith("s-")
    [view] = Schedules(client).recurring()
    assert (view.runs, view.skipped, view.overlap) == (2, 1, False)


def test_storing_a_schedule_again_delays_nothing(client: redis.Redis, q: Queue) -> None:
    q.schedule("square", 7, every=60, schedule_id="s")
    due = put_back(client, "s", -40)
    q.schedule("square", 8, every=60, schedule_id="s")
    assert client.zscore(keys.SCHEDULES, "s") == due
    [view] = Schedules(client).recurring()
    assert view.args == [8]
    q.schedule("square", 8, every=30, schedule_id="s")
    assert client.zscore(keys.SCHEDULES, "s") < due
    with pytest.raises(DuplicateJob):
        q.schedule("square", 9, every=30, schedule_id="s", replace=False)


def test_a_schedule_whose_keys_are_gone_is_dropped(client: redis.Redis, q: Queue) -> None:
    q.schedule("square", 7, every=60, schedule_id="s")
    client.delete(keys.schedule_job("s"))
    ScheduleTicker(Timetable(client)).step()
    assert client.zcard(keys.SCHEDULES) == 0
    assert q.job_ids == []


def test_a_schedule_in_an_unknown_time_zone_is_left_to_another_worker(client: redis.Redis, q: Queue) -> None:
    q.schedule("square", 7, cron="* * * * *", tz="UTC", schedule_id="far")
    client.hset(keys.schedule("far"), "tz", "Mars/Olympus")
    q.schedule("square", 8, every=60, schedule_id="near")
    put_back(client, "far", 5)
    ScheduleTicker(Timetable(client)).step()
    assert [job_id.partition("-")[0] for job_id in q.job_ids] == ["near"]
    assert client.zscore(keys.SCHEDULES, "far") is not None


@pytest.mark.parametrize("options", [{"depends_on": "x"}, {"job_id": "x"}, {"unique": True, "job_id": "x"}])
def test_options_that_scheduled_jobs_cannot_have(q: Queue, options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        q.schedule("square", 7, every=60, **options)


def test_the_role_moves_delayed_jobs_and_ticks(client: redis.Redis, q: Queue) -> None:
    q.schedule("square", 7, every=0.2, schedule_id="s")
    settings = Settings(Address(url="redis://127.0.0.1:1/0"), "w", ("q",), 1, 1)
    role = Scheduler(settings, client)
    role.step(100.0)
    assert 0 < role.every <= 0.2
    client.hset(keys.job("late"), mapping={"data": "x", "status": "scheduled"})
    client.zadd(keys.registry("scheduled", "q"), {"late": 1})
    assert role.step(100.5) == 0  # RQ's times are whole seconds
    assert role.step(101.0) == 1
    assert {job_id.partition("-")[0] for job_id in q.job_ids} == {"s", "late"}


# -- deleting ------------------------------------------------------------------------------------------------------


def test_delete(client: redis.Redis, q: Queue) -> None:
    q.schedule("square", 7, every=60, schedule_id="s")
    put_back(client, "s", 1)
    timetable = Timetable(client)
    [due] = timetable.upcoming().due
    assert Schedules(client).delete("s") == "schedule"
    assert timetable.tick(due, 5e9) == "moved"
    assert not list(client.scan_iter(f"{keys.PREFIX}:jobq:*"))
    with pytest.raises(NoSuchJob):
        Schedules(client).delete("s")


def test_delete_leaves_nothing_for_rqs_readers(client: redis.Redis, q: Queue) -> None:
    """Neither the schedule's name nor its history is left; a history under a shared name is deleted with its last
    schedule."""
    for schedule_id, name in [("a", ""), ("b", "twins"), ("c", "twins"), ("d", "other")]:
        q.schedule("square", 7, every=60, schedule_id=schedule_id, name=name)
    ScheduleTicker(Timetable(client)).step()

    def left() -> set[str]:
        names = {name.decode() for name in client.zrange(keys.CRON_NAMES, 0, -1)}
        assert {name for name in ("a", "twins", "other") if get_cron_job_ids(name, client)} == names
        return names

    assert left() == {"a", "twins", "other"}
    Schedules(client).delete("a")
    assert left() == {"twins", "other"}
    Schedules(client).delete("b")
    assert left() == {"twins", "other"}
    Schedules(client).delete("c")
    assert left() == {"other"}
    assert len(q.job_ids) == 4


def test_delete_a_delayed_job(client: redis.Redis, q: Queue) -> None:
    from datetime import UTC, datetime

    job = q.enqueue_at(datetime(2100, 1, 1, tzinfo=UTC), "square", 3)
    [view], in_all = Schedules(client).delayed(10)
    assert (view.id, view.kind, view.args, view.next, in_all) == (
        job.id,
        "once",
        [3],
        datetime(2100, 1, 1, tzinfo=UTC),
        1,
    )
    assert Schedules(client).delete(job.id) == "delayed job"
    assert Schedules(client).delayed(10) == ([], 0)
    assert not client.exists(keys.job(job.id))
    waits = q.enqueue("square", 3)
    with pytest.raises(NoSuchJob):
        Schedules(client).delete(waits.id)
    assert q.job_ids == [waits.id]


# -- the leader of the cron files ----------------------------------------------------------------------------------


def test_the_next_leader_continues_where_the_last_one_died(client: redis.Redis, q: Queue) -> None:
    one, two = (CronLeader(name, [entry(q, "a"), entry(q, "b")], client) for name in ("one", "two"))
    assert one.step(0.0)
    assert not two.step(0.0)
    assert len(q.job_ids) == 2
    due = put_back(client, "a", 3, keys.CRON_ENTRIES)
    client.delete(keys.CRON_LEADER)  # the leader died: the lock expires
    assert two.step(0.0)
    assert len(q.job_ids) == 3  # the missed occurrence; b is not due yet
    assert client.zscore(keys.CRON_ENTRIES, "a") == due + 60
    assert not one.step(0.0)


def test_an_entry_that_left_its_file_leaves_nothing_for_rqs_readers(client: redis.Redis, q: Queue) -> None:
    """The name stays if a stored schedule has it too."""
    q.schedule("square", 7, every=60, schedule_id="s", name="twins")
    ScheduleTicker(Timetable(client)).step()
    gone, twins, stays = (replace(entry(q, name), name=name) for name in ("gone", "twins", "stays"))
    assert CronLeader("one", [gone, twins, stays], client).step(0.0)
    assert set(client.zrange(keys.CRON_NAMES, 0, -1)) == {b"gone", b"twins", b"stays"}
    client.delete(keys.CRON_LEADER)
    assert CronLeader("two", [stays], client).step(0.0)
    assert set(client.zrange(keys.CRON_NAMES, 0, -1)) == {b"twins", b"stays"}
    assert not client.exists(keys.cron_history("gone"))
    assert client.exists(keys.cron_history("twins"))


def test_a_leader_that_lost_its_lock_enqueues_nothing(client: redis.Redis, q: Queue) -> None:
    """The leader was stopped between reading what is due and enqueueing it; meanwhile its lock expired."""
    CronLeader("old", [entry(q, "a")], client).step(0.0)
    put_back(client, "a", 3, keys.CRON_ENTRIES)
    old = Timetable(client, leader="old")
    [due] = old.upcoming().due
    client.delete(keys.CRON_LEADER)
    assert old.tick(due, 5e9) == "fenced"
    assert old.put(entry(q, "c"), 0.0) is None
    Timetable(client, leader="new").lead(5)
    assert old.tick(due, 5e9) == "fenced"
    assert not old.keep_only([])
    assert not old.resign()
    assert len(q.job_ids) == 1
    assert client.zcard(keys.CRON_ENTRIES) == 1


def test_the_leaders_file_counts(client: redis.Redis, q: Queue) -> None:
    old = CronLeader("old", [entry(q, "a"), entry(q, "b")], client)
    new = CronLeader("new", [replace(entry(q, "b", value=9), source="f.py"), entry(q, "c")], client)
    old.step(0.0)
    before = client.zscore(keys.CRON_ENTRIES, "b")
    assert not new.step(0.0)
    old.resign()
    assert not old.step(0.0)
    assert new.step(0.0)
    assert {view.id for view in Schedules(client).recurring()} == {"b", "c"}
    assert client.zscore(keys.CRON_ENTRIES, "b") == before
    assert not client.exists(keys.schedule("a"), keys.schedule_job("a"))
    with pytest.raises(JobError, match=r"f\.py"):
        Schedules(client).delete("b")
    new.resign()
    assert {view.next for view in Schedules(client).recurring() if view.source} == {None}
    assert Schedules(client).delete("b") == "cron entry"


def test_a_worker_with_another_cron_file_logs_the_difference(
    client: redis.Redis, q: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    CronLeader("one", [entry(q, "a"), entry(q, "b")], client).step(0.0)
    same, other = (
        CronLeader("two", [entry(q, "a")], client),
        CronLeader("three", [entry(q, "a"), entry(q, "c")], client),
    )
    for cron in (same, other):
        for now in (1.0, 5.0, 15.0, 30.0):  # not at once: the leader may be about to store them
            assert not cron.step(now)
    [warning] = caplog.messages
    assert "squares will not be enqueued" in warning


def test_a_flushed_store_is_filled_again(client: redis.Redis, q: Queue) -> None:
    cron = CronLeader("one", [entry(q, "a")], client)
    cron.step(0.0)
    client.flushall()
    assert cron.step(0.0)
    assert client.zcard(keys.CRON_ENTRIES) == 1


# -- what RQ's readers see -----------------------------------------------------------------------------------------


def test_rq_sees_schedules_and_entries(client: redis.Redis, q: Queue) -> None:
    registration = CronRegistration(client)
    assert not registration.step(0.0)
    q.schedule("square", 7, cron="0 3 * * *", tz="UTC", schedule_id="nightly")
    CronLeader("one", [replace(entry(q, "a"), source="cron_config.py")], client).step(0.0)
    Queue("q", connection=client, serializer="pickle").schedule("square", {1}, every=60, schedule_id="pickled")
    assert registration.step(0.0)
    assert not registration.step(0.0)  # it was renewed lately
    [scheduler] = CronScheduler.all(client)
    jobs = {job.name: job for job in scheduler.get_jobs()}
    assert (scheduler.name, scheduler.config_file) == (NAME, "cron_config.py")
    assert (jobs["nightly"].cron, jobs["nightly"].args, jobs["nightly"].queue_name) == ("0 3 * * *", (7,), "q")
    assert (jobs["squares"].interval, jobs["squares"].func_name) == (60, "jobqueue.tasks.square")
    assert jobs["squares"].latest_enqueue_time is not None
    assert jobs["pickled"].func_name == "jobqueue.tasks.square"


def test_rq_sees_no_scheduler_without_schedules(client: redis.Redis, q: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    registration = CronRegistration(client)
    q.schedule("square", 7, every=60, schedule_id="s")
    assert registration.step(0.0)
    Schedules(client).delete("s")
    monkeypatch.setattr("jobqueue.workers.roles.cron_registration.OLD", 0.0)
    assert registration.step(0.0)
    assert CronScheduler.all(client, cleanup=False) == []
    assert not client.exists(keys.CRON_SCHEDULERS, keys.cron_scheduler(NAME))
    assert not registration.step(0.0)


def test_a_job_that_exists_is_not_enqueued_again(client: redis.Redis, q: Queue) -> None:
    q.schedule("square", 7, every=60, schedule_id="s")
    due = put_back(client, "s", 1)
    timetable = Timetable(client)
    job_id = timetable.tick(timetable.upcoming().due[0], due + 60)
    client.zadd(keys.SCHEDULES, {"s": due})  # as after a fail-over to a replica that lags behind
    assert timetable.tick(Due("s", repr(due), Timing(60)), due + 60) == "there"
    assert q.job_ids == [job_id]
