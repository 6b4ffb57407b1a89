"""The same jobs are run by RQ's workers and by ours: every key of the store is the same afterwards, except for a short
list of differences with their reasons (docs/from-rq.md lists them for users)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import kinds
import pytest
import redis
import rq
from conftest import Start
from helpers import ROOT, Server, eventually, program_path
from keyspace import Seconds, differences, snapshot
from rq.command import send_stop_job_command
from rq.defaults import DEFAULT_FAILURE_TTL

from jobqueue.protocol import keys

Snapshot = dict[str, Any]

# A worker that does nothing beside its jobs, as RQ's burst does.
ALONE = ("--burst", "--no-scheduler", "--maintenance-interval", "0", "--accept", "json,pickle")


class Known(NamedTuple):
    """An intended difference, by patterns of the key and of its field, with the reason."""

    key: str
    field: str
    why: str
    holds: Callable[[Any, Any], bool] = lambda rqs, ours: True


# docs/from-rq.md, "Differences that remain", says the same to users.
ALWAYS = (
    Known("rq:jobq:*", "key", "jobq's own keys: claim numbers, and what tasks cost"),
    Known("*", "jobq_*", "jobq's own fields: RQ's readers do not look at them"),
    Known("rq:clean_*", "key", "RQ's locks for its maintenance, which each side runs when it is due"),
)
KNOWN = (
    *ALWAYS,
    Known("rq:results:*", "expiry", "RQ never lets the traceback of a failed job expire; here it goes with its job",
          lambda rqs, ours: rqs == "for ever" and ours == Seconds(DEFAULT_FAILURE_TTL)),
    Known("rq:results:timeout", "content", "a subclass of RQ's JobTimeoutException, with a sentence of its own"),
    Known("rq:results:failure-no-function", "content", "RQ's sentence, and then whose function it is that is not there",
          lambda rqs, ours: ours == [{**rqs[0], "exc_string": ours[0]["exc_string"]}]
          and ours[0]["exc_string"][-1].startswith(f"{rqs[0]['exc_string'][-1]}: ")),
    Known("rq:failed:failure_ttl", "failure_ttl0", "failure_ttl=0 deletes the job; RQ leaves its id among the failed"),
    Known("rq:*:by_itself-deleted", "key", "RQ brings a job back that deleted itself; here it stays deleted"),
    Known("rq:finished:by_itself", "by_itself-deleted", "as above"),
    Known("rq:finished:by_itself", "by_itself-canceled", "RQ records an end over a cancel; here the first one counts"),
    Known("rq:job:by_itself-canceled", "*", "as above"),
    Known("rq:results:by_itself-canceled", "key", "as above"),
    Known("rq:worker:<worker>", "successful_job_count", "as above: neither of the two counts as finished",
          lambda rqs, ours: int(rqs) == int(ours) + 2),
)  # fmt: skip


RUNNING = (
    *ALWAYS,
    Known("rq:worker:<worker>", "expiry", "RQ shortens it for a job; our supervisor keeps it up, whatever a job does",
          lambda rqs, ours: rqs == Seconds(90) and ours == Seconds(480)),
    Known("rq:worker:<worker>:executions", "expiry", "as above",
          lambda rqs, ours: rqs == Seconds(90) and ours == Seconds(150)),
)  # fmt: skip
STOPPED = (
    *ALWAYS,
    Known("rq:results:waiting", "expiry", "RQ never lets a traceback expire; here it goes with its job",
          lambda rqs, ours: rqs == "for ever" and ours == Seconds(DEFAULT_FAILURE_TTL)),
    Known("rq:job:waiting", "ended_at", "RQ's parent process overwrites who ran the job and when it ended",
          lambda rqs, ours: not rqs),
    Known("rq:job:waiting", "last_heartbeat", "as above", lambda rqs, ours: not rqs),
    Known("rq:job:waiting", "worker_name", "as above", lambda rqs, ours: not rqs),
    Known("rq:results:waiting", "content", "as above",
          lambda rqs, ours: ours == [{**rqs[0], "execution_ended_at": "<execution_ended_at>"}]),
    Known("rq:worker:<worker>", "total_working_time", "as above: RQ does not know how long it ran"),
)  # fmt: skip


def unknown(rqs: Snapshot, ours: Snapshot, known: tuple[Known, ...] = KNOWN) -> list[tuple[str, str, Any, Any]]:
    """Return the differences that no line of ``known`` explains."""
    return [d for d in differences(rqs, ours) if not any(explains(line, *d) for line in known)]


def explains(known: Known, key: str, field: str, rqs: Any, ours: Any) -> bool:
    return fnmatchcase(key, known.key) and fnmatchcase(field, known.field) and known.holds(rqs, ours)


class Hooks(BaseHTTPRequestHandler):
    """A server that receives webhooks; ``seen`` has what was sent."""

    seen: list[dict[str, Any]]

    def do_POST(self) -> None:
        self.seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture(scope="module")
def hooks() -> Iterator[type[Hooks]]:
    handler = type("TheseHooks", (Hooks,), {"seen": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        kinds.HOOK = f"http://127.0.0.1:{server.server_port}/"
        yield handler
        server.shutdown()
        thread.join()


def enqueue_all(client: redis.Redis) -> None:
    client.flushall()
    for name, enqueue in kinds.KINDS.items():
        enqueue(rq.Queue(name, connection=client))


def rq_worker(server: Server, *argv: str) -> list[str]:
    return [sys.executable, "-m", "rq.cli", "worker", "--url", server.url, "--burst", "--quiet", *argv]


def rq_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": program_path(ROOT, ROOT / "tests")}


def snapshot_of(client: redis.Redis) -> Snapshot:
    return snapshot(client, {key.decode()[len(keys.worker("")) :] for key in client.scan_iter(keys.worker("*"))})


@pytest.fixture(scope="module")
def with_rq(module_server: Server, hooks: type[Hooks]) -> Snapshot:
    """Return what RQ's SimpleWorker leaves in the store."""
    enqueue_all(module_server.client)
    command = rq_worker(module_server, "-w", "rq.worker.SimpleWorker", *kinds.KINDS)
    subprocess.run(command, env=rq_environment(), check=True, timeout=100)
    return snapshot_of(module_server.client)


def test_every_kind_of_job_ends_as_with_rq(
    with_rq: Snapshot, hooks: type[Hooks], start: Start, mode: str, store: redis.Redis
) -> None:
    sent_by_rq = sorted(hooks.seen[:2], key=str)
    enqueue_all(store)
    assert start(*ALONE, "-n", "2", *kinds.KINDS, mode=mode, serve=("samples", "samples_rq")).wait(100) == 0
    ours = snapshot_of(store)
    assert unknown(with_rq, ours) == []
    found = list(differences(with_rq, ours))
    assert [line.why for line in KNOWN[len(ALWAYS) :] if not any(explains(line, *d) for d in found)] == []
    assert [hook.keys() for hook in sorted(hooks.seen[-2:], key=str)] == [hook.keys() for hook in sent_by_rq]


@pytest.mark.parametrize("place", ["SimpleWorker", "Worker"])
def test_our_worker_classes_leave_the_same_as_rqs(
    with_rq: Snapshot, hooks: type[Hooks], place: str, server: Server, store: redis.Redis
) -> None:
    """Use RQ's own command, with jobqueue.rq in place of its class."""
    enqueue_all(store)
    command = rq_worker(server, "-w", f"jobqueue.rq.{place}", *kinds.KINDS)
    subprocess.run(command, env=rq_environment(), check=True, timeout=100)
    assert unknown(with_rq, snapshot_of(store)) == []


# -- as seen from outside while it runs, and stopped from there ------------------------------------------------------


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def enqueue_waiting(client: redis.Redis, gate: Path) -> rq.job.Job:
    client.flushall()
    gate.unlink(missing_ok=True)
    queue = rq.Queue("waiting", connection=client)
    stopped = rq.Callback("samples.on_stopped")
    return queue.enqueue("samples.wait_for", "record", 1, str(gate), job_id="waiting", on_stopped=stopped)


def wait_until_it_runs(client: redis.Redis) -> None:
    eventually(lambda: client.hget(keys.job("waiting"), "status") == b"started")


@contextmanager
def rqs_worker(server: Server, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start it in its own session: a worker of RQ's that has to stop a job before it knows its horse's pid kills the
    process group 0, which is its own."""
    told: dict[str, Any] = {"env": rq_environment(), "cwd": directory, "start_new_session": True}
    with subprocess.Popen(rq_worker(server, "waiting"), **told) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_running_job_looks_as_with_rq(
    start: Start, mode: str, server: Server, store: redis.Redis, tmp_path: Path, gate: Path
) -> None:
    enqueue_waiting(store, gate)
    with rqs_worker(server, tmp_path) as process:
        wait_until_it_runs(store)
        with_rq = snapshot_of(store)
        gate.touch()
        assert process.wait(30) == 0
    enqueue_waiting(store, gate)
    tree = start(*ALONE, "-n", "1", "waiting", mode=mode)
    wait_until_it_runs(store)
    ours = snapshot_of(store)
    gate.touch()
    assert tree.wait() == 0
    assert unknown(with_rq, ours, RUNNING) == []


def test_a_stopped_job_ends_as_with_rq(
    start: Start, mode: str, server: Server, store: redis.Redis, tmp_path: Path, gate: Path
) -> None:
    """Compare with RQ's Worker, as RQ's SimpleWorker cannot stop a job."""
    enqueue_waiting(store, gate)
    with rqs_worker(server, tmp_path) as process:
        wait_until_it_runs(store)
        send_stop_job_command(store, "waiting")
        assert process.wait(30) == 0
    with_rq = snapshot_of(store)
    enqueue_waiting(store, gate)
    tree = start(*ALONE, "-n", "1", "waiting", mode=mode)
    wait_until_it_runs(store)
    send_stop_job_command(store, "waiting")
    assert tree.wait() == 0
    assert unknown(with_rq, snapshot_of(store), STOPPED) == []
    assert with_rq["rq:job:waiting"][1]["status"] == "stopped"
