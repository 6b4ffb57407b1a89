"""Who dies, who only seems to, who rescues, and what the dead still say."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from machine import WORKERS, Machine
from model_owners import Verdict
from processes import QUEUES

from jobqueue.protocol import LOST

policies = st.sampled_from(["retry", "fail"])
workers = st.sampled_from(WORKERS)


class Deaths(Machine):
    """Rules."""

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        """SIGKILL; its supervisor has not noticed yet."""
        self.one(data, self.alive).dead = True

    @rule(data=st.data(), on_crash=policies, counted=st.booleans())
    def supervisor_rescues(self, data: st.DataObject, on_crash: str, counted: bool) -> None:
        """At once, and it knows what ran: first the journal is settled. Then another child takes the place."""
        process = self.one(data, [p for p in self.processes if not p.struck])
        process.dead = True
        verdicts = self.model.settle(process.owner, process.journal)
        cycle = self.protocol.cycle(process.owner, process.worker, QUEUES, process.journal, 0)
        assert cycle.verdicts == verdicts
        self.rescue(process, Verdict(process.running, on_crash, counted))
        self.bear(process.worker)

    @rule(worker=workers, on_crash=policies)
    def other_tree_rescues(self, worker: str, on_crash: str) -> None:
        """The lease stood still: all children of the tree are rescued, those too that were only slow."""
        for process in [p for p in self.processes if p.worker == worker and not p.struck]:
            self.rescue(process, Verdict(None, on_crash, counted=True), lease=str(self.leases[worker]))
        self.bear(worker)

    @rule(worker=workers, on_crash=policies)
    def lease_moved(self, worker: str, on_crash: str) -> None:
        """It is renewed before the rescuer strikes: it is refused."""
        self.renew_lease(worker)
        for process in [p for p in self.processes if p.worker == worker]:
            assert self.rescue_script(process, Verdict(None, on_crash, True), str(self.leases[worker] - 1)) is None

    @precondition(lambda self: any(p.struck for p in self.processes))
    @rule(data=st.data(), what=st.sampled_from(["cycle", "reconcile", "mark", "give back", "finish by RQ"]))
    def too_late(self, data: st.DataObject, what: str) -> None:
        """A dead child's last request arrives, or a slow one comes back: nothing happens."""
        process = self.one(data, [p for p in self.processes if p.struck])
        runs = list(process.runs.values())
        if what == "cycle":
            outcomes = [run.outcome for run in runs]
            assert self.protocol.cycle(process.owner, process.worker, QUEUES, outcomes, 3, 3) == ("fenced", [], [])
        elif what == "reconcile":
            assert self.reconcile_script(process) == -1
        elif what == "mark":
            assert not any(self.mark(process, runs))
        elif what == "give back":
            tokens = [(process.owner, run.job.id, run.job.claim, run.job.queue) for run in runs]
            assert self.protocol.give_back(process.worker, tokens) == LOST
        else:
            for run in runs[:2]:
                self.model.finish_by_rq(process.owner, run.outcome)
                process.finish_by_rq(self.client, run)
