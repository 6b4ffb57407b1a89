"""On an overloaded machine, processes get no core for a tenth of a second, at any moment. No process died, so no job
may run twice."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from conftest import Start
from helpers import Tree, eventually, lines, submit

from jobqueue.producing.queue import Queue

JOBS = 6000
PAUSES = 60


@contextmanager
def held_still(process: psutil.Process) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def starve(tree: Tree, chance: random.Random) -> None:
    """Stop one child for longer than its supervisor waits for a reaction; later stop the supervisor too."""
    child = chance.choice(tree.children())
    with held_still(child):
        time.sleep(chance.uniform(0.1, 0.16))
        with held_still(psutil.Process(tree.pid)):
            time.sleep(chance.uniform(0, 0.01))
            child.send_signal(signal.SIGCONT)
            time.sleep(chance.uniform(0, 0.05))


@pytest.mark.slow
def test_processes_without_a_core_run_no_job_twice(start: Start, mode: str, queue: Queue, tmp_path: Path) -> None:
    record = tmp_path / "record"
    tree = start("-n", "2", mode=mode)
    eventually(lambda: len(tree.children()) == (1 if mode == "thread" else 2))
    jobs = submit(queue, "samples.note_after", [(str(record), n, 0.001) for n in range(JOBS)])
    chance = random.Random(7)
    for _ in range(PAUSES):
        starve(tree, chance)
    assert [job.result(60) for job in jobs] == list(range(JOBS))
    assert Counter(lines(record)) == {str(n): 1 for n in range(JOBS)}
    assert "no longer ours" not in tree.log
