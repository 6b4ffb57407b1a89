"""The metrics of a store, as the real prometheus_client serves them, and as promtool and a program read them."""

from __future__ import annotations

import math
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import fakeredis
import pytest
from fake_worker import fail
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from jobqueue.admin.demand import Demand, demands
from jobqueue.insight.usage import bucket, wait_bucket, wait_field
from jobqueue.metrics.bounded_labels import BoundedLabels
from jobqueue.metrics.families import EXPONENTS, WAIT_EXPONENTS
from jobqueue.metrics.snapshot import read_store
from jobqueue.metrics.store_metrics import MOST_CAUSES, MOST_QUEUES, MOST_TASKS, STATES, StoreMetrics
from jobqueue.metrics.tree_facts import TreeFacts
from jobqueue.metrics.tree_metrics import TreeMetrics
from jobqueue.model import WorkerView
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys
from jobqueue.store.connection import redis

Sample = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture
def client() -> redis.Redis:
    return fakeredis.FakeRedis(server=fakeredis.FakeServer())


def text(collector: Any) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry).decode()


def read_all(collector: Any) -> list[Any]:
    """Scrape; return all samples."""
    return [sample for family in text_string_to_metric_families(text(collector)) for sample in family.samples]


def read(collector: Any) -> Callable[..., float]:
    """Scrape; return a function that reads one sample, and raises KeyError where there is none."""
    samples = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in read_all(collector)}

    def value(name: str, **labels: str) -> float:
        return samples[name, frozenset(labels.items())]

    return value


def register(client: redis.Redis, name: str, **fields: object) -> None:
    known = {"state": "busy", "queues": "q", "jobq_slots": 4, "successful_job_count": 7, "failed_job_count": 2}
    known |= {"total_working_time": "12.5", "last_heartbeat": datetime.now(UTC).isoformat()}
    client.sadd(keys.WORKERS, keys.worker(name))
    client.hset(keys.worker(name), mapping={**known, **fields})


def record(
    client: redis.Redis, task: str, width: int, *walls: float, errors: int = 0, waits: Sequence[float] = (), **more: int
) -> None:
    """Write what a worker records of runs that took so long, of jobs that had waited so long (seconds)."""
    client.sadd(keys.USAGE, task)
    for wait in waits:
        client.hincrby(keys.usage(task), f"{width}:{wait_field(wait_bucket(wait))}", 1)
    for wall in walls:
        client.hincrby(keys.usage(task), f"{width}:b{bucket(wall)}", 1)
    fields = {"runs": len(walls), "errors": errors, "wall_us": round(sum(walls) * 1e6), **more}
    fields |= {"wait_us": round(sum(waits) * 1e6)}
    for name, amount in fields.items():
        client.hincrby(keys.usage(task), f"{width}:{name}", amount)


# -- queues --------------------------------------------------------------------------------------------------------


def test_an_empty_store(client: redis.Redis) -> None:
    value = read(StoreMetrics(client))
    assert value("jobq_up") == 1
    assert value("jobq_suspended") == 0
    assert value("jobq_scrape_duration_seconds") < 5


def test_jobs_by_state(client: redis.Redis) -> None:
    queue = Queue("q", client)
    bad = [queue.enqueue("square", n) for n in range(3)][-1]
    client.zadd(keys.registry("finished", "q"), {"kept": time.time() + 100, "expired": time.time() - 100})
    fail(client, bad.id, "Traceback\nValueError: bad\n")
    client.lpush(keys.intermediate("q"), "claimed")
    client.sadd(keys.PAUSED, "q")
    value = read(StoreMetrics(client))
    states = {state: value("jobq_queue_jobs", queue="q", state=state) for state in STATES}
    assert states == {**dict.fromkeys(STATES, 0), "queued": 2, "claimed": 1, "failed": 1, "finished": 1}
    assert value("jobq_queue_backlog_jobs", queue="q") == 3
    assert value("jobq_queue_paused", queue="q") == 1


def test_the_latency_is_that_of_the_oldest_waiting_job(client: redis.Redis) -> None:
    queue = Queue("q", client)
    old = queue.enqueue("square", 1)
    queue.enqueue("square", 2, at_front=True)
    enqueued = datetime.now(UTC) - timedelta(seconds=90)
    client.hset(keys.job(old.id), "enqueued_at", enqueued.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    client.lpush(keys.queue("q"), "gone")  # a job that was deleted
    assert 90 <= read(StoreMetrics(client))("jobq_queue_latency_seconds", queue="q") < 95
    client.delete(keys.job(old.id))
    assert read(StoreMetrics(client))("jobq_queue_latency_seconds", queue="q") < 5


def test_a_queue_without_jobs_and_one_that_does_not_exist(client: redis.Redis) -> None:
    assert demands(client, ["nowhere"]) == [Demand(0, 0, 0.0)]
    client.set(keys.queue("wrong"), "a string")
    assert demands(client, ["wrong", "nowhere"]) == [Demand(0, 0, 0.0)] * 2


# -- workers, tasks, deaths ----------------------------------------------------------------------------------------


def test_workers(client: redis.Redis) -> None:
    register(client, "a")
    register(client, "b", state="idle", jobq_slots="nonsense")
    value = read(StoreMetrics(client))
    assert (value("jobq_workers", state="busy"), value("jobq_workers", state="idle")) == (1, 1)
    assert value("jobq_worker_slots", worker="a") == 4
    assert value("jobq_worker_jobs_total", worker="a", outcome="finished") == 7
    assert value("jobq_worker_jobs_total", worker="a", outcome="failed") == 2
    assert value("jobq_worker_busy_seconds_total", worker="a") == 12.5
    assert value("jobq_worker_lease_age_seconds", worker="b") < 5
    with pytest.raises(KeyError):  # it is RQ's, and does not say
        value("jobq_worker_slots", worker="b")


def test_tasks_in_all_widths_together(client: redis.Redis) -> None:
    record(client, "shop.resize", 1, 0.5, 0.5, errors=1, peak_kb=2048)
    record(client, "shop.resize", 16, 2.0)
    value = read(StoreMetrics(client))
    assert value("jobq_task_runs_total", task="shop.resize", outcome="finished") == 2
    assert value("jobq_task_runs_total", task="shop.resize", outcome="failed") == 1
    assert value("jobq_task_run_seconds_count", task="shop.resize") == 3
    assert value("jobq_task_run_seconds_sum", task="shop.resize") == 3.0
    assert value("jobq_task_memory_peak_bytes", task="shop.resize") == 2 * 2**20


def test_each_run_is_in_the_buckets_above_its_time(client: redis.Redis) -> None:
    """The records have finer buckets, and some of their bounds are those of the histogram."""
    walls = [0.0, 15e-6, 20e-6, 300e-6, 0.0009, 0.3, 5.0, 100.0, 5000.0]
    record(client, "t", 1, *walls)
    value = read(StoreMetrics(client))
    for exponent in EXPONENTS:
        bound = 2**exponent / 1e6
        assert value("jobq_task_run_seconds_bucket", task="t", le=str(bound)) == sum(wall < bound for wall in walls)
    assert value("jobq_task_run_seconds_bucket", task="t", le="+Inf") == len(walls)


def test_how_long_jobs_waited_by_task(client: redis.Redis) -> None:
    """The records of all widths together. A task whose records are of an older worker has none."""
    waits = [0.0, 0.0005, 0.0015, 0.7, 3.0, 3.0, 4000.0, 1e6]
    record(client, "t", 1, *waits[:4], waits=waits[:4])
    record(client, "t", 16, *waits[4:], waits=waits[4:])
    record(client, "old", 1, 0.1)
    value = read(StoreMetrics(client))
    for exponent in WAIT_EXPONENTS:
        bound = 2**exponent / 1e6
        assert value("jobq_job_wait_seconds_bucket", task="t", le=str(bound)) == sum(wait < bound for wait in waits)
    assert value("jobq_job_wait_seconds_count", task="t") == len(waits)
    assert value("jobq_job_wait_seconds_sum", task="t") == pytest.approx(sum(waits))
    with pytest.raises(KeyError):
        value("jobq_job_wait_seconds_count", task="old")


def test_deaths_and_rescued_jobs(client: redis.Redis) -> None:
    client.hset(keys.DEATHS, mapping={"process:SIGKILL": 3, "job:given_back": 5, "process:odd": "nonsense"})
    value = read(StoreMetrics(client))
    assert value("jobq_deaths_total", cause="SIGKILL") == 3
    assert value("jobq_rescued_jobs_total", ending="given_back") == 5
    client.delete(keys.DEATHS)
    client.set(keys.DEATHS, "a string")
    assert read(StoreMetrics(client))("jobq_up") == 1


def test_runs_that_did_not_return_by_cause(client: redis.Redis) -> None:
    """The most frequent classes have a value of their own, and keep it; what is no class always has one."""
    ends = {f"run:failed:E{n}": n + 1 for n in range(MOST_CAUSES + 3)}
    client.hset(
        keys.DEATHS, mapping={**ends, "run:failed:time_limit": 1, "run:died:SIGKILL": 2, "run:stopped:stopped": 3}
    )
    metrics = StoreMetrics(client)
    value = partial(read(metrics), "jobq_failed_runs_total")
    assert value(outcome="failed", cause=f"E{MOST_CAUSES + 2}") == MOST_CAUSES + 3
    assert value(outcome="failed", cause="other") == 1 + 2 + 3
    assert value(outcome="failed", cause="time_limit") == 1
    assert value(outcome="died", cause="SIGKILL") == 2
    assert value(outcome="stopped", cause="stopped") == 3
    client.hincrby(keys.DEATHS, "run:failed:E0", 1000)
    assert read(metrics)("jobq_failed_runs_total", outcome="failed", cause="other") == 1006


# -- what must not go wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [redis.ConnectionError("away"), redis.ResponseError("NOPERM"), OSError("broken")])
def test_a_store_that_cannot_be_read(client: redis.Redis, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    broken = True

    def reading(client: redis.Redis) -> Any:
        if broken:
            raise error
        return read_store(client)

    collector = StoreMetrics(client, reading)
    for _ in range(2):
        said = text(collector)
        assert "jobq_up 0.0" in said
        assert "jobq_queue" not in said
    assert [record.getMessage() for record in caplog.records] == [f"the store cannot be read: {error}"]
    broken = False
    assert "jobq_up 1.0" in text(collector)


def test_names_are_bounded_and_the_rest_is_other(client: redis.Redis) -> None:
    for n in range(MOST_QUEUES + 50):
        client.sadd(keys.QUEUES, keys.queue(f"q{n}"))
        client.rpush(keys.queue(f"q{n}"), *range(n + 1))
        record(client, f"t{n}", 1, 0.1)
    found = list(text_string_to_metric_families(text(StoreMetrics(client))))
    queues = {sample.labels["queue"] for family in found for sample in family.samples if "queue" in sample.labels}
    tasks = {sample.labels["task"] for family in found for sample in family.samples if "task" in sample.labels}
    assert (len(queues), len(tasks)) == (MOST_QUEUES + 1, MOST_TASKS + 1)
    assert queues >= {"other", f"q{MOST_QUEUES + 49}"}  # the busiest have names
    [backlog] = [family for family in found if family.name == "jobq_queue_backlog_jobs"]
    assert sum(sample.value for sample in backlog.samples) == sum(range(MOST_QUEUES + 51))


def test_a_name_keeps_its_label_for_as_long_as_it_exists() -> None:
    labels = BoundedLabels(2)
    labels.choose(["a", "b", "c"])
    labels.choose(["c", "b", "a"])
    assert [labels.of(name) for name in "abc"] == ["a", "b", "other"]
    labels.choose(["c", "b"])
    assert [labels.of(name) for name in "abc"] == ["other", "b", "c"]


def test_names_of_any_kind(client: redis.Redis) -> None:
    """Anybody may have written them into the store."""
    for name in (b'"quoted"', b"two\nlines", b"back\\slash", b"\xff\xfe", "k\u00f6ln".encode()):
        client.sadd(keys.QUEUES, keys.queue("").encode() + name)
        client.sadd(keys.USAGE, name)
    record(client, 'do"it\n', 1, 0.1)
    value = read(StoreMetrics(client))
    assert value("jobq_queue_jobs", queue="k\u00f6ln", state="queued") == 0
    assert value("jobq_queue_jobs", queue="two\nlines", state="queued") == 0
    assert value("jobq_task_run_seconds_count", task='do"it\n') == 1


# -- one worker ----------------------------------------------------------------------------------------------------


FACTS = TreeFacts("w", "", 4, 3, (), 0.5, {"SIGKILL": 2})
REGISTERED = WorkerView("w", "busy", ["q"], None, None, running=3, done=7, failed=2, working_time=9.5, heartbeat_age=1)


def test_the_metrics_of_a_worker() -> None:
    value = read(TreeMetrics(lambda: FACTS, lambda: REGISTERED, lambda: {"q": Demand(5, 2, 1.5)}))
    names = ("can_claim", "slots", "slots_busy", "processes", "lease_age_seconds")
    assert [value(f"jobq_tree_{name}") for name in names] == [1, 4, 3, 0, 0.5]
    assert value("jobq_tree_deaths_total", cause="SIGKILL") == 2
    assert value("jobq_tree_jobs_total", outcome="finished") == 7
    assert value("jobq_tree_busy_seconds_total") == 9.5
    assert [value("jobq_tree_queue_jobs", queue="q", state=state) for state in ("waiting", "running")] == [5, 2]
    assert value("jobq_tree_queue_latency_seconds", queue="q") == 1.5
    assert value("jobq_tree_memory_bytes", process="supervisor") > 1e6
    assert value("jobq_up") == 1


def test_the_metrics_of_a_worker_without_its_store() -> None:
    def away() -> WorkerView | None:
        raise redis.ConnectionError("away")

    facts = TreeFacts("w", "the store does not answer", 4, 0, (2**22 + 1,), None)
    value = read(TreeMetrics(lambda: facts, away))
    assert (value("jobq_up"), value("jobq_tree_can_claim"), value("jobq_tree_processes")) == (0, 0, 1)
    assert not math.isnan(value("jobq_tree_memory_bytes", process="children"))


# -- Prometheus' own check -----------------------------------------------------------------------------------------


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if not found:
        pytest.skip("no promtool on PATH")
    return found


@pytest.fixture(params=["store", "worker"])
def collector(request: pytest.FixtureRequest, client: redis.Redis) -> Iterator[Any]:
    if request.param == "worker":
        return iter([TreeMetrics(lambda: FACTS, lambda: REGISTERED, lambda: {"q": Demand(5, 2, 1.5)})])
    Queue("q", client).enqueue("square", 1)
    register(client, "a")
    record(client, "t", 1, 0.1, peak_kb=5)
    client.hset(keys.DEATHS, mapping={"process:SIGKILL": 3, "job:given_back": 5})
    return iter([StoreMetrics(client)])


def test_promtool_finds_nothing_to_criticise(promtool: str, collector: Iterator[Any]) -> None:
    found = subprocess.run([promtool, "check", "metrics"], input=text(next(collector)), capture_output=True, text=True)
    assert (found.returncode, found.stdout + found.stderr) == (0, "")
