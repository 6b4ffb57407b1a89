"""--max-jobs and --max-memory replace processes, and the number of processes is never too small meanwhile."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import redis
from conftest import Start
from helpers import Tree, eventually, lines, submit

from jobqueue.job import Job
from jobqueue.producing.queue import Queue
from jobqueue.protocol import keys

JOBS = 600


def finished(store: redis.Redis) -> int:
    return int(store.zcard(keys.registry("finished", "default")))


def children_of(tree: Tree) -> list[int]:
    """Return their pids from one list: while all processes are read one by one, one may end and another begin."""
    server = tree.fork_server()
    return (
        [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]
        if server
        else []
    )


def test_max_jobs_replaces_processes(start: Start, mode: str, queue: Queue, store: redis.Redis, tmp_path: Path) -> None:
    """Every job runs once, in many processes, and the number of processes is never too small."""
    record, children = tmp_path / "record", 1 if mode == "thread" else 2
    tree: Tree = start("-n", "2", "--max-jobs", "100", mode=mode)
    eventually(lambda: store.scard(keys.OWNERS) == children and len(children_of(tree)) == children)
    jobs: list[Job] = []
    counts, pids = [], set()
    while finished(store) < len(jobs) or (len(pids) < 3 and len(jobs) < 5 * JOBS):
        if finished(store) == len(jobs):  # repeated if the test was delayed and has seen too little
            more = range(len(jobs), len(jobs) + JOBS)
            jobs += submit(queue, "samples.note_and_nap", [(str(record), n, 0.005) for n in more])
        now = children_of(tree)
        counts.append(len(now))
        pids.update(now)
    assert len(counts) > 10
    assert min(counts) >= children
    assert [job.result(5) for job in jobs] == list(range(len(jobs)))
    assert set(Counter(lines(record)).values()) == {1}
    assert len(pids) >= 3
    assert tree.log.count("it has done its share") >= 2
    assert tree.stop() == 0
    assert tree.done >= len(jobs)  # jobs given back for a child that held still count as well


def test_max_memory_replaces_processes(start: Start, mode: str, queue: Queue, store: redis.Redis) -> None:
    """A process that has grown too large is replaced."""
    tree: Tree = start("-n", "1", "--max-memory", "150", mode=mode)
    first = queue.enqueue("samples.grow", 100).result(30)
    assert queue.enqueue("samples.grow", 1).result(30) == first
    assert queue.enqueue("samples.grow", 100).result(30) == first
    eventually(lambda: "more than --max-memory 150" in tree.log)
    second = eventually(lambda: [pid for pid in [queue.enqueue("samples.grow", 1).result(30)] if pid != first])
    eventually(lambda: [p.pid for p in tree.children()] == second)
    eventually(lambda: store.scard(keys.OWNERS) == 1)
