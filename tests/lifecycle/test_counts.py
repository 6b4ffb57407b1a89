"""What a job costs in commands: at most the figures that were reached. Times are never asserted."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from conftest import Start
from helpers import Server, submit
from rq.job import Callback

from jobqueue.producing.queue import Queue


class Cost(NamedTuple):
    """Per job, with the start and the end of the worker: requests of the worker, commands that the store executed."""

    requests: float
    commands: float


def calls(server: Server) -> dict[str, int]:
    stats: Any = server.client.info("commandstats")
    return {name.removeprefix("cmdstat_"): row["calls"] for name, row in stats.items()}


def cost(server: Server, start: Start, jobs: int, *flags: str, mode: str) -> Cost:
    """Let a worker run what is in the queue."""
    server.client.config_resetstat()
    assert start("--burst", *flags, mode=mode).wait() == 0
    counted = calls(server)
    scripts = counted.get("evalsha", 0) + counted.get("eval", 0)
    return Cost(scripts / jobs, sum(counted.values()) / jobs)


def test_no_op_jobs(start: Start, queue: Queue, server: Server) -> None:
    jobs = 6000
    queue.enqueue_many("samples.ok", range(jobs))
    found = cost(server, start, jobs, "-n", "1", mode="process")
    assert found.requests <= 0.03
    assert found.commands <= 6.5


@pytest.mark.parametrize(("slots", "commands"), [(16, 14.0), (100, 14.0)])
def test_jobs_of_20_ms(start: Start, queue: Queue, server: Server, slots: int, commands: float) -> None:
    """They end before their start would be marked."""
    jobs = 100 * slots
    submit(queue, "samples.nap", [(0.02,)] * jobs)
    found = cost(server, start, jobs, "-n", str(slots), mode="thread")
    assert found.commands <= commands


def test_jobs_with_callbacks(start: Start, queue: Queue, server: Server, mode: str) -> None:
    """RQ's own code ends them."""
    jobs = 200
    for n in range(jobs):
        queue.enqueue("samples.ok", n, on_success=Callback("samples.on_success"))
    found = cost(server, start, jobs, "-n", "1", mode=mode)
    assert found.requests <= 3.3
    assert found.commands <= 57
