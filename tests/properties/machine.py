"""Provide what all rules share: the store, the model, the processes; and what must hold after every step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant
from model import Token
from model_owners import CAUSE, MOST_CRASHES, Judge, Model
from processes import THEN, Process, Run
from view import expected, stored

from jobqueue.protocol import keys
from jobqueue.protocol.claims import Claimed
from jobqueue.protocol.cycle import Cycle, CycleState
from jobqueue.protocol.protocol import Protocol
from jobqueue.protocol.rescue import ForRQ, Rescue, Ruling, Verdict
from jobqueue.protocol.wire import Wire

T = TypeVar("T")
WORKERS = ("left", "right")
EXECUTION_TTL = 90
PLACE_OF = {
    "queued": {"queue", "owner"},
    "started": {"owner"},
    "stopped": {"failed"},
}  # otherwise the registry has the status's name


class Machine(RuleBasedStateMachine):
    """Two worker trees and their children, the store, and the model with the true state."""

    def __init__(self, client: redis.Redis, wire: Wire) -> None:
        super().__init__()
        client.flushall()
        self.client = client
        self.wire = wire
        self.protocol = Protocol(client)
        self.model = Model()
        self.processes: list[Process] = []
        self.tokens: list[tuple[Token, str]] = []  # every token that ever was, and its queue
        self.suspended = False
        self.paused: set[str] = set()
        self.leases = dict.fromkeys(WORKERS, 0)

    @initialize()
    def begin(self) -> None:
        for worker in WORKERS:
            self.client.hset(keys.worker(worker), "state", "idle")
            self.model.counted[worker] = [0, 0]
            self.renew_lease(worker)
        for worker in ("left", "left", "right"):
            self.add_owner(worker)

    def add_owner(self, worker: str) -> None:
        """Add an owner name, as a supervisor does before it forks."""
        process = Process(f"{worker}:{len(self.processes)}.1", worker)
        self.client.sadd(keys.OWNERS, process.owner)
        self.model.held[process.owner] = {}
        self.processes.append(process)

    def renew_lease(self, worker: str) -> None:
        self.leases[worker] = self.client.incr(keys.lease(worker))

    # -- choosing ------------------------------------------------------------------------------------------------------

    def one(self, data: st.DataObject, of: Iterable[T]) -> T:
        return data.draw(st.sampled_from(list(of)))

    def some(self, data: st.DataObject, of: Sequence[T]) -> list[T]:
        """Choose at least one of the items, if there are any, in any order."""
        if not of:
            return []
        return [of[at] for at in data.draw(st.lists(st.integers(0, len(of) - 1), min_size=1, unique=True))]

    @property
    def alive(self) -> list[Process]:
        """Return the children that run and have not been rescued."""
        return [p for p in self.processes if not p.dead and not p.struck]

    @property
    def free_to_send(self) -> list[Process]:
        """Return the children whose connection works, also dead ones: their last request may not have arrived yet."""
        return [p for p in self.processes if not p.struck and not p.disturbed]

    @property
    def stale(self) -> list[tuple[Token, str]]:
        return [(token, queue) for token, queue in self.tokens if not self.model.hold(token)]

    def runs(self, processes: Iterable[Process], *phases: str) -> list[tuple[Process, Run]]:
        return [(p, run) for p in processes for run in p.of(*phases)]

    # -- what several rules do -----------------------------------------------------------------------------------------

    def cycled(self, process: Process, queues: Sequence[str], want: int, idle: int, is_lost: bool = False) -> None:
        """Send CYCLE with the outcomes of the process; return the answer, and what the process learns from it."""
        outcomes = [run.outcome for run in process.of("finished")]
        verdicts = self.model.settle(process.owner, outcomes)
        cycle = self.protocol.cycle(process.owner, process.worker, queues, outcomes, want, idle)
        assert cycle.acks == verdicts
        assert len(cycle.jobs) <= want
        for job in cycle.jobs:
            assert job.queue in queues
            assert job.queue not in self.paused
            self.took(process, job)
        for queue in queues:
            self.model.dropped(process.owner, queue, self.client.llen(keys.queue(queue)))
        self.check_state(cycle, queues, want)
        process.disturbed = is_lost
        if not is_lost:
            process.learn(cycle)

    def took(self, process: Process, job: Claimed) -> None:
        self.model.take(process.owner, process.worker, job.id, job.claim, job.queue)
        self.tokens.append(((process.owner, job.id, job.claim), job.queue))

    def check_state(self, cycle: Cycle, queues: Sequence[str], want: int) -> None:
        open_queues = [queue for queue in queues if queue not in self.paused]
        if cycle.jobs:
            assert cycle.state is CycleState.CLAIMED
        elif want and self.suspended:
            assert cycle.state is CycleState.SUSPENDED
        elif want and not open_queues:
            assert cycle.state is CycleState.PAUSED
        else:
            assert cycle.state is CycleState.EMPTY
            assert not want or not any(self.model.queues[queue] for queue in open_queues), "it is not empty"

    def rescue(self, process: Process, judge: Judge, lease: str = "", done: Sequence[ForRQ] = ()) -> None:
        """Rescue twice at the same time: the second rescue gets nothing. Jobs for RQ's own finish are left to a finish
        process."""
        ought = self.model.rescue(process.owner, judge)
        if lease and not any(owner.startswith(f"{process.worker}:") for owner in self.model.held):
            self.model.strike_off(process.worker)
        assert self.rescue_script(process, judge, lease) == ought
        process.left = [*(ought.for_rq if ought else ()), *done]
        process.struck = process.owner not in self.model.held
        if process.struck:
            assert self.rescue_script(process, judge, lease) is None

    def rescue_script(self, process: Process, judge: Judge, lease: str = "") -> Rescue | None:
        rulings = None
        if judge.running is not None:
            rulings = [Ruling(claim, Verdict(said), CAUSE) for claim, said in judge.running.items()]
        return self.protocol.rescue(
            process.owner,
            process.worker,
            lease=lease,
            running=rulings,
            on_crash=judge.on_crash,
            most=MOST_CRASHES,
            final=judge.final,
            keep=list(judge.keep),
            ended_at=THEN,
            ended=2.0,
            cause=CAUSE,
            dead=lease,
        )

    def finish(self, process: Process, job: ForRQ, dies: bool = False) -> None:
        self.model.finish_by_rq((process.owner, job.id, job.claim), job.verdict, dies)
        process.finish_by_rq(self.client, job, dies)

    def reconcile_script(self, process: Process) -> int:
        return self.wire.reconcile(process.owner, process.worker, process.runs)

    def mark(self, process: Process, runs: Sequence[Run]) -> list[bool]:
        marks = [(run.job, THEN, EXECUTION_TTL) for run in runs]
        ought = [self.model.mark((process.owner, run.job.id, run.job.claim)) for run in runs]
        assert self.protocol.start_mark(process.owner, process.worker, marks) == ought
        return ought

    # -- what must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def check(self) -> None:
        self.store_agrees_with_model()
        self.promises_hold()

    def store_agrees_with_model(self) -> None:
        is_there, ought = stored(self.client), expected(self.model)
        wrong = {
            key: (is_there.get(key), ought.get(key)) for key in is_there | ought if is_there.get(key) != ought.get(key)
        }
        assert not wrong, wrong

    def promises_hold(self) -> None:
        for job in self.model.jobs.values():
            places = self.model.places(job.id)
            if len(places) == 2 and "canceled" in places:  # while a worker held it: RQ finishes the job all the same
                places.remove("canceled")
            assert len(places) == 1, f"{job.id} is in {places}"
            if places != ["owner"]:
                assert places[0] in PLACE_OF.get(job.status, {job.status}), f"{job.id} is {job.status} in {places}"
        queued = {job_id for ids in self.model.queues.values() for job_id in ids}
        for process, run in self.runs([p for p in self.alive if not p.left], "running"):  # not rescued
            assert run.job.id not in queued, f"{run.job} runs in {process} and waits to run again"
        for job_id, claims in self.model.settled.items():
            assert len(set(claims)) == len(claims), f"{job_id} has two outcomes of one attempt"

    def teardown(self) -> None:
        self.client.flushall()
