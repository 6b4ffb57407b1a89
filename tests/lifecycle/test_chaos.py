"""``jobq chaos`` with real processes: small storms in both modes, on its own store and on one that is in use; nothing
is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from helpers import Server, eventually
from leftovers import assert_nothing_is_left, working_for

from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys

pytestmark = pytest.mark.timeout(240)

CHAOS = [sys.executable, "-m", "jobqueue.cli", "chaos"]
FOREIGN = ("JOBQ_URL", "REDIS_URL", "RQ_REDIS_URL", "JOBQ_LEASE")


@pytest.fixture
def env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Give the command its own temporary directory, in which no file and for which no process may be left."""
    temporary = tmp_path / "t"
    temporary.mkdir()
    env = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    yield env | {"TMPDIR": str(temporary)}
    assert_nothing_is_left(temporary)


def storm(env: dict[str, str], *flags: str) -> dict[str, Any]:
    done = subprocess.run([*CHAOS, "--json", *flags], env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def assert_promise_kept(run: dict[str, Any], jobs: int) -> None:
    assert run["submitted"] == jobs
    assert run["finished"] + run["failed"] == jobs
    assert sum(run["causes"].values()) == run["failed"]
    assert (run["lost"], run["stuck"], run["outcomes_recorded_twice"], run["ended_and_still_queued"]) == (0, 0, 0, 0)
    # a store that was killed may forget a job's own note of its run
    assert run["finished_without_running"] <= run["kills_by_kind"]["store"]
    assert run["worker_exits"] == 0


def test_nothing_is_lost_in_either_mode(env: dict[str, str]) -> None:
    found = storm(env, "--jobs", "300", "--kills", "10", "--seconds", "15", "--seed", "11")
    assert [run["mode"] for run in found["runs"]] == ["thread", "process"]
    for run in found["runs"]:
        assert_promise_kept(run, 300)
        assert run["kills_by_kind"] == {"child": 8, "supervisor": 1, "fork_server": 0, "store": 1}
        assert run["kills"] == 10
        assert 0 < run["recovery_ms"]["median"] <= run["recovery_ms"]["max"]
        assert run["recovery_ms"]["count"] > 0
    assert found["kept"] is True


def keys_of(store: redis.Redis) -> dict[bytes, bytes]:
    counters = (keys.SEQ, keys.DEATHS)  # of all claims, and of all processes that died
    return {key: store.dump(key) for key in store.keys("*") if key.decode() not in counters}


def test_a_store_in_use_is_left_as_it_was(
    env: dict[str, str], server: Server, store: redis.Redis, queue: Queue, mode: str
) -> None:
    waiting = queue.enqueue("math:sqrt", 16)  # a queue that the storm must not touch
    before = keys_of(store)
    found = storm(
        env, "--url", server.url, "--mode", mode, "--jobs", "200", "--kills", "6", "--seconds", "3", "--queues", "3"
    )
    [run] = found["runs"]
    assert_promise_kept(run, 200)
    assert run["kills_by_kind"]["store"] == 0
    assert run["kills_by_kind"]["supervisor"] == 1
    assert keys_of(store) == before
    assert waiting.get_status() == "queued"


def test_with_on_crash_fail_a_killed_job_has_failed_with_its_cause(env: dict[str, str], server: Server) -> None:
    flags = ["--mode", "thread", "--jobs", "3000", "--kills", "12", "--seconds", "10", "--on-crash", "fail"]
    [run] = storm({**env, "JOBQ_URL": server.url}, *flags)["runs"]
    assert_promise_kept(run, 3000)
    assert run["failed"] > 0
    assert any("was killed by SIGKILL" in cause for cause in run["causes"])


def test_a_signal_leaves_nothing_behind(env: dict[str, str], server: Server, store: redis.Redis) -> None:
    argv = [*CHAOS, "--url", server.url, "--mode", "process", "--jobs", "5000", "--kills", "100", "--seconds", "60"]
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as chaos:
        try:
            eventually(lambda: store.exists(*store.keys(keys.registry("finished", "chaos-*")) or ["none"]))
            assert len(working_for(Path(env["TMPDIR"]))) > 4
            chaos.send_signal(signal.SIGINT)
            _, errors = chaos.communicate(timeout=60)
        finally:
            chaos.kill()
    assert chaos.returncode == 130
    assert errors == "jobq: the storm was stopped; nothing is left of it.\n"
    assert keys_of(store) == {}


def test_a_suspended_store_is_refused(env: dict[str, str], server: Server, store: redis.Redis) -> None:
    store.set(keys.SUSPENDED, 1)
    done = subprocess.run([*CHAOS, "--url", server.url], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("jobq: All queues of this store are suspended")


@pytest.mark.parametrize("mode", ["thread", "process"])
@pytest.mark.slow
def test_a_storm_of_half_a_minute(env: dict[str, str], mode: str) -> None:
    """Kill processes for half a minute in each mode, with three queues; `make soak` has the long storms."""
    flags = ("--mode", mode, "--jobs", "4000", "--kills", "200", "--seconds", "28", "--queues", "3", "--seed", "3")
    (run,) = storm(env, *flags)["runs"]
    assert_promise_kept(run, 4000)
    assert run["kills"] >= 20  # of 200: on a machine that is busy with other things the storm ends first
