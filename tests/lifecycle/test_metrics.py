"""``jobq exporter`` and ``jobq worker --metrics-port`` beside real workers and a real store."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import Start
from helpers import ROOT, Server, Tree, eventually
from prometheus_client.parser import text_string_to_metric_families

from jobqueue.errors import JobFailed
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys

MANY = 1_000_000


def fetch(url: str) -> tuple[int, str]:
    """Return status and text of a page; 0 while nobody listens there."""
    try:
        with urllib.request.urlopen(url, timeout=30) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.read().decode()
    except OSError:
        return 0, ""


def scrape(url: str) -> Callable[..., float | None]:
    """Return a function that reads one sample; None where there is none."""
    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(fetch(f"{url}/metrics")[1])
        for sample in family.samples
    }
    return lambda name, **labels: samples.get((name, frozenset(labels.items())))


class Exporter:
    """A ``jobq exporter`` on a free port."""

    def __init__(self, url: str, log: Path) -> None:
        self._log = log
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jobqueue.cli", "exporter", "--port", "0", "--url", url],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        self.url = self.line.strip().removesuffix("/metrics")

    @property
    def log(self) -> str:
        return self._log.read_text()

    def end(self, number: int) -> tuple[int, str]:
        """Stop it; return its exit code and what else it has printed on stdout."""
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=30)
        return self.process.returncode, rest


@pytest.fixture
def exporter(server: Server, tmp_path: Path) -> Iterator[Exporter]:
    exporter = Exporter(server.url, tmp_path / "exporter.log")
    yield exporter
    exporter.process.kill()
    exporter.process.communicate()


# -- a whole store -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_url_is_the_only_line_and_a_signal_ends_it(exporter: Exporter, number: int) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics\n", exporter.line)
    assert scrape(exporter.url)("jobq_up") == 1
    assert exporter.end(number) == (0, "")
    assert exporter.log.count("\n") == 1  # it names the store


def test_a_store_that_goes_away_and_comes_back(exporter: Exporter, server: Server) -> None:
    assert fetch(f"{exporter.url}/healthz")[0] == 200
    server.kill()
    try:
        assert scrape(exporter.url)("jobq_up") == 0
        assert fetch(f"{exporter.url}/healthz")[0] == 503
        assert fetch(f"{exporter.url}/keda?queue=default")[0] == 503
    finally:
        server.start()
    assert scrape(exporter.url)("jobq_up") == 1
    assert exporter.end(signal.SIGTERM) == (0, "")
    assert exporter.log.count("the store cannot be read") == 1
    assert "Traceback" not in exporter.log


def commands(server: Server) -> int:
    found: Any = server.client.info("commandstats")
    return sum(value["calls"] for value in found.values())


def test_a_scrape_does_not_cost_more_with_a_million_jobs(exporter: Exporter, server: Server, queue: Queue) -> None:
    queue.enqueue("square", 1)
    scrape(exporter.url)
    costs = []
    for more in (0, MANY):
        server.client.eval("for n = 1, ARGV[1] do redis.call('RPUSH', KEYS[1], n) end", 1, keys.queue("default"), more)
        server.client.config_resetstat()
        began = time.monotonic()
        value = scrape(exporter.url)
        taken = time.monotonic() - began
        costs.append(commands(server))
    assert value("jobq_queue_jobs", queue="default", state="queued") == MANY + 1
    assert max(costs) < 40  # the ages of five jobs, not of one
    assert taken < 2  # it takes 10 ms


def test_what_workers_did(
    exporter: Exporter, start: Start, queue: Queue, store: redis.Redis, mode: str, tmp_path: Path
) -> None:
    """Runs by outcome, a job that runs, a killed process, and the jobs that were taken from it."""
    record, gate = tmp_path / "record", tmp_path / "gate"
    tree: Tree = start("-n", "2", mode=mode)
    assert [job.result(60) for job in queue.enqueue_many("samples.ok", range(20))] == list(range(20))
    for bad in (queue.enqueue("samples.fail"), queue.enqueue("samples.spin", 60, job_timeout=1)):
        with pytest.raises(JobFailed):
            bad.result(60)
    job = queue.enqueue("samples.wait_for", str(record), "x", str(gate))
    eventually(record.exists)

    def busy() -> bool:
        value = scrape(exporter.url)
        return value("jobq_queue_jobs", queue="default", state="started") == 1

    eventually(busy, every=0.1)
    demand = json.loads(fetch(f"{exporter.url}/keda?queue=default")[1])
    assert demand == {"waiting": 0, "running": 1, "waiting_plus_running": 1, "latency_seconds": 0.0}
    [worker] = [key.decode().rpartition(":")[2] for key in store.smembers(keys.WORKERS)]
    assert scrape(exporter.url)("jobq_worker_slots", worker=worker) == 2
    for child in tree.children():
        child.kill()
    eventually(lambda: scrape(exporter.url)("jobq_rescued_jobs_total", ending="run_again") == 1, every=0.1)
    assert scrape(exporter.url)("jobq_deaths_total", cause="SIGKILL") == (2 if mode == "process" else 1)
    gate.touch()
    assert job.result(60) == "x"
    assert tree.stop() == 0
    value = scrape(exporter.url)
    runs = value("jobq_task_runs_total", task="samples.ok", outcome="finished")
    assert runs is not None
    assert 0 < runs <= 20  # a process that is killed takes with it what it had not sent
    assert value("jobq_task_run_seconds_count", task="samples.ok") == runs
    assert value("jobq_job_wait_seconds_count", task="samples.ok") == runs
    ends = [("failed", "ValueError"), ("failed", "time_limit"), ("died", "SIGKILL")]
    assert [value("jobq_failed_runs_total", outcome=outcome, cause=cause) for outcome, cause in ends] == [1, 1, 1]
    assert exporter.end(signal.SIGTERM) == (0, "")


# -- one worker ----------------------------------------------------------------------------------------------------


def metrics_of(tree: Tree) -> str:
    """Return where the worker serves its metrics."""
    found = eventually(lambda: re.search(r"metrics: (http://127\.0\.0\.1:\d+)/metrics", tree.log))
    return str(found[1])


def test_the_metrics_of_one_worker(start: Start, queue: Queue, server: Server, mode: str, tmp_path: Path) -> None:
    record, gate = tmp_path / "record", tmp_path / "gate"
    tree: Tree = start("-n", "3", "--metrics-port", "0", mode=mode, JOBQ_LEASE="2")
    url = metrics_of(tree)
    eventually(lambda: fetch(f"{url}/healthz") == (200, "able to claim\n"))
    assert queue.enqueue("samples.ok", 1).result(60) == 1
    job = queue.enqueue("samples.wait_for", str(record), "x", str(gate))
    eventually(record.exists)
    value = scrape(url)
    processes = 3 if mode == "process" else 1
    found = [value(f"jobq_tree_{name}") for name in ("can_claim", "slots", "slots_busy", "processes")]
    assert found == [1, 3, 1, processes]
    assert value("jobq_up") == 1
    assert value("jobq_tree_queue_jobs", queue="default", state="running") == 1
    age, memory = value("jobq_tree_lease_age_seconds"), value("jobq_tree_memory_bytes", process="children")
    assert age is not None
    assert 0 <= age < 2
    assert memory is not None
    assert memory > 5e6 * processes
    assert json.loads(fetch(f"{url}/keda?queue=default")[1])["waiting_plus_running"] == 1
    with server.stalled():
        eventually(lambda: fetch(f"{url}/healthz") == (503, "the store does not answer\n"))
    eventually(lambda: fetch(f"{url}/healthz")[0] == 200)
    for child in tree.children():
        child.kill()
    eventually(lambda: scrape(url)("jobq_tree_deaths_total", cause="SIGKILL") == processes)
    eventually(lambda: len(record.read_text().splitlines()) == 2)
    tree.send(signal.SIGTERM)
    eventually(lambda: fetch(f"{url}/healthz") == (503, "it is stopping\n"))
    gate.touch()
    assert tree.wait() == 0
    assert job.result(5) == "x"
    assert fetch(f"{url}/healthz") == (0, "")


def test_a_metrics_port_that_is_taken(exporter: Exporter, start: Start) -> None:
    place = exporter.url.removeprefix("http://")
    tree = start("-n", "1", "--metrics-port", place)
    assert tree.wait() == 2
    assert f"jobq: Metrics cannot be served at {place}: Address already in use\n" in tree.log
    assert "Traceback" not in tree.log
