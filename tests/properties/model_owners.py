"""The part of the model with the requests of owners, and with what happens to their jobs when they die.

The model does not choose which jobs a CYCLE takes: it is told (``take``), and checks that they were at the head.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from model import Books, Hold, Job, Token

from jobqueue.protocol.outcomes import RAISED, RETURNED, Ack, JobOutcome
from jobqueue.protocol.rescue import ForRQ, Rescue
from jobqueue.workers.shared.endings import encode_text

MOST_CRASHES = 2
CAUSE = encode_text("x")
YEAR, RESULT_TTL = 31536000, 500
ENDS = {"finished": "finished", "failed": "failed", "stopped": "failed"}  # status → registry
DECIDED = ("finished", "failed", "stopped", "canceled", "scheduled", "deferred")  # the job was put elsewhere meanwhile


class Judge(NamedTuple):
    """The rulings of a rescue: the claims that ran with their verdicts (None: unknown), and what RQ's finish has to
    record."""

    running: Mapping[int, str] | None
    on_crash: str
    final: bool = False
    keep: Collection[int] = ()


class Model(Books):
    """The whole model; its methods follow the scripts."""

    # -- cycle --------------------------------------------------------------------------------------------------------

    def take(self, owner: str, worker: str, job_id: str, claim: int, queue: str) -> None:
        """Note that CYCLE took the job; entries before it that have no hash are gone too."""
        assert claim > self.last_claim, "a claim number came twice"
        self.last_claim = claim
        while (head := self.queues[queue].pop(0)) != job_id:
            self._is_waste(owner, head)
        assert job_id in self.jobs
        assert job_id not in self.held[owner]
        self.back[queue].pop(job_id, None)
        self.held[owner][job_id] = Hold(claim, queue, worker)

    def dropped(self, owner: str, queue: str, length: int) -> None:
        """Note that ``length`` jobs are left after a CYCLE: the other entries that it popped had no hash."""
        while len(self.queues[queue]) > length:
            self._is_waste(owner, self.queues[queue].pop(0))

    def _is_waste(self, owner: str, job_id: str) -> None:
        assert job_id not in self.jobs or job_id in self.held[owner], f"{job_id} left its queue into nothing"

    def settle(self, owner: str, outcomes: Iterable[JobOutcome]) -> list[int]:
        return [self._settle(owner, outcome) for outcome in outcomes]

    def _settle(self, owner: str, o: JobOutcome) -> int:
        job = self.jobs.get(o.id)
        if not (hold := self.hold((owner, o.id, o.claim))):
            return Ack.GONE if job and job.status == "canceled" else Ack.LOST
        if not job or job.status == "canceled":
            self.release(owner, o.id)
            return Ack.GONE
        if job.dependents:
            return Ack.HAS_DEPENDENTS
        self.release(owner, o.id)
        self.record(job, hold, o.kind, o.ttl)
        self.counted[hold.worker][0 if o.kind == RETURNED else 1] += 1
        return Ack.RECORDED

    def release(self, owner: str, job_id: str) -> None:
        hold = self.held[owner].pop(job_id)
        self.seen.discard((hold.queue, job_id))

    def record(self, job: Job, hold: Hold, kind: int, ttl: int) -> None:
        self.settled[job.id].append(hold.claim)
        self.leave_registry(job)
        job.status = "finished" if kind == RETURNED else "failed"
        job.expires = ttl > 0
        self.registries[job.status, job.queue].add(job.id)
        if ttl == 0:
            self.delete(job.id)

    def leave_registry(self, job: Job) -> None:
        """Remove the job from the registry in which its earlier run left it."""
        for status, kind in ENDS.items():
            if job.status == status:
                self.registries[kind, job.queue].discard(job.id)

    def finish_by_rq(self, token: Token, verdict: str, dies: bool = False) -> None:
        """Do RQ's own finish: returned, fail, dead (fail for good) or stop. dies: before the dependents are
        enqueued."""
        (owner, job_id, _), hold, job = token, self.hold(token), self.jobs.get(token[1])
        if hold is None:
            return
        self.release(owner, job_id)
        if job is None or job.status == "canceled":
            return
        self.counted[hold.worker][0 if verdict == "returned" else 1] += 1
        if verdict == "fail" and job.retries:
            self.leave_registry(job)
            job.retries -= 1
            self._push(job)
            job.expires = job.ttl is not None
            return
        self.hand_over(job, {"returned": "finished", "stop": "stopped"}.get(verdict, "failed"))
        self._record_ending(job, hold, verdict)
        if not dies:
            self.bring_on(job_id)

    def _record_ending(self, job: Job, hold: Hold, verdict: str) -> None:
        if verdict == "returned":
            self.record(job, hold, RETURNED, RESULT_TTL if job.result_ttl is None else job.result_ttl)
            return
        self.record(job, hold, RAISED, YEAR if job.failure_ttl is None else job.failure_ttl)
        if verdict == "stop":
            job.status = "stopped"

    def mark(self, token: Token) -> bool:
        owner, job_id, _ = token
        if not (hold := self.hold(token)):
            return False
        job = self.jobs.get(job_id)
        if not job or job.status == "canceled":
            self.release(owner, job_id)
            return False
        hold.intermediate, hold.execution, hold.listed, hold.wip = False, True, True, True
        self.seen.discard((hold.queue, job_id))
        job.status, job.expires = "started", False
        return True

    def give_back(self, tokens: Sequence[Token]) -> int:
        return sum(self._requeue(t[0], t[1]) for t in sorted(tokens, key=lambda t: -t[2]) if self.hold(t))

    def _requeue(self, owner: str, job_id: str) -> int:
        hold = self.held[owner][job_id]
        self.release(owner, job_id)
        job = self.jobs.get(job_id)
        if job is None or job.status in DECIDED:
            return 0
        if job.status == "started":
            job.status, job.expires = "queued", job.ttl is not None
        self._push_back(job, hold.claim)
        return 1

    def _push_back(self, job: Job, claim: int) -> None:
        """Put the job behind the last returned job with an earlier claim, else at the head."""
        queue, back = self.queues[job.queue], self.back[job.queue]
        job.order = order = claim if job.order is None else job.order
        older = [(back[i], at) for at, i in enumerate(queue) if self._stands_returned(i, back) and back[i] < order]
        queue.insert(max(older)[1] + 1 if older else 0, job.id)
        back[job.id] = order

    def _stands_returned(self, job_id: str, back: dict[str, int]) -> bool:
        """Return whether the job was returned and is no later job of the same id."""
        return job_id in back and job_id in self.jobs and self.jobs[job_id].order == back[job_id]

    def heartbeat(self, worker: str) -> int:
        """Renew running jobs; executions that were deleted meanwhile are removed from the list."""
        listed = [(i, h) for holds in self.held.values() for i, h in holds.items() if h.listed and h.worker == worker]
        for job_id, hold in listed:
            hold.listed = job_id in self.jobs
        return sum(hold.listed for _, hold in listed)

    def reconcile(self, owner: str, known: Collection[int]) -> int:
        if owner not in self.held:
            return -1
        strangers = [(owner, i, h.claim) for i, h in self.held[owner].items() if h.claim not in known]
        return self.give_back(strangers)

    def stand_in(self, owner: str, newest: int, running: Collection[int], finished: Collection[int]) -> bool:
        """Mark running jobs and give back all others that were held when the page was read; finished ones stay."""
        if owner not in self.held:
            return False
        for job_id, hold in sorted(self.held[owner].items(), key=lambda held: -held[1].claim):
            job = self.jobs.get(job_id)
            if hold.claim in running and job and job.status == "queued":
                self.mark((owner, job_id, hold.claim))
            elif hold.claim <= newest and hold.claim not in (*running, *finished) and job and job.status != "started":
                self._requeue(owner, job_id)
        return True

    def strike_off(self, worker: str) -> None:
        """Strike off a dead tree: delete its list of executions, also for jobs that are left to RQ's own finish."""
        for hold in (hold for holds in self.held.values() for hold in holds.values() if hold.worker == worker):
            hold.listed = False

    # -- rescue --------------------------------------------------------------------------------------------------------

    def rescue(self, owner: str, judge: Judge) -> Rescue | None:
        if owner not in self.held:
            return None
        left: list[ForRQ] = []
        counts = [0, 0, 0, 0]
        for job_id, hold in sorted(self.held[owner].items(), key=lambda held: -held[1].claim):
            if (job := self.jobs.get(job_id)) is None:
                self.release(owner, job_id)
            elif hold.claim not in judge.keep:
                self._rescue_one(owner, job, hold, judge, counts, left)
        if not left and not judge.keep:
            del self.held[owner]
        return Rescue(counts[0], counts[1], counts[2], counts[3], tuple(left))

    def _rescue_one(self, owner: str, job: Job, hold: Hold, judge: Judge, counts: list[int], left: list[ForRQ]) -> None:
        verdict = self._verdict(job, hold, judge)
        if job.status in DECIDED:
            self.release(owner, job.id)
        elif verdict is None:
            job.redelivered += judge.running is None
            counts[3] += judge.running is None
            counts[0] += self._requeue(owner, job.id)
        elif (ending := self._ending(job, verdict, judge.on_crash)) is None:
            job.is_suspect = job.is_suspect or verdict == "suspect"
            counts[1] += self._requeue(owner, job.id)
        elif not judge.final and self._needs_rq(job, ending):
            left.append(ForRQ(job.id, hold.claim, hold.queue, ending, CAUSE))
        else:
            self.release(owner, job.id)
            self.counted[hold.worker][1] += 1
            if judge.final:
                self.hand_over(job, "stopped" if ending == "stop" else "failed")
            self._record_ending(job, hold, ending)
            counts[2] += 1

    def _verdict(self, job: Job, hold: Hold, judge: Judge) -> str | None:
        if judge.running is None:
            return "crash" if job.status == "started" else None
        return judge.running.get(hold.claim)

    def _ending(self, job: Job, verdict: str, on_crash: str) -> str | None:
        """Return how the job ends; None: it runs again."""
        job.crashes += verdict == "crash"
        if verdict in ("stop", "dead"):
            return verdict
        if verdict == "fail" or (job.on_crash or on_crash) == "fail":
            return "fail"
        return "dead" if verdict == "crash" and job.crashes >= MOST_CRASHES else None

    def _needs_rq(self, job: Job, ending: str) -> bool:
        return ending == "stop" or (ending == "fail" and job.retries > 0) or bool(job.dependents)
