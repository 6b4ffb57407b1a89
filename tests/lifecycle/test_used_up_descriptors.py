"""A job that leaves no descriptor to its process keeps no other job waiting: what it has done is recorded over a
descriptor from the reserve, and another process takes the place of its own."""

from __future__ import annotations

import time

import psutil
import pytest
import redis
from conftest import Start
from helpers import Tree, eventually, status
from rq import Callback, Queue, Retry
from rq.serializers import JSONSerializer

PLACES = ["thread", "process", "Worker", "SimpleWorker"]
ROOM = 40  # descriptors that the process may open
ENDED = {"finished", "failed"}


@pytest.fixture(params=PLACES)
def tree(request: pytest.FixtureRequest, store: redis.Redis) -> Tree:
    """A worker that has run a job, with the modules that the jobs need."""
    queue = Queue("default", connection=store, serializer=JSONSerializer)
    if request.param.endswith("Worker"):
        start: Start = request.getfixturevalue("start_rq")
        made = start(request.param, "-S", "json", "default")
    else:
        start = request.getfixturevalue("start")
        n = "2" if request.param == "thread" else "1"
        made = start("-n", n, mode=request.param, serve=("samples", "samples_unfriendly"))
    first = queue.enqueue("samples.ok", 2)
    eventually(lambda: status(store, first.id) == "finished")
    return made


def limit_descriptors(tree: Tree) -> None:
    """Do as ``ulimit -n`` does, for the processes that run jobs."""
    for process in tree.processes():
        limit = process.num_fds() + ROOM
        process.rlimit(psutil.RLIMIT_NOFILE, (limit, process.rlimit(psutil.RLIMIT_NOFILE)[1]))


@pytest.mark.parametrize("how", ["leak_all_descriptors", "lower_the_limit_on_descriptors"])
def test_the_jobs_behind_it_run(request: pytest.FixtureRequest, tree: Tree, store: redis.Redis, how: str) -> None:
    """Those too that RQ's own code ends, over a connection that is opened then. SimpleWorker, whose process is the
    user's own, undoes no limits, as RQ's does not: it ends, and leaves the jobs to others."""
    queue = Queue("default", connection=store, serializer=JSONSerializer)
    if how == "leak_all_descriptors":
        limit_descriptors(tree)
    jobs = [queue.enqueue(f"samples_unfriendly.{how}")]
    jobs += [queue.enqueue("samples.fail", "x", retry=Retry(1)) for _ in range(2)]
    parents = [queue.enqueue("samples.ok", 3) for _ in range(2)]
    jobs += parents + [queue.enqueue("samples.ok", 4, depends_on=parent) for parent in parents]
    jobs += [queue.enqueue("samples.ok", 5, on_success=Callback("samples.on_success")) for _ in range(2)]
    jobs += [queue.enqueue("samples.nap", 0.1) for _ in range(3)]
    if "SimpleWorker" in request.node.name and how == "lower_the_limit_on_descriptors":
        assert tree.wait() == 0
        assert "cannot reach the store any more" in tree.log
        return
    began = time.monotonic()
    eventually(lambda: {status(store, job.id) for job in jobs} <= ENDED, 60)
    ends = [status(store, job.id) for job in jobs]
    assert ends == ["finished", "failed", "failed", *["finished"] * 9], (time.monotonic() - began, tree.log)
