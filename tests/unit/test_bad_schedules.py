"""Invalid data in place of a schedule: it is logged, skipped, shown and deleted, and does not affect other
schedules."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
import redis
from helpers import Server, jobq

from jobqueue.doctor.schedules import examine_schedules
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.schedules.schedules import Schedules
from jobqueue.schedules.timetable import Timetable
from jobqueue.store.connection import Address
from jobqueue.workers.roles.cron_registration import CronRegistration
from jobqueue.workers.roles.schedule_ticker import AT_ONCE, ScheduleTicker
from jobqueue.workers.roles.scheduler import Scheduler
from jobqueue.workers.shared.settings import Settings

Spoil = Callable[[redis.Redis], object]


def put(**fields: str) -> Spoil:
    return lambda store: store.hset(keys.schedule("bad"), mapping=fields)  # type: ignore[arg-type]


def of_another_type(key: str) -> Spoil:
    return lambda store: (store.delete(key), store.set(key, "x"))


def due_at(score: str) -> Spoil:
    return lambda store: store.zadd(keys.SCHEDULES, {"bad": score})  # type: ignore[dict-item]


BAD: dict[str, Spoil] = {
    "no number": put(every="True"),
    "not a number": put(every="nan"),
    "infinite": put(every="inf"),
    "too long": put(every="3e11"),
    "beyond all": put(every="1e308"),
    "too short": put(every="1e-320"),
    "backwards": put(every="-5"),
    "neither": put(every="", cron=""),
    "both": put(every="5", cron="* * * * *"),
    "no expression": put(every="", cron="sometimes"),
    "never": put(every="", cron="0 0 30 2 *"),
    "a huge expression": put(every="", cron="* " * 10_000),
    "no zone": put(every="", cron="* * * * *", tz="../../etc/passwd"),
    "no queue": lambda store: store.hdel(keys.schedule("bad"), "queue"),
    "no data": lambda store: store.hdel(keys.schedule_job("bad"), "data"),
    "another type": of_another_type(keys.schedule("bad")),
    "a template of another type": of_another_type(keys.schedule_job("bad")),
    "not a text": lambda store: store.hset(keys.schedule("bad"), "every", b"\xff\xfe"),
    "long ago": due_at("-inf"),
}


@pytest.fixture
def q(store: redis.Redis) -> Queue:
    return Queue("q", connection=store)


@pytest.fixture
def bad(request: pytest.FixtureRequest, store: redis.Redis, q: Queue) -> str:
    """One invalid entry, older than the valid one."""
    q.schedule("square", 3, every=60, schedule_id="bad")
    store.zadd(keys.SCHEDULES, {"bad": 1000.0})
    BAD[request.param](store)
    q.schedule("square", 2, every=60, schedule_id="good")
    return str(request.param)


EACH = pytest.mark.parametrize("bad", BAD, indirect=True)


def scheduler(store: redis.Redis) -> Scheduler:
    return Scheduler(Settings(Address(url="redis://127.0.0.1:1/0"), "w", ("q",), 1, 1), store)


@EACH
def test_the_other_schedules_run_and_the_bad_one_is_logged_once(
    bad: str, store: redis.Redis, q: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    before = store.zscore(keys.SCHEDULES, "bad")
    role, registration = scheduler(store), CronRegistration(store)
    with caplog.at_level(logging.WARNING):
        for turn in range(5):
            role.step(float(turn))
            registration.step(float(turn))
    assert [job_id.partition("-")[0] for job_id in q.job_ids] == ["good"]
    assert store.zscore(keys.SCHEDULES, "bad") == before
    [said] = caplog.messages
    assert said.startswith("the schedule 'bad' is skipped: ")


@EACH
def test_a_bad_schedule_is_shown_and_can_be_deleted(bad: str, store: redis.Redis) -> None:
    views = {view.id: view for view in Schedules(store).recurring()}
    assert views["bad"].problem, views["bad"]
    [finding] = examine_schedules(store)
    assert (finding.severity, finding.ids) == ("warning", ("bad",))
    assert views["good"].problem is None
    assert Schedules(store).delete("bad") == "schedule"
    assert list(examine_schedules(store)) == []
    assert not store.exists(keys.schedule("bad"), keys.schedule_job("bad"))


def test_more_bad_schedules_than_are_read_at_once_hold_up_no_other(store: redis.Redis, q: Queue) -> None:
    for n in range(AT_ONCE + 50):
        store.zadd(keys.SCHEDULES, {f"bad{n}": 1000.0 + n})
        store.set(keys.schedule(f"bad{n}"), "x")
    for n in range(3):
        q.schedule("square", 2, every=60, schedule_id=f"good{n}")
    ticker = ScheduleTicker(Timetable(store))
    for _ in range(2):
        ticker.step()
    assert sorted(job_id.partition("-")[0] for job_id in q.job_ids) == ["good0", "good1", "good2"]


def test_a_schedule_that_was_repaired_runs_at_once(store: redis.Redis, q: Queue) -> None:
    q.schedule("square", 3, every=60, schedule_id="s")
    store.hset(keys.schedule("s"), "every", "nan")
    ticker = ScheduleTicker(Timetable(store))
    ticker.step()
    assert q.job_ids == []
    store.hset(keys.schedule("s"), "every", "60.0")
    ticker.step()
    assert len(q.job_ids) == 1


def test_a_schedule_whose_name_is_not_utf8_is_shown_and_deleted(store: redis.Redis, q: Queue) -> None:
    q.schedule("square", 3, every=60, schedule_id="s")
    store.rename(keys.schedule("s"), keys.schedule("").encode() + b"\xff")
    store.rename(keys.schedule_job("s"), keys.schedule_job("").encode() + b"\xff")
    store.zadd(keys.SCHEDULES, {b"\xff": time.time()})
    scheduler(store).step(0.0)
    assert [view.id for view in Schedules(store).recurring()] == ["\udcff"]
    assert Schedules(store).delete("\udcff") == "schedule"
    assert store.zcard(keys.SCHEDULES) == 0


# -- delayed jobs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["inf", "1e18", "-1e18"])
def test_a_delayed_job_without_a_date_is_shown_and_deleted(
    server: Server, store: redis.Redis, q: Queue, score: str
) -> None:
    q.enqueue_in(timedelta(seconds=1000), "square", 2, job_id="far")
    store.zadd(keys.registry("scheduled", "q"), {"far": score})  # type: ignore[dict-item]
    [view], _ = Schedules(store).delayed(10)
    assert view.problem
    assert view.problem.startswith("its time is not a date")
    listed = jobq(server, "schedule", "list", "--json")
    assert (listed.returncode, json.loads(listed.stdout)["id"]) == (0, "far")
    assert Schedules(store).delete("far") == "delayed job"


def test_a_delayed_job_whose_key_has_a_wrong_type_is_shown_and_deleted(store: redis.Redis, q: Queue) -> None:
    job = q.enqueue_in(timedelta(seconds=1000), "square", 2)
    store.delete(keys.job(job.id))
    store.set(keys.job(job.id), "x")
    [view], _ = Schedules(store).delayed(10)
    assert (view.id, view.problem) == (job.id, "its key is of another type.")
    assert Schedules(store).delete(job.id) == "delayed job"
    assert Schedules(store).delayed(10) == ([], 0)


def test_delayed_jobs_of_one_queue_do_not_hold_up_the_others(store: redis.Redis, q: Queue) -> None:
    store.set(keys.registry("scheduled", "broken"), "x")
    q.schedule("square", 2, every=60, schedule_id="good")
    role = Scheduler(Settings(Address(url="redis://127.0.0.1:1/0"), "w", ("broken", "q"), 1, 1), store)
    later = q.enqueue_in(timedelta(seconds=1000), "square", 2)
    store.zadd(keys.registry("scheduled", "q"), {later.id: 1.0})
    for turn in range(5):
        role.step(2.0 * turn)
    assert later.id in q.job_ids
    assert len(q.job_ids) == 2


def test_a_schedules_key_of_a_wrong_type_is_reported(server: Server, store: redis.Redis) -> None:
    store.set(keys.SCHEDULES, "x")
    [finding] = examine_schedules(store)
    assert finding.severity == "problem"
    assert keys.SCHEDULES in finding.text
    listed = jobq(server, "schedule", "list")
    assert (listed.returncode, "Traceback" in listed.stderr) == (1, False)
