"""Many queues, a slow store, few file descriptors: the worker keeps its lease and runs jobs, or says why it cannot."""

from __future__ import annotations

import json
import resource
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import Start
from helpers import Server, eventually, status
from proxy import Proxy

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys

QUEUES = tuple(f"q{n}" for n in range(300))


def test_a_worker_with_many_queues_on_a_slow_store_keeps_its_lease(start: Start, mode: str, server: Server) -> None:
    """At 40 ms a round trip, 300 requests would take longer than the lease."""
    with Proxy(server.socket) as proxy:
        proxy.delay(0.04)
        tree = start("-n", "1", *QUEUES, mode=mode, JOBQ_URL=proxy.url, JOBQ_LEASE="4")
        eventually(lambda: server.client.info("clients")["blocked_clients"])
        first = Queue(QUEUES[0], connection=server.client).enqueue("samples.nap", 6)
        last = Queue(QUEUES[-1], connection=server.client).enqueue("samples.ok", 1)
        eventually(lambda: status(server.client, first.id) == status(server.client, last.id) == "finished", 60)
        assert tree.stop() == 0
    assert "the store has not answered" not in tree.log
    assert "fenced" not in tree.log


@pytest.mark.parametrize("number", [300, 1_100])
def test_more_queues_than_file_descriptors(
    start: Start, mode: str, server: Server, tmp_path: Path, number: int
) -> None:
    health, names = tmp_path / "health", [f"q{n}" for n in range(number)]
    tree = start("-n", "1", "--health-file", str(health), *names, mode=mode)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.prlimit(tree.pid, resource.RLIMIT_NOFILE, (256, hard))  # before the worker checks it
    eventually(lambda: server.client.info("clients")["blocked_clients"])
    for name in (names[0], names[-1]):
        job = Queue(name, connection=server.client).enqueue("samples.ok", 1)
        eventually(lambda job=job: status(server.client, job.id) == "finished")  # type: ignore[misc]
    eventually(lambda: json.loads(health.read_text())["able"])
    assert server.client.info("clients")["connected_clients"] < 60
    assert tree.stop() == 0


def test_delayed_jobs_of_many_queues(start: Start, server: Server) -> None:
    """One request moves the jobs of all queues; a wrong key at one queue does not affect the others."""
    store = server.client
    store.set(keys.registry("scheduled", "q7"), "no zset")
    jobs = [Queue(name, connection=store).enqueue_in(timedelta(seconds=1), "samples.ok", 1) for name in ("q0", "q299")]
    start("-n", "1", *QUEUES)
    eventually(lambda: all(status(store, job.id) == "finished" for job in jobs))
