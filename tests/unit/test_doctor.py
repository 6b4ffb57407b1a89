from __future__ import annotations

import functools
import json
import pickle
import time
from datetime import UTC, datetime
from typing import Any

import pytest
import rq
from click.testing import CliRunner
from fake_worker import fail, invoke
from helpers import Server
from rq.job import Dependency
from rq.utils import utcformat

from jobqueue.admin import control
from jobqueue.cli import main
from jobqueue.doctor import lost_jobs, queues
from jobqueue.doctor.clocks import pause_of
from jobqueue.doctor.examine import examine
from jobqueue.doctor.finding import Finding, worst
from jobqueue.doctor.lost_jobs import bring_back, still_lost, suspects
from jobqueue.doctor.server import examine_server, fail_over, size
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.protocol.protocol import Protocol
from jobqueue.schedules.schedules import ScheduleView
from jobqueue.store.connection import redis
from jobqueue.tasks import square

STORE_KEEPS = True  # there is nothing to find


@pytest.fixture
def queue(store: redis.Redis) -> Queue:
    return Queue("q", store)


@pytest.fixture
def jobq(server: Server) -> Any:
    return functools.partial(invoke, server.url, "doctor", "--patience", "0")


def found(store: redis.Redis, check: str, **kwargs: Any) -> Finding:
    (finding,) = [f for f in examine(store, sleep=lambda _: None, **kwargs) if f.check == check]
    return finding


def lose(store: redis.Redis, job_id: str) -> None:
    """Lose a job as a SIGKILL after RQ's BLPOP on several queues does."""
    assert store.lrem(keys.queue("q"), 0, job_id) == 1


# -- the server ------------------------------------------------------------------------------------------------------


def test_a_healthy_store(store: redis.Redis) -> None:
    store.config_set("stream-node-max-bytes", "512")
    try:
        findings = list(examine(store, sleep=lambda _: None))
    finally:
        store.config_set("stream-node-max-bytes", "4096")
    assert worst(findings) == "ok", findings


class Reports:
    """A store whose server gives prepared answers about itself."""

    def __init__(self, store: redis.Redis, forbidden: bool = False, save: str = "", **info: Any) -> None:
        self._client, self._forbidden, self._save, self._info = store, forbidden, save, info

    def info(self) -> dict[str, Any]:
        if self._forbidden:
            raise redis.ResponseError("NOPERM this user has no permissions to run the 'info' command")
        return {**self._client.info(), **self._info}  # type: ignore[dict-item]

    def config_get(self, name: str) -> dict[str, str]:
        if self._forbidden:
            raise redis.ResponseError("unknown command 'CONFIG'")
        return {"save": self._save} if name == "save" else self._client.config_get(name)  # type: ignore[return-value]

    def time(self) -> Any:
        return self._client.time()


@pytest.mark.parametrize(
    ("info", "check", "severity", "words"),
    [
        ({"redis_version": "6.0.16", "valkey_version": ""}, "version", "problem", "lacks commands"),
        ({"redis_version": "6.2.14"}, "version", "warning", "older"),
        ({"aof_enabled": 0}, "persistence", "problem", "loses all jobs"),
        ({"aof_enabled": 0, "save": "3600 1"}, "persistence", "warning", "Only snapshots"),
        ({"aof_last_write_status": "err"}, "persistence", "problem", "cannot write"),
        ({"aof_enabled": 0, "rdb_last_bgsave_status": "err"}, "persistence", "problem", "snapshots"),
        ({"maxmemory_policy": "allkeys-lru"}, "eviction", "note", "does nothing yet"),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": 10**9}, "eviction", "problem", "throws jobs away"),
        ({"maxmemory": 1000, "used_memory": 950}, "memory", "problem", "95%"),
        ({"maxmemory": 1000, "used_memory": 800}, "memory", "warning", "80%"),
    ],
)
def test_problems_of_a_server_are_found(
    store: redis.Redis, info: dict[str, Any], check: str, severity: str, words: str
) -> None:
    reports: Any = Reports(store, **info)
    (finding,) = [f for f in examine_server(reports) if f.check == check]
    assert finding.severity == severity, finding
    assert words in finding.text
    assert finding.advice


def test_a_server_that_forbids_commands_is_examined_as_far_as_possible(store: redis.Redis) -> None:
    reports: Any = Reports(store, forbidden=True)
    findings = list(examine_server(reports))
    assert [f.check for f in findings] == ["server", "clock"]
    assert "INFO is forbidden" in findings[0].text


@pytest.mark.parametrize(("number", "text"), [(999, "999 B"), (4768, "4.77 kB"), (2.5e9, "2.5 GB"), (3e12, "3e+03 GB")])
def test_sizes_in_words(number: float, text: str) -> None:
    assert size(number) == text


# -- queues and workers ----------------------------------------------------------------------------------------------


def test_jobs_in_queues_without_a_worker_are_found(store: redis.Redis, queue: Queue) -> None:
    queue.enqueue(square, 1)
    finding = found(store, "unserved")
    assert (finding.severity, finding.ids) == ("warning", ("q",))
    assert "1 job waits in 'q'" in finding.text
    beats = {"last_heartbeat": utcformat(datetime.now(UTC))}
    store.hset(keys.worker("w"), mapping={"birth": "2026-01-01T00:00:00Z", "queues": "q", **beats})
    store.sadd(keys.WORKERS, keys.worker("w"))
    assert "unserved" not in [f.check for f in examine(store, sleep=lambda _: None)]
    store.hdel(keys.worker("w"), "last_heartbeat")
    assert found(store, "workers").ids == ("w",)
    assert found(store, "unserved").ids == ("q",)  # a worker without a sign of life serves no queue


def test_paused_and_suspended_queues_are_found(store: redis.Redis, queue: Queue) -> None:
    queue.enqueue(square, 1)
    control.pause(store, "q")
    assert found(store, "paused").ids == ("q",)
    store.set(keys.SUSPENDED, 1)
    assert found(store, "suspended").severity == "warning"


def test_pickled_jobs_are_found(store: redis.Redis, queue: Queue) -> None:
    rq.Queue("q", connection=store).enqueue("jobqueue.tasks.square", 2)
    queue.enqueue(square, 1)
    assert "1 of the first 2 jobs" in found(store, "pickle").text


def test_failed_jobs_that_are_kept_for_a_year_are_found(
    store: redis.Redis, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = queue.enqueue(square, "x")
    store.lpop(keys.queue("q"))
    fail(store, job.id, "Traceback")
    store.zadd(keys.registry("failed", "q"), {job.id: time.time() + 365 * 86_400})
    finding = found(store, "failed")
    assert finding.text.startswith("1 failed job is kept, about ")
    assert "365 more days" in finding.text
    assert found(store, "limbo").severity == "ok"
    assert finding.severity == "note"
    monkeypatch.setattr(queues, "SHARE", 0.0001)
    store.config_set("maxmemory", "40mb")
    try:
        assert found(store, "failed").severity == "warning"  # much for this server
    finally:
        store.config_set("maxmemory", "0")


def test_results_that_are_kept_for_ever_are_found(store: redis.Redis, queue: Queue) -> None:
    store.sadd(keys.QUEUES, keys.queue("q"))
    store.zadd(keys.registry("finished", "q"), {"a": float("inf"), "b": time.time() + 60})
    assert found(store, "kept").text.startswith("1 finished job is kept for ever")


def test_a_worker_that_does_not_renew_its_lease_is_found(store: redis.Redis, queue: Queue) -> None:
    queue.enqueue(square, 1)
    store.sadd(keys.OWNERS, "web:1:0.1")  # RQ's --name takes anything
    store.set(keys.lease("web:1"), 7)
    Protocol(store).cycle("web:1:0.1", "web:1", ["q"], [], want=1)
    finding = found(store, "leases")
    assert (finding.severity, finding.ids) == ("problem", ("web:1",))
    assert finding.text == "1 jobq worker does not renew its lease and holds 1 job: web:1."
    assert found(store, "limbo").severity == "ok"

    def renewed(_: float) -> None:
        store.incr(keys.lease("web:1"))

    assert [f.severity for f in examine(store, sleep=renewed) if f.check == "leases"] == ["ok"]


# -- limbo -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["queued", "started"])
def test_a_lost_job_is_found_and_enqueued_again(store: redis.Redis, queue: Queue, status: str) -> None:
    lost, later = queue.enqueue(square, 1), queue.enqueue(square, 2)
    lose(store, lost.id)
    store.hset(keys.job(lost.id), "status", status)
    finding = found(store, "limbo")
    assert (finding.severity, finding.ids) == ("problem", (lost.id,))
    assert store.lrange(keys.queue("q"), 0, -1) == [later.id.encode()]  # without --fix nothing is changed

    assert found(store, "limbo", fix=True).ids == (lost.id,)
    assert store.lrange(keys.queue("q"), 0, -1) == [lost.id.encode(), later.id.encode()]
    assert store.hmget(keys.job(lost.id), "status", "jobq_redelivered") == [b"queued", b"1"]
    assert found(store, "limbo", fix=True).severity == "ok"
    assert store.llen(keys.queue("q")) == 2


def test_jobs_stuck_in_rqs_intermediate_list_are_found(store: redis.Redis, queue: Queue) -> None:
    job = queue.enqueue(square, 1)
    store.lmove(keys.queue("q"), keys.intermediate("q"))
    store.set(f"{keys.intermediate('q')}:first_seen:{job.id}", 1)
    assert found(store, "limbo", fix=True).ids == (job.id,)
    assert store.lrange(keys.queue("q"), 0, -1) == [job.id.encode()]
    assert store.keys("*intermediate*") == []


def test_lost_jobs_come_back_in_their_old_order(store: redis.Redis, queue: Queue) -> None:
    jobs = [queue.enqueue(square, n) for n in range(5)]
    store.delete(keys.queue("q"))
    assert len(found(store, "limbo", fix=True).ids) == 5
    assert store.lrange(keys.queue("q"), 0, -1) == [job.id.encode() for job in jobs]


def test_a_job_that_is_held_is_not_lost(store: redis.Redis, queue: Queue) -> None:
    """A job is not in limbo while a queue, an owner or RQ's started registry holds it, or its status is another."""
    jobs = [queue.enqueue(square, n) for n in range(5)]
    store.sadd(keys.OWNERS, "w:0.1")
    (mine,) = Protocol(store).cycle("w:0.1", "w", ["q"], [], want=1).jobs
    assert mine.id == jobs[0].id
    running = store.lpop(keys.queue("q"))
    assert running is not None
    store.zadd(keys.executions(running.decode()), {"x1": 1})  # type: ignore[union-attr]
    store.zadd(keys.registry("wip", "q"), {running + b":x1": time.time() + 60})  # type: ignore[operator]
    canceled = store.lpop(keys.queue("q"))
    store.hset(keys.job(canceled.decode()), "status", "canceled")  # type: ignore[union-attr]
    assert suspects(store).jobs == []
    assert found(store, "limbo").severity == "ok"


def test_jobs_of_a_queue_class_with_its_own_key_prefix_are_not_lost(store: redis.Redis, jobq: Any) -> None:
    class Theirs(rq.Queue):
        redis_queue_namespace_prefix = "theirs:queue:"

    theirs = Theirs("m", connection=store)
    waits, runs = (theirs.enqueue("samples.ok", n) for n in range(2))
    store.lrem(theirs.key, 1, runs.id)
    store.hset(runs.key, "status", "started")
    store.zadd(keys.executions(runs.id), {"x1": 1})
    store.zadd(keys.registry("wip", "m"), {f"{runs.id}:x1": time.time() + 60})
    assert store.lrange(theirs.key, 0, -1) == [waits.id.encode()]
    assert suspects(store).jobs == []
    assert jobq("info").stdout.splitlines()[1:] == []


def test_a_job_that_moves_between_the_two_looks_is_left_alone(store: redis.Redis, queue: Queue) -> None:
    back, started, again = (queue.enqueue(square, n) for n in range(3))
    store.delete(keys.queue("q"))
    seen = suspects(store).jobs
    assert {job.id for job in seen} == {back.id, started.id, again.id}
    store.lpush(keys.queue("q"), back.id)
    store.hset(keys.job(started.id), mapping={"status": "started", "started_at": "2026-01-01T00:00:00.000000Z"})
    assert [job.id for job in still_lost(store, seen)] == [again.id]
    store.delete(keys.job(again.id))
    assert bring_back(store, seen) == []
    assert store.lrange(keys.queue("q"), 0, -1) == [back.id.encode()]


def test_long_queues_are_read_to_their_end(store: redis.Redis, queue: Queue) -> None:
    batch = queue.enqueue_many(square, range(2500))
    lose(store, batch[1234].id)
    assert [job.id for job in suspects(store).jobs] == [batch[1234].id]


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_doctor_command(store: redis.Redis, queue: Queue, jobq: Any) -> None:
    assert jobq().exit_code == 0
    ids = [queue.enqueue(square, n).id for n in range(12)]
    store.delete(keys.queue("q"))
    result = jobq()
    assert result.exit_code == 4
    assert "problem  12 jobs in limbo: 12 say that they wait" in result.stdout
    assert "jobq doctor --fix" in result.stdout
    assert "and 2 more" in result.stdout
    assert "1 problem" in result.stdout.splitlines()[-1]

    report = json.loads(jobq("--json").stdout)
    assert report["severity"] == "problem"
    (lost_jobs,) = [f for f in report["findings"] if f["check"] == "limbo"]
    assert sorted(lost_jobs["ids"]) == sorted(ids)

    assert jobq("--fix").exit_code == 0
    assert store.llen(keys.queue("q")) == 12
    assert jobq().exit_code == 3  # nobody serves them


def test_a_store_that_does_not_answer() -> None:
    result = CliRunner().invoke(main, ["doctor", "--url", "redis://127.0.0.1:1/0"])
    assert result.exit_code == 1
    assert "Traceback" not in result.output


def test_a_pickled_job_is_not_unpickled(store: redis.Redis, queue: Queue) -> None:
    class Boom:
        def __reduce__(self) -> Any:
            return print, ("opened",)

    job = queue.enqueue(square, 1)
    store.hset(keys.job(job.id), "data", pickle.dumps(("f", None, (Boom(),), {})))
    assert found(store, "pickle").severity == "note"


@pytest.mark.parametrize(
    ("cron", "tz", "words"),
    [
        ("*/15 * * * *", "Europe/Berlin", "pauses for 75 minutes, from 2026-10-25 00:45 to 02:00 UTC"),
        ("0 3 * * *", "Europe/Berlin", ""),
        ("not an expression", "Europe/Berlin", ""),
    ],
)
def test_a_schedule_that_pauses_when_the_clocks_are_set_back(cron: str, tz: str, words: str) -> None:
    day = datetime(2026, 10, 20, tzinfo=UTC)
    said = pause_of(ScheduleView("often", "cron", "q", "", day, cron=cron, tz=tz), day.timestamp())
    assert (words in said) if words else (said == "")


# -- who waits in vain -----------------------------------------------------------------------------------------------


def end(store: redis.Redis, job_id: str, status: str) -> None:
    """End a job as a worker that dies before it reads the dependents."""
    store.lrem(keys.queue("q"), 0, job_id)
    store.hset(keys.job(job_id), "status", status)
    store.delete(keys.dependents(job_id))


def test_a_deferred_job_whose_dependencies_have_all_ended_is_found(store: redis.Redis, queue: Queue) -> None:
    for name in ("finishes", "fails", "expires"):
        queue.enqueue(square, 1, job_id=name)
    queue.enqueue(square, 2, job_id="after-one", depends_on="finishes")
    queue.enqueue(square, 2, job_id="after-all", depends_on=Dependency(["finishes", "fails", "expires"], True))
    queue.enqueue(square, 2, job_id="blocked", depends_on=["finishes", "fails"])
    queue.enqueue(square, 2, job_id="waits", depends_on=["finishes", "after-one"])
    assert found(store, "dependents").severity == "ok"
    end(store, "finishes", "finished")
    end(store, "fails", "failed")
    store.delete(keys.job("expires"))
    store.lrem(keys.queue("q"), 0, "expires")
    assert found(store, "blocked").ids == ("blocked",)
    finding = found(store, "dependents")
    assert (finding.severity, finding.ids) == ("problem", ("after-all", "after-one"))
    assert found(store, "dependents", fix=True).ids == ("after-all", "after-one")
    assert sorted(store.lrange(keys.queue("q"), 0, -1)) == [b"after-all", b"after-one"]
    assert store.hget(keys.job("after-one"), "status") == b"queued"
    assert store.zrange(keys.registry("deferred", "q"), 0, -1) == [b"blocked", b"waits"]
    assert found(store, "dependents").severity == "ok"


def test_keys_of_a_wrong_type_among_deferred_jobs_are_skipped(store: redis.Redis, queue: Queue) -> None:
    queue.enqueue(square, 1, job_id="first")
    for name in ("after", "wrong", "strange"):
        queue.enqueue(square, 2, job_id=name, depends_on="first")
    end(store, "first", "finished")
    store.set(keys.job("wrong"), "x")
    store.set(keys.dependencies("strange"), "x")
    store.zadd(keys.registry("deferred", "q"), {b"\xff": 1})
    store.set(keys.registry("ready", "q"), "x")
    assert found(store, "dependents", fix=True).ids == ("after",)


def test_a_ready_job_that_nobody_enqueues_is_found(store: redis.Redis, queue: Queue) -> None:
    """RQ's worker leaves such a job when it dies while it enqueues many dependents."""
    queue.enqueue(square, 1, job_id="first")
    queue.enqueue(square, 2, job_id="after", depends_on="first")
    end(store, "first", "finished")
    store.zrem(keys.registry("deferred", "q"), "after")
    store.zadd(keys.registry("ready", "q"), {"after": 1})
    store.hset(keys.job("after"), "status", "ready_to_enqueue")
    assert found(store, "dependents", fix=True).ids == ("after",)
    assert store.lrange(keys.queue("q"), 0, -1) == [b"after"]
    assert not store.exists(keys.registry("ready", "q"))


def test_a_deferred_job_whose_dependency_was_requeued_is_left_alone(store: redis.Redis, queue: Queue) -> None:
    queue.enqueue(square, 1, job_id="first")
    queue.enqueue(square, 2, job_id="after", depends_on="first")
    end(store, "first", "failed")
    control.requeue(store, "first")
    assert not Protocol(store).bring_on("after")
    assert found(store, "dependents").severity == "ok"


@pytest.mark.parametrize(
    ("replicas", "least", "sentinels", "level"),
    [
        (0, "0", False, None),
        (0, None, False, None),
        (1, "0", True, "warning"),
        (1, "0", False, "note"),
        (0, "0", True, "warning"),
        (1, "1", True, "ok"),
        (0, "1", True, "problem"),
        (0, "1", False, "problem"),
        (1, None, True, "note"),
    ],
)
def test_what_a_planned_fail_over_can_lose_is_reported(
    replicas: int, least: str | None, sentinels: bool, level: str | None
) -> None:
    found = list(fail_over({"connected_slaves": replicas}, least, sentinels))
    assert [finding.severity for finding in found] == ([] if level is None else [level])


def test_a_large_store_is_examined_in_part_with_a_note_of_progress(
    store: redis.Redis, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.enqueue_many(square, range(3000))
    asked: list[str] = []
    monkeypatch.setattr(lost_jobs, "MOST", 1000)
    monkeypatch.setattr(lost_jobs, "PAGE", 500)
    real = Protocol.survey
    monkeypatch.setattr(Protocol, "survey", lambda *args: (asked.append("page"), real(*args))[1])
    found = [finding for finding in examine(store, sleep=lambda _: None) if finding.check == "limbo"]
    assert [finding.severity for finding in found] == ["ok", "note"]
    assert "were looked at" in found[1].text
    assert 2 <= len(asked) <= 5  # one look, not two, as no job was suspected
    told: list[str] = []
    monkeypatch.undo()
    monkeypatch.setattr(lost_jobs, "SAID_EVERY", 1000)
    assert suspects(store, told.append).looked_at == 3000
    assert any("3,000 jobs wait or run" in text for text in told)
    assert any("at 3,000 places" in text for text in told)


# -- keys of a wrong type --------------------------------------------------------------------------------------------

READ = [
    *(keys.QUEUES, keys.WORKERS, keys.OWNERS, keys.PAUSED, keys.ASIDE, keys.ENDED, keys.SCHEDULES, keys.CRON_ENTRIES),
    *(keys.registry(kind, "q") for kind in ("finished", "failed", "wip", "scheduled", "deferred", "ready", "canceled")),
    *(keys.queue("q"), keys.intermediate("q"), keys.workers_of("q"), keys.back("q")),
    *(keys.worker("w"), keys.lease("w"), keys.own("w:0.1"), keys.SEQ, keys.USAGE),
]


def test_each_key_of_a_wrong_type_is_named(store: redis.Redis) -> None:
    """Each key of a wrong type is named, and the other keys are checked all the same."""
    for key in READ:
        store.flushall()
        Queue("q", store).enqueue(square, 2)
        store.sadd(keys.WORKERS, keys.worker("w"))
        store.sadd(keys.OWNERS, "w:0.1")
        store.delete(key)
        store.xadd(key, {"what": "is this?"})
        findings = list(examine(store, sleep=lambda _: None))
        assert [f for f in findings if f.severity == "problem" and key in f.text], (key, findings)
        assert {"workers", "limbo"} <= {f.check for f in findings} or key in (keys.QUEUES, keys.WORKERS, keys.PAUSED)


def test_many_keys_of_a_wrong_type_are_reported(store: redis.Redis, jobq: Any) -> None:
    for key in READ:
        store.set(key, "x")
    result = jobq()
    assert result.exit_code == 4, result.output
    assert "WRONGTYPE" not in result.output
    assert "The key 'rq:workers' is a string; a set belongs there." in " ".join(result.output.split())
