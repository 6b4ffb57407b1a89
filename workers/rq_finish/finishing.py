"""Keep one job between its end and the record of its outcome by RQ's own code.

Where the slot's thread gets stuck in the user's code meanwhile, a new slot takes the job over and runs less of that
code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobqueue.protocol.outcomes import RAISED, RETURNED, JobOutcome
from jobqueue.protocol.rescue import Verdict
from jobqueue.workers.running.limits import CANNOT_BE_INTERRUPTED
from jobqueue.workers.running.runner import Ending
from jobqueue.workers.shared.endings import decode_text, encode_text

if TYPE_CHECKING:
    from jobqueue.workers.rq_finish.finish import Finisher

NOTHING: Mapping[str, Any] = {}


class Finishing:
    """The outcome that is to be recorded. The slot's thread uses it; after a write-off, the new slot's thread."""

    def __init__(
        self,
        job_id: str,
        claim: int,
        queue: str,
        ending: Ending,
        started: float,
        limit: float,
        changes: Mapping[str, Any] = NOTHING,
        stopped: bool = False,
        plain: bool = False,
    ) -> None:
        """limit: the job's own, in seconds; plain: run no code of the user's."""
        self.job_id, self.claim, self.queue = job_id, claim, queue
        self.ending, self.started, self.limit, self.changes = ending, started, limit, changes
        self.stopped, self.plain = stopped, plain
        self.recorded = False
        self.outcome_in_store: str | None = (
            None  # "finished", "failed", "stopped"; "": it runs again; None: nobody knows
        )
        self.heard: Any = None  # what plugins are to hear of the job

    def record(self, finisher: Finisher) -> None:
        """Record the outcome by RQ's code; the second call does nothing."""
        if self.recorded:
            return
        with finisher.set_up(limit=self.limit, plain=self.plain, on_commit=self._committed):
            if self.stopped:
                finisher.finish_stopped(self.job_id, self.claim, self.queue, self.ending, self.started)
            else:
                finisher.finish(self.job_id, self.claim, self.queue, self.ending, self.started, self.changes)
        self.recorded = True

    def outcome(self) -> JobOutcome:
        """Return the failure for the journal."""
        ids, payload = (self.job_id, self.claim, self.queue), self.ending.payload
        verdict = Verdict.STOP if self.stopped else Verdict.FAIL
        return JobOutcome(*ids, RAISED, 0, payload, "", "", self.started, 0.0, by_rq=verdict.value)

    def _committed(self, outcome: str) -> None:
        self.recorded, self.outcome_in_store = True, outcome

    def forget(self) -> None:
        """Drop the references to the job's objects. This may run their code (``__del__``)."""
        self.ending, self.changes = self.ending._replace(value=None, error=None), NOTHING

    def taken_over(self, error: type[BaseException]) -> Finishing:
        """Return what a new slot has to record when this slot is stuck after ``error`` was raised in it. A success
        becomes a failure, and the job's failure callback is called; a failure is recorded as it is, without any code of
        the user's. The child watchdog calls this."""
        plain = self.stopped or self.ending.kind != RETURNED
        what = f"{error()} {CANNOT_BE_INTERRUPTED}"
        text = f"{decode_text(self.ending.payload).rstrip()}\n{what}\n" if plain else f"{error.__name__}: {what}"
        payload = encode_text(text)
        left = Finishing(
            *(self.job_id, self.claim, self.queue, Ending(RAISED, payload), self.started, self.limit),
            stopped=self.stopped,
            plain=plain,
        )
        left.recorded, left.heard = self.recorded, self.heard
        return left
