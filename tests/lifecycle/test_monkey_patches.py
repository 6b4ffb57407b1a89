"""Modules and jobs that replace Python's threads or sockets (gevent, eventlet), and what a job sees of our threads."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import redis
from conftest import Start
from helpers import Server, Tree, eventually, status, submit, uncounted

from jobqueue.producing.queue import Queue

SERVED = ("samples", "samples_patching")
PLACES = ("thread", "process", "Worker", "SimpleWorker")
HAS_GEVENT = importlib.util.find_spec("gevent") is not None


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tree(start: Start, start_rq: Start, place: str) -> Tree:
    """A worker in each of our modes, and in place of each of RQ's classes."""
    if place in ("thread", "process"):
        return start("-n", "2", mode=place, serve=SERVED)
    return start_rq(place, "-S", "json", lease="60")


def leaves(tree: Tree) -> None:
    assert tree.stop() == 0
    assert "Traceback" not in tree.log, tree.log
    assert "Exception ignored" not in tree.log, tree.log


def test_a_job_sees_its_own_threads_only(tree: Tree, queue: Queue, place: str) -> None:
    """It has always been so in RQ's workers: their jobs are alone in a process."""
    mains = ["MainThread"] if place != "thread" else ["MainThread", "jobq-slot-?"]
    for job in [queue.enqueue("samples_patching.threads") for _ in range(4)]:
        names, count = job.result(30)
        assert [name.rstrip("01") + "?" * name.startswith("jobq-slot") for name in names] == mains
        assert count == len(mains)
    leaves(tree)


def test_a_job_joins_all_threads(tree: Tree, queue: Queue, place: str) -> None:
    jobs = [queue.enqueue("samples_patching.join_all_threads", job_timeout=10) for _ in range(3)]
    others = [job.result(30) for job in jobs]
    assert others == [0, 0, 0] or place == "thread"  # there it sees those of its neighbours too
    leaves(tree)


def test_a_served_module_that_replaces_threads(start: Start, mode: str) -> None:
    tree: Tree = start("-n", "2", mode=mode, serve=("samples_green",))
    assert tree.wait() == 2
    (line,) = [line for line in tree.log.splitlines() if line.startswith("jobq: ")]
    assert "samples_green replaces Python's threads or sockets" in line
    assert "rq worker --worker-class jobqueue.rq.Worker" in line
    assert "Traceback" not in tree.log


@pytest.mark.parametrize("what", ["replace_threads", "replace_sockets"])
def test_a_job_that_replaces_threads(start: Start, mode: str, queue: Queue, store: redis.Redis, what: str) -> None:
    """Its process is replaced. No other job is run twice, and none counts as a crash."""
    tree: Tree = start("-n", "2", mode=mode, serve=SERVED)
    beside = queue.enqueue("samples.nap", 1.0)
    eventually(lambda: status(store, beside.id) == "started")
    job = queue.enqueue(f"samples_patching.{what}")
    behind = submit(queue, "samples.ok", [(n,) for n in range(30)])
    assert job.result(30) == "replaced"
    assert [it.result(30) for it in behind] == list(range(30))
    beside.result(30)
    assert all(uncounted(store, it.id) for it in (job, beside, *behind))
    assert tree.log.count("a job has replaced Python's threads or sockets") == 1
    assert "exited with status" not in tree.log


def test_a_module_that_replaces_threads_with_rqs_classes(
    start_rq: Start, queue: Queue, store: redis.Redis, server: Server, place: str
) -> None:
    """It is imported by its first job; RQ's workers run it."""
    if place in ("thread", "process"):
        pytest.skip("refused at the start, see above")
    tree = start_rq(place, "-S", "json", lease="60")
    jobs = submit(queue, "samples_green.ok", [(n,) for n in range(5)])
    assert [job.result(30) for job in jobs] == list(range(5))
    leaves(tree)


@pytest.mark.skipif(not HAS_GEVENT, reason="gevent is not installed")
@pytest.mark.parametrize("where", ["import", "job"])
def test_gevent_itself_with_rqs_classes(start_rq: Start, queue: Queue, tmp_path: Path, place: str, where: str) -> None:
    """gevent replaces the locks of Python's import only where it sees no other thread: else the import that has called
    it fails at its end."""
    if place in ("thread", "process"):
        pytest.skip("refused at the start, see above")
    patch = "from gevent import monkey\nmonkey.patch_all()\nimport time\n"
    body = f"def run(n):\n    {patch if where == 'job' else 'pass'}\n".replace("\nmonkey", "\n    monkey")
    (tmp_path / "green.py").write_text(
        ("" if where == "job" else patch)
        + body.replace("\nimport", "\n    import")
        + "    import time\n    time.sleep(0.01)\n    return n\n"
    )
    tree = start_rq(place, "-S", "json", lease="60", PYTHONPATH=str(tmp_path))
    jobs = submit(queue, "green.run", [(n,) for n in range(5)])
    assert [job.result(30) for job in jobs] == list(range(5))
    assert tree.stop() == 0
