"""Hold the outcome of each job of a child, from the slot that ran it until the store has acknowledged it.

    slot ── add ──► finished ── depart ──► in flight ── acknowledged ──► recorded
                       ▲                       │  └─► for RQ ── hand over ──► a slot ── let go ──► recorded
                       └────── came back ──────┘

What is not recorded yet stands in the journal on the shared page, where the supervisor finds it when this process is
killed. An outcome that is too large for the journal is unwritten: its slot waits here with it until it is recorded, and
the page says until then that the job runs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from jobqueue.protocol.outcomes import Ack, JobOutcome
from jobqueue.workers.shared.journal import DONE, UNSETTLED, SharedPage
from jobqueue.workers.shared.refusals import Refusals, refused_text

log = logging.getLogger(__name__)


class Outbox:
    """Hold each outcome until it is recorded. The consumer's lock guards it."""

    def __init__(self, page: SharedPage) -> None:
        self._page = page
        self.finished: list[JobOutcome] = []  # to be sent
        self.in_flight: list[JobOutcome] = []  # sent, without a reply yet
        self.for_rq: list[JobOutcome] = []  # RQ's own finish has to record it: a slot is to take it
        self._with_rq: dict[int, JobOutcome] = {}  # by claim: a slot has taken it
        self._kept: list[JobOutcome] = []  # finished before the request that is on its way, and not in it
        self._unwritten: set[int] = set()  # claims whose outcomes are too large for the journal
        self._resent: set[int] = set()  # claims whose outcome may be recorded: sent before, or by the supervisor
        self._refused: dict[int, str] = {}  # by claim: why the store does not take the outcome
        self.refusals = Refusals()

    # -- from slots and to slots ---------------------------------------------------------------------------------------

    def add(self, outcome: JobOutcome) -> bool:
        """Take over the outcome of a job. Return whether it is in the journal, where a kill does not lose it."""
        self.finished.append(outcome)
        self._page.set(UNSETTLED, 1)
        return self._page.journal.append(outcome)

    def hold(self, outcome: JobOutcome) -> None:
        """Note that a slot waits until its outcome, which is not in the journal, is acknowledged."""
        self._unwritten.add(outcome.claim)

    def is_on_its_way(self, outcome: JobOutcome) -> bool:
        return outcome in self.finished or outcome in self.in_flight

    def release(self, outcome: JobOutcome) -> bool:
        """Undo ``hold``. Return whether the slot has to let RQ's own finish record the outcome."""
        left = outcome.claim not in self._unwritten
        self._unwritten.discard(outcome.claim)
        return left

    def hand_over(self) -> JobOutcome:
        """Return an outcome that RQ's own finish has to record, for the slot that lets it."""
        outcome = self.for_rq.pop()
        self._with_rq[outcome.claim] = outcome
        return outcome

    def note(self, outcome: JobOutcome) -> None:
        """Write a failure that RQ's own finish is about to record into the journal, if that has room."""
        self._with_rq[outcome.claim] = outcome
        self._page.set(UNSETTLED, 1)
        self._page.journal.append(outcome)

    def let_go(self, claim: int) -> None:
        """Note that RQ's own finish has recorded the outcome of this job, or that the job was given back."""
        self._with_rq.pop(claim, None)
        self._page.set(DONE, self._page.get(DONE) + 1)
        self._say_what_is_owed()

    def why_refused(self, claim: int) -> str:
        """Return why the store has refused the outcome of this job, and forget it; "" if it has not."""
        return self._refused.pop(claim, "")

    # -- with requests -------------------------------------------------------------------------------------------------

    def portion(self) -> list[JobOutcome]:
        """Return the outcomes for the next request: all that wait, or, after the store has refused one, a part of
        them."""
        self.may_be_settled_by_others(self._page.revoked)
        self._kept = []
        if not self.refusals:
            return self.finished
        going = self.refusals.portion(self.finished)
        claims = {outcome.claim for outcome in going}
        self._kept = [outcome for outcome in self.finished if outcome.claim not in claims]
        return going

    @property
    def keeps_some(self) -> bool:
        """Whether the last ``portion`` left outcomes out."""
        return bool(self._kept)

    def depart(self, portion: list[JobOutcome]) -> None:
        """Note that the last ``portion`` is being sent. Later outcomes go into the journal's other half."""
        self.in_flight, self.finished = portion, list(self._kept)  # two lists: only one of them grows
        self._page.journal.switch()

    def acknowledged(self, acks: Sequence[Ack]) -> None:
        """Take the store's answer to the outcomes in flight."""
        self.may_be_settled_by_others(self._page.revoked)
        outcomes, self.in_flight = self.in_flight, []
        self.refusals.passed(outcomes)
        for outcome, ack in zip(outcomes, acks, strict=True):
            self._acknowledged(outcome, ack)
        # those that RQ's own finish has not recorded yet stand in the half that goes: move them before it does
        if all(self._page.journal.append(o) for o in (*self.for_rq, *self._with_rq.values(), *self._kept)):
            self._page.journal.sent_is_settled()
        self._say_what_is_owed()

    def fenced(self) -> None:
        """Take the store's answer that the owner's name was struck off, so that it has recorded no outcome."""
        self.acknowledged([Ack.LOST] * len(self.in_flight))

    def came_back(self, error: Exception) -> None:
        """Take back the outcomes in flight after an error. Each may be recorded or not: it is sent again, and counts
        only if its token is still there."""
        self._resent.update(outcome.claim for outcome in self.in_flight)
        if self.refusals.refused(self.in_flight, error):
            self._give_up(self.in_flight.pop(), error)
        self.finished[:0] = self.in_flight
        self.in_flight = []
        self._page.journal.sent_came_back()

    def may_be_settled_by_others(self, perhaps: bool) -> None:
        """Do not warn of missing tokens later, if ``perhaps``: this process was stopped, and the supervisor may have
        settled what is finished."""
        if perhaps:
            self._resent.update(outcome.claim for outcome in (*self.finished, *self.in_flight))

    def _acknowledged(self, outcome: JobOutcome, ack: Ack) -> None:
        if ack is Ack.HAS_DEPENDENTS and outcome.claim in self._unwritten:
            self._unwritten.discard(outcome.claim)  # its slot waits for this and takes it back
            return
        if ack is Ack.HAS_DEPENDENTS:
            self.for_rq.append(outcome)
            return
        self._page.set(DONE, self._page.get(DONE) + 1)
        if outcome.claim in self._resent:
            self._resent.discard(outcome.claim)  # a missing token is expected: the first request may have recorded it
        elif ack is Ack.LOST:
            log.warning("job %s is no longer ours: its outcome is not recorded", outcome.id, extra=_fields(outcome))

    def _give_up(self, outcome: JobOutcome, error: Exception) -> None:
        """Give up an outcome that the store will never take: its job fails, by RQ's own finish."""
        self._refused[outcome.claim] = refused_text(len(outcome.payload), error)
        text = "job %s: the store refuses its outcome (%d bytes): %s"
        log.warning(text, outcome.id, len(outcome.payload), error, extra=_fields(outcome))
        if outcome.claim in self._unwritten:
            self._unwritten.discard(outcome.claim)  # its slot waits for this and takes it back
        else:
            self.for_rq.append(outcome)

    # -- what there is -------------------------------------------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """Whether the store has all outcomes, apart from those that RQ's own finish is recording in a slot."""
        return not (self.finished or self.in_flight or self.for_rq)

    @property
    def claims(self) -> list[int]:
        """The claims of the jobs whose outcomes wait here."""
        return [outcome.claim for outcome in (*self.finished, *self.for_rq)]

    def are_all_unwritten(self, claims: set[int]) -> bool:
        """Whether the slots of all these claims wait for an ack, and for nothing else."""
        return claims <= self._unwritten

    def _say_what_is_owed(self) -> None:
        """Write on the page whether the store may lack an outcome."""
        self._page.set(UNSETTLED, int(not self.is_settled or bool(self._with_rq)))


def _fields(outcome: JobOutcome) -> dict[str, str]:
    """Return the fields of a log line about this job, as its own context is not there any more."""
    return {"job": outcome.id, "queue": outcome.queue}
