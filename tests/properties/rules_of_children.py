"""The rules of living children: they claim, mark, run, settle and give back jobs, and replies get lost."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from machine import EXECUTION_TTL, WORKERS, Machine
from processes import QUEUES, THEN, Look, Process, Run, outcome
from rq.intermediate_queue import IntermediateQueue

from jobqueue.protocol import keys
from jobqueue.protocol.outcomes import RAISED, RETURNED, Ack

fates = st.sampled_from(["answered", "answered", "answered", "reply lost", "request lost"])
kinds = st.sampled_from([RETURNED, RAISED])
orders = st.sampled_from([QUEUES, QUEUES[::-1], QUEUES[:1]])


class Children(Machine):
    """The rules of living children."""

    @precondition(lambda self: self.free_to_send)
    @rule(data=st.data(), queues=orders, want=st.integers(0, 4), idle=st.integers(0, 2), fate=fates)
    def cycle(self, data: st.DataObject, queues: tuple[str, ...], want: int, idle: int, fate: str) -> None:
        process = self.one(data, self.free_to_send)
        if fate == "request lost":
            process.disturbed = True
        else:
            self.cycled(process, queues, want, idle, is_lost=process.dead or fate == "reply lost")

    @precondition(lambda self: self.connected)
    @rule(data=st.data(), want=st.integers(1, 4))
    def turn(self, data: st.DataObject, want: int) -> None:
        """Send CYCLE while nothing is wrong."""
        self.cycled(self.one(data, self.connected), QUEUES, want, idle=want)

    @precondition(lambda self: any(p.disturbed for p in self.alive))
    @rule(data=st.data(), fate=fates)
    def reconcile(self, data: st.DataObject, fate: str) -> None:
        process = self.one(data, [p for p in self.alive if p.disturbed])
        if fate == "request lost":
            return
        self.reconciled(process)
        process.disturbed = fate == "reply lost"

    @precondition(lambda self: self.runs(self.alive, "buffered"))
    @rule(data=st.data(), strict=st.booleans())
    def start(self, data: st.DataObject, strict: bool) -> None:
        for process, run in self.some(data, self.runs(self.alive, "buffered")):
            self.started(process, run, strict)

    @precondition(lambda self: self.runs(self.alive, "running"))
    @rule(data=st.data(), repeats=st.integers(0, 1))
    def mark_long_runs(self, data: st.DataObject, repeats: int) -> None:
        """Mark starts as the child watchdog does, perhaps again after a lost reply; also after the job ended
        meanwhile."""
        process = self.one(data, {p.owner: p for p, _ in self.runs(self.alive, "running")}.values())
        runs = self.some(data, process.of("running", "finished"))
        for _ in range(1 + repeats):
            self.mark(process, runs)

    @precondition(lambda self: self.runs(self.alive, "running"))
    @rule(data=st.data())
    def hold_still(self, data: st.DataObject) -> None:
        """Let the supervisor read the child's page while C code holds the GIL or the machine is busy; the child does
        not know it yet."""
        self.looked_at(self.one(data, self.runs(self.alive, "running"))[0])

    @precondition(lambda self: any(p.looks for p in self.processes))
    @rule(data=st.data(), repeats=st.integers(0, 1))
    def stand_in(self, data: st.DataObject, repeats: int) -> None:
        """Let the supervisor mark running jobs and give the others back, perhaps long after it read the page: the child
        may have reacted."""
        process = self.one(data, [p for p in self.processes if p.looks])
        look = process.looks.pop()
        for _ in range(1 + repeats):
            self.stood_in(process, look)

    @precondition(lambda self: any(p.revoked for p in self.alive))
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        self.came_back(self.one(data, [p for p in self.alive if p.revoked]), data)

    @precondition(lambda self: self.runs(self.connected, "running"))
    @rule(data=st.data(), want=st.integers(1, 2))
    def come_back_before_the_stand_in(self, data: st.DataObject, want: int) -> None:
        """Let the child run, before the supervisor acts, jobs that it held and those that it claims now: the worst
        case."""
        process = self.one(data, self.runs(self.connected, "running"))[0]
        self.looked_at(process)
        self.came_back(process, data)
        self.cycled(process, QUEUES, want, idle=want)
        for run in self.some(data, process.of("buffered")):
            self.started(process, run)
        self.stood_in(process, process.looks.pop())

    @precondition(lambda self: self.runs(self.alive, "running"))
    @rule(data=st.data(), kind=kinds)
    def end(self, data: st.DataObject, kind: int) -> None:
        for _, run in self.some(data, self.runs(self.alive, "running")):
            run.kind = kind
            run.phase = "for RQ" if run.needs_rq else "finished"

    @precondition(lambda self: self.runs(self.alive, "for RQ"))
    @rule(data=st.data(), repeats=st.integers(0, 1))
    def finish_by_rq(self, data: st.DataObject, repeats: int) -> None:
        """Do RQ's own finish, again if the reply to its EXEC was lost. The process may be killed after the EXEC."""
        process, run = self.one(data, self.runs(self.alive, "for RQ"))
        process.dead = dies = data.draw(st.integers(0, 4)) == 0
        for _ in range(1 + repeats):
            self.finish(process, run.for_rq, dies)
        process.drop([run.job.claim])

    @precondition(lambda self: self.runs(self.alive, "buffered", "running"))
    @rule(data=st.data(), worker=st.sampled_from(WORKERS), repeats=st.integers(0, 1))
    def give_back(self, data: st.DataObject, worker: str, repeats: int) -> None:
        """Give back buffered and interrupted jobs of the children of a tree at once; again after a lost reply."""
        if not (held := self.runs([p for p in self.alive if p.worker == worker], "buffered", "running")):
            return
        chosen = self.some(data, held)
        tokens = [(process.owner, run.job.id, run.job.claim) for process, run in chosen]
        sent = [(*token, run.job.queue) for token, (_, run) in zip(tokens, chosen, strict=True)]
        for _ in range(1 + repeats):
            assert self.protocol.give_back(worker, sent) == self.model.give_back(tokens)
        for process, run in chosen:
            process.drop([run.job.claim])

    @rule(worker=st.sampled_from(WORKERS))
    def now_and_then(self, worker: str) -> None:
        """Send heartbeats; RECONCILE, which finds nothing; RQ's maintenance, which notes jobs in intermediate lists and
        fails those that are still there a minute later."""
        assert self.protocol.heartbeat(worker, EXECUTION_TTL) == self.model.heartbeat(worker)
        for process in self.connected:
            assert self.reconciled(process) == 0
        for queue in QUEUES:
            intermediate = IntermediateQueue(keys.queue(queue), self.client)
            for job_id in intermediate.get_job_ids():
                intermediate.set_first_seen(job_id)
                self.model.seen.add((queue, job_id))

    @precondition(lambda self: self.stale)
    @rule(data=st.data(), kind=kinds)
    def use_a_stale_token(self, data: st.DataObject, kind: int) -> None:
        """Send requests with the claim of a job that was settled, given back or rescued: they change nothing."""
        (owner, job_id, claim), queue = self.one(data, self.stale)
        worker = owner.partition(":")[0]
        assert self.protocol.give_back(worker, [(owner, job_id, claim, queue)]) == 0
        if owner in self.model.held:
            stale = [outcome(job_id, claim, queue, kind, 500)]
            ought = self.model.settle(owner, stale)
            assert self.protocol.cycle(owner, worker, QUEUES, stale, 0).acks == ought
            assert ought in ([Ack.LOST], [Ack.GONE])

    @precondition(lambda self: self.runs(self.connected, "buffered", "running"))
    @rule(data=st.data(), again=st.integers(1, 2))
    def push_what_is_held(self, data: st.DataObject, again: int) -> None:
        """Push an id that the owner holds, as another producer may, and let the owner take it: the job is held once."""
        process, run = self.one(data, self.runs(self.connected, "buffered", "running"))
        queue = run.job.queue
        if run.job.id not in self.model.jobs or not self.model.hold((process.owner, run.job.id, run.job.claim)):
            return
        self.client.lpush(keys.queue(queue), *[run.job.id] * again)
        self.model.queues[queue][:0] = [run.job.id] * again
        self.cycled(process, [queue], want=again, idle=again)

    @precondition(lambda self: self.connected)
    @rule(data=st.data(), queue=st.sampled_from(QUEUES), again=st.integers(1, 2))
    def push_twice(self, data: st.DataObject, queue: str, again: int) -> None:
        """Push an id several times to the head of a queue, and let one owner take all entries."""
        process = self.one(data, self.connected)
        ids = self.model.queues[queue][:1]
        if not ids or ids[0] not in self.model.jobs:
            return
        self.client.lpush(keys.queue(queue), *ids * again)
        self.model.queues[queue][:0] = ids * again
        self.cycled(process, [queue], want=1 + again, idle=1 + again)

    # -- steps of rules ------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> list[Process]:
        return [p for p in self.alive if not p.disturbed]

    def started(self, process: Process, run: Run, strict: bool = False) -> None:
        run.phase = "running"
        asks = strict or process.revoked or run.job.claim in process.doubtful or run.job.features.marked_first
        if asks and not self.mark(process, [run])[0]:
            process.drop([run.job.claim])

    def looked_at(self, process: Process) -> None:
        newest = self.protocol.newest_claim()
        process.revoked = True
        process.looks.append(Look(newest, process.running, [outcome.claim for outcome in process.journal]))

    def stood_in(self, process: Process, look: Look) -> None:
        newest, running, finished = look
        ought = self.model.stand_in(process.owner, newest, running, finished)
        marks = [(claim, THEN) for claim in running]
        assert self.protocol.stand_in(process.owner, process.worker, EXECUTION_TTL, newest, marks, finished) == ought

    def came_back(self, process: Process, data: st.DataObject) -> None:
        """Let the child drop its buffer; jobs that slots have taken out of it before are started later."""
        dropped = [run for run in process.of("buffered") if data.draw(st.booleans())]
        process.drop([run.job.claim for run in dropped])
        process.doubtful |= set(process.runs)
        process.revoked = False
        tokens = [(process.owner, run.job.id, run.job.claim) for run in dropped]
        sent = [(*token, run.job.queue) for token, run in zip(tokens, dropped, strict=True)]
        assert self.protocol.give_back(process.worker, sent) == self.model.give_back(tokens)

    def reconciled(self, process: Process) -> int:
        count = self.model.reconcile(process.owner, process.runs)
        assert self.reconcile_script(process) == count
        return count
