"""What the processes of the machine know: less than the model (a reply was lost), or an earlier state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import redis
from model_owners import CAUSE, RESULT_TTL, YEAR
from rq.timeouts import BaseDeathPenalty

from jobqueue.protocol.claims import Claimed
from jobqueue.protocol.cycle import Cycle
from jobqueue.protocol.outcomes import RAISED, RETURNED, Ack, JobOutcome
from jobqueue.protocol.rescue import ForRQ, Verdict
from jobqueue.store.connection import Address
from jobqueue.workers.rq_finish.finish import Finisher
from jobqueue.workers.running.runner import DecodedCall, Ending
from jobqueue.workers.shared.endings import encode_text
from jobqueue.workers.shared.settings import Settings

QUEUES = ("high", "low")
THEN = "2026-01-01T00:00:00.000000Z"


@dataclass(repr=False)
class Run:
    """A job that a child holds, as the child sees it."""

    job: Claimed
    phase: Literal["buffered", "running", "finished", "for RQ"] = "buffered"
    kind: int = RETURNED
    in_journal: bool = False

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))

    def __repr__(self) -> str:
        return f"{self.job.id}/{self.job.claim} {self.phase}"

    @property
    def needs_rq(self) -> bool:
        features = self.job.features
        return features.success_by_rq if self.kind == RETURNED else features.failure_by_rq

    @property
    def for_rq(self) -> ForRQ:
        verdict = Verdict.RETURNED if self.kind == RETURNED else Verdict.FAIL
        return ForRQ(self.job.id, self.job.claim, self.job.queue, verdict, CAUSE)

    @property
    def outcome(self) -> JobOutcome:
        job = self.job
        ttl = job.result_ttl if self.kind == RETURNED else job.failure_ttl
        ttl = (RESULT_TTL if self.kind == RETURNED else YEAR) if ttl is None else ttl
        return outcome(job.id, job.claim, job.queue, self.kind, ttl)


def outcome(job_id: str, claim: int, queue: str, kind: int, ttl: int) -> JobOutcome:
    return JobOutcome(job_id, claim, queue, kind, ttl, encode_text("x"), THEN, THEN, 1.0, 2.0)


class Look(NamedTuple):
    """What the supervisor read from the page of a child that does not react."""

    newest: int  # the last claim that was made before
    running: list[int]
    finished: list[int]


@dataclass(repr=False)
class Process:
    """A child. A rescue strikes its name off; if it is only slow, it continues to run after that."""

    owner: str
    worker: str
    dead: bool = False
    struck: bool = False
    revoked: bool = False  # the supervisor stood in for it: it asks before it starts a job
    looks: list[Look] = field(default_factory=list)  # read by the supervisor, which has not acted on it yet
    doubtful: set[int] = field(default_factory=set)  # jobs that slots held when it came back
    disturbed: bool = False  # a reply was lost: RECONCILE comes before anything else on this connection
    runs: dict[int, Run] = field(default_factory=dict)
    left: list[ForRQ] = field(default_factory=list)  # left by a rescue to RQ's own finish

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))

    def __repr__(self) -> str:
        states = [name for name in ("dead", "struck", "revoked", "disturbed", "left") if getattr(self, name)]
        return " ".join([self.owner, *states, str(list(self.runs.values()))])

    def of(self, *phases: str) -> list[Run]:
        return [run for run in self.runs.values() if run.phase in phases]

    @property
    def journal(self) -> list[JobOutcome]:
        return [run.outcome for run in self.runs.values() if run.phase == "finished" or run.in_journal]

    @property
    def running(self) -> list[int]:
        return [run.job.claim for run in self.of("running", "for RQ") if not run.in_journal]

    def learn(self, cycle: Cycle) -> None:
        """Let the process receive the reply to CYCLE."""
        for run, verdict in zip(self.of("finished"), cycle.acks, strict=True):
            if verdict == Ack.HAS_DEPENDENTS:
                run.phase, run.in_journal = "for RQ", True
            else:
                self.drop([run.job.claim])
        self.runs |= {job.claim: Run(job) for job in cycle.jobs}

    def drop(self, claims: list[int]) -> None:
        for claim in claims:
            self.runs.pop(claim, None)

    def finish_by_rq(self, client: redis.Redis, job: ForRQ, dies: bool = False) -> None:
        """Do RQ's finish as the child does it, or a finish process if the child is dead; ``dies``: as soon as the end
        is recorded."""
        settings = Settings(Address(url=""), self.worker, QUEUES, children=1, slots=1)
        finisher = Finisher(settings, self.owner, client, BaseDeathPenalty)
        if dies:
            finisher._enqueue_dependents = lambda fence: None  # type: ignore[method-assign]
        ending = (
            finisher.runner.returned(1, DecodedCall(len, (), {}, "json", "builtins.len"))
            if job.verdict is Verdict.RETURNED
            else Ending(RAISED, job.cause)
        )
        ways = {Verdict.FAIL_FOR_GOOD: finisher.finish_for_good, Verdict.STOP: finisher.finish_stopped}
        ways.get(job.verdict, finisher.finish)(job.id, job.claim, job.queue, ending, 1.0)
