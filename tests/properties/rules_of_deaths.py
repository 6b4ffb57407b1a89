"""The rules of deaths: processes that die or only seem to, rescues, and late requests of dead processes."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from machine import EXECUTION_TTL, WORKERS, Machine
from model_owners import Judge
from processes import QUEUES

from jobqueue.protocol import keys
from jobqueue.protocol.outcomes import Ack

policies = st.sampled_from(["retry", "fail"])
judgements = st.sampled_from(["crash", "crash", "suspect", "interrupt", "fail", "stop"])
workers = st.sampled_from(WORKERS)


class Deaths(Machine):
    """The rules of deaths."""

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        """Send SIGKILL; the supervisor has not noticed it yet."""
        self.one(data, self.alive).dead = True

    @rule(data=st.data(), on_crash=policies)
    def supervisor_rescues(self, data: st.DataObject, on_crash: str) -> None:
        """Rescue a child at once, knowing which jobs ran: first the journal is settled, then another child replaces the
        dead one."""
        if not (candidates := [p for p in self.processes if not p.struck and not p.left]):
            return
        busy = [p for p in candidates if p.running or p.journal]
        process = self.one(data, busy or candidates)
        process.dead = True
        journal = process.journal
        verdicts = self.model.settle(process.owner, journal)
        assert self.protocol.cycle(process.owner, process.worker, QUEUES, journal, 0).acks == verdicts
        found = [o.claim for o, verdict in zip(journal, verdicts, strict=True) if verdict == Ack.HAS_DEPENDENTS]
        done = [process.runs[claim].for_rq for claim in found]
        running = {claim: data.draw(judgements) for claim in process.running}
        self.rescue(process, Judge(running, on_crash, keep=found), done=done)
        self.add_owner(process.worker)

    @rule(worker=workers, on_crash=policies)
    def other_tree_rescues(self, worker: str, on_crash: str) -> None:
        """Rescue all children of a tree whose lease stood still, also those that were only slow."""
        tree = [p for p in self.processes if p.worker == worker and not p.struck]
        for process in tree:
            self.rescue(process, Judge(None, on_crash), lease=str(self.leases[worker]))
        self.client.persist(keys.worker(worker))  # the dead tree was struck off; a new one of its name starts
        self.renew_lease(worker)
        self.add_owner(worker)

    @precondition(lambda self: any(p.left for p in self.processes))
    @rule(data=st.data(), dies=st.booleans())
    def finish_left_jobs(self, data: st.DataObject, dies: bool) -> None:
        """Finish the jobs that a rescue left by RQ's own code, as a finish process does; it may die meanwhile."""
        process = self.one(data, [p for p in self.processes if p.left])
        for job in self.some(data, process.left):
            self.finish(process, job, dies)

    @precondition(lambda self: self.model.ended)
    @rule(data=st.data(), again=st.integers(0, 1))
    def bring_on(self, data: st.DataObject, again: int) -> None:
        """Enqueue the dependents of a job whose end is recorded, as any process may."""
        job_id = self.one(data, sorted(self.model.ended))
        for _ in range(1 + again):
            self.model.bring_on(job_id)
            assert not self.protocol.enqueue_dependents(job_id)[0]

    @precondition(lambda self: any(p.left for p in self.processes))
    @rule(data=st.data(), on_crash=policies)
    def final_rescue(self, data: st.DataObject, on_crash: str) -> None:
        """End the jobs that a finish process did not finish without RQ's code, and strike the name off."""
        process = self.one(data, [p for p in self.processes if p.left])
        words = {job.claim: "interrupt" if job.verdict == "returned" else str(job.verdict) for job in process.left}
        self.rescue(process, Judge(words, on_crash, final=True))
        assert process.struck

    @rule(worker=workers, on_crash=policies)
    def lease_moved(self, worker: str, on_crash: str) -> None:
        """Renew the lease before a rescue: the rescue is refused."""
        self.renew_lease(worker)
        for process in [p for p in self.processes if p.worker == worker]:
            assert self.rescue_script(process, Judge(None, on_crash), str(self.leases[worker] - 1)) is None

    @precondition(lambda self: any(p.struck for p in self.processes))
    @rule(data=st.data(), what=st.sampled_from(["cycle", "reconcile", "stand in", "mark", "give back", "finish by RQ"]))
    def send_late_request(self, data: st.DataObject, what: str) -> None:
        """Let a dead child's last request arrive, or a slow child continue: nothing is changed."""
        process = self.one(data, [p for p in self.processes if p.struck])
        runs = list(process.runs.values())
        if what == "cycle":
            outcomes = [run.outcome for run in runs]
            assert self.protocol.cycle(process.owner, process.worker, QUEUES, outcomes, 3, 3) == ("fenced", [], [])
        elif what == "reconcile":
            assert self.reconcile_script(process) == -1
        elif what == "stand in":
            assert not self.protocol.stand_in(process.owner, process.worker, EXECUTION_TTL, 99, [], [])
        elif what == "mark":
            assert not any(self.mark(process, runs))
        elif what == "give back":
            tokens = [(process.owner, run.job.id, run.job.claim, run.job.queue) for run in runs]
            assert self.protocol.give_back(process.worker, tokens) == 0
        else:
            for run in runs[:2]:
                self.finish(process, run.for_rq)
