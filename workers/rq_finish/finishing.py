"""One job whose end RQ's own code records, from the job's end to the record; a fresh slot takes it over from a thread
that got stuck in code of the user's, and calls less of that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobqueue.protocol.outcomes import RAISED, RETURNED, JobOutcome
from jobqueue.workers.running.limits import CANNOT_BE_INTERRUPTED
from jobqueue.workers.running.runner import Ending
from jobqueue.workers.shared.endings import decode_text, encode_text

if TYPE_CHECKING:
    from jobqueue.workers.rq_finish.finish import Finisher

NOTHING: Mapping[str, Any] = {}


class Finishing:
    """What is to be recorded. Its slot's thread owns it, and after a write-off that of the fresh slot."""

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
        """limit: the job's own, in seconds; plain: without any code of the user's."""
        self.job_id, self.claim, self.queue = job_id, claim, queue
        self.ending, self.started, self.limit, self.changes = ending, started, limit, changes
        self.stopped, self.plain = stopped, plain
        self.recorded = False

    def record(self, finisher: Finisher) -> None:
        """Record it, by RQ's code."""
        if self.recorded:
            return
        with finisher.set_up(limit=self.limit, plain=self.plain, on_commit=self._committed):
            if self.stopped:
                finisher.finish_stopped(self.job_id, self.claim, self.queue, self.ending, self.started)
            else:
                finisher.finish(self.job_id, self.claim, self.queue, self.ending, self.started, self.changes)
        self.recorded = True

    def outcome(self) -> JobOutcome:
        """For the journal: a failure."""
        ids, payload = (self.job_id, self.claim, self.queue), self.ending.payload
        return JobOutcome(
            *ids, RAISED, 0, payload, "stop" if self.stopped else "fail", "", self.started, 0.0, by_rq=True
        )

    def _committed(self) -> None:
        self.recorded = True

    def forget(self) -> None:
        """Let go of what the job made: that may run code of it."""
        self.ending, self.changes = self.ending._replace(value=None, error=None), NOTHING

    def taken_over(self, error: type[BaseException]) -> Finishing:
        """(child watchdog) What is left to do when this is stuck where ``error`` was raised. A success has become a
        failure, of which the job's failure callback hears; a failure stays what it is, and is recorded without any code
        of the user's."""
        plain = self.stopped or self.ending.kind != RETURNED
        what = f"{error()} {CANNOT_BE_INTERRUPTED}"
        text = f"{decode_text(self.ending.payload).rstrip()}\n{what}\n" if plain else f"{error.__name__}: {what}"
        payload = encode_text(text)
        left = Finishing(
            *(self.job_id, self.claim, self.queue, Ending(RAISED, payload), self.started, self.limit),
            stopped=self.stopped,
            plain=plain,
        )
        left.recorded = self.recorded
        return left
