"""How many Python functions of ours are called for a job that does nothing, in a child with one slot or several.

The figures that were reached are the most that is allowed: a plugin or a feature that nobody uses may not add one.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import jobqueue
from jobqueue import workers
from jobqueue.protocol.claims import Claimed
from jobqueue.protocol.cycle import Cycle, CycleRequest, CycleState
from jobqueue.protocol.outcomes import Ack
from jobqueue.store.connection import Address
from jobqueue.workers.child.consumer import Consumer
from jobqueue.workers.child.slot import Slot
from jobqueue.workers.child.slot_parts import SlotParts
from jobqueue.workers.running.context import after_imports
from jobqueue.workers.running.current import CurrentJob
from jobqueue.workers.running.runner import Runner
from jobqueue.workers.running.task_meter import Usage
from jobqueue.workers.shared.journal import SharedPage, make_file
from jobqueue.workers.shared.settings import Settings

ROOTS = tuple(str(Path(os.path.realpath(package.__path__[0]))) for package in (jobqueue, workers))
JOBS = 1280


def is_ours(code: CodeType) -> bool:
    return os.path.realpath(code.co_filename).startswith(ROOTS)


class EndlessWire:
    """Gives as many jobs as it is asked for, and records every outcome."""

    def __init__(self) -> None:
        self.claims = 0
        self.reply = Cycle(CycleState.EMPTY, [], [])

    def reconnect(self) -> None: ...

    def reconcile(self, *_: Any) -> int:
        return 0

    def largest(self) -> int:
        return 0

    def send(self, request: CycleRequest) -> None:
        request.packed()
        jobs = [self._job() for _ in range(request.want)]
        self.reply = Cycle(CycleState.CLAIMED, [Ack.RECORDED] * len(request.outcomes), jobs)

    def _job(self) -> Claimed:
        self.claims += 1
        data = b'["jobqueue.tasks.square",null,[%d],{}]' % self.claims
        return Claimed(f"job-{self.claims}", self.claims, "default", data, 180.0, None, None, 0)

    def receive(self) -> Cycle:
        return self.reply


def nothing() -> None:
    pass


def make_slot(slots: int) -> tuple[Consumer, Slot]:
    settings = Settings(Address(url="redis://127.0.0.1:1"), "w", ("default",), children=1, slots=slots)
    page, usage, runner = SharedPage(make_file(1, slots), 0, slots), Usage(slots), Runner(settings)
    wire: Any = EndlessWire()
    consumer = Consumer(settings, "w:0.1", page, wire, usage, *[nothing] * 3)
    none: Any = None
    make_current = partial(CurrentJob, connection=none, worker="w", serializer_of=runner.serializer_of)
    after_imports.capture()
    slot = Slot(0, SlotParts(settings, "w:0.1", page, consumer, none, usage, nothing, nothing), runner, make_current)
    slot.bind()
    return consumer, slot


def run(consumer: Consumer, slot: Slot, jobs: int) -> None:
    for _ in range(jobs):
        work = consumer.next()
        assert work is not None
        slot.take(work)


def calls_per_job(consumer: Consumer, slot: Slot) -> tuple[float, list[tuple[str, int]]]:
    called: Counter[CodeType] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            called[frame.f_code] += 1

    sys.setprofile(count)
    try:
        run(consumer, slot, JOBS)
    finally:
        sys.setprofile(None)
    ours = Counter({f"{Path(c.co_filename).name}:{c.co_name}": n for c, n in called.items() if is_ours(c)})
    return ours.total() / JOBS, ours.most_common()


@pytest.mark.parametrize(("slots", "most"), [(1, 82), (8, 79)])
def test_calls_per_job_that_does_nothing(slots: int, most: int) -> None:
    """The least of some rounds counts: a run that is held up is measured, and so are those that follow it."""
    consumer, slot = make_slot(slots)
    run(consumer, slot, 2000)  # until it claims many at a time
    rounds = []
    for _ in range(8):
        rounds.append(calls_per_job(consumer, slot))
        if rounds[-1][0] <= most:
            return
    raise AssertionError(f"more than {most}: {min(rounds)}")
