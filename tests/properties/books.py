"""Record where each claim is, as far as an observer knows who sees only what the child received and sent."""

from __future__ import annotations

from jobqueue.protocol.claims import Claimed
from jobqueue.protocol.cycle import Cycle
from jobqueue.protocol.outcomes import Ack, JobOutcome
from jobqueue.workers.shared.journal import BUFFERED, DONE, UNSETTLED, SharedPage

BUFFER, HAND, FINISHED, FOR_RQ, WITH_RQ, DROPPED, GIVEN_BACK, SETTLED = (
    "in the buffer",
    "in a slot's hands",
    "finished",
    "waits for a slot that has RQ record it",
    "with RQ's own finish",
    "taken out of the buffer",
    "given back",
    "settled",
)
OURS = {BUFFER, HAND, FINISHED, FOR_RQ, WITH_RQ}


class Books:
    """The place of each claim that the child has received: it is in one place, and moves only where it may."""

    def __init__(self) -> None:
        self.place: dict[int, str] = {}
        self.ids: dict[int, str] = {}
        self.outcomes: dict[int, JobOutcome] = {}  # as the slots passed them on
        self.buffer: list[int] = []  # in order
        self.sent: list[int] = []  # sent and not answered, in the order of the request
        self.on_page: set[int] = set()  # what the child's page shows as running
        self.done = 0

    def ours(self) -> set[int]:
        """Return the claims that a reconcile has to name."""
        return {claim for claim, place in self.place.items() if place in OURS}

    def are(self, *places: str) -> list[int]:
        return [claim for claim, place in self.place.items() if place in places]

    def move(self, claim: int, before: str, after: str) -> None:
        place = self.place.get(claim, "nowhere")
        assert place == before, f"claim {claim} is {place}, and not {before}: it is not to be {after}"
        self.place[claim] = after
        self.done += after == SETTLED

    # -- the wire --

    def sending(self, outcomes: list[JobOutcome]) -> None:
        for outcome in outcomes:
            claim = outcome.claim
            assert self.place.get(claim) == FINISHED, f"claim {claim} is {self.place.get(claim)}, and is sent"
            assert outcome == self.outcomes[claim], f"claim {claim} is sent as {outcome}"
        self.sent = [outcome.claim for outcome in outcomes]
        assert len(set(self.sent)) == len(self.sent), f"sent twice in one request: {self.sent}"

    def arrived(self, cycle: Cycle) -> None:
        sent, self.sent = self.sent, []
        for claim, verdict in zip(sent, cycle.acks, strict=True):
            if verdict != Ack.HAS_DEPENDENTS:
                self.move(claim, FINISHED, SETTLED)
            elif claim not in self.on_page:  # otherwise its slot waits for that, and gets it back at once
                self.move(claim, FINISHED, FOR_RQ)
        for job in cycle.jobs:
            assert job.claim not in self.place
            self.place[job.claim], self.ids[job.claim] = BUFFER, job.id
            self.buffer.append(job.claim)

    def refused(self, claim: int) -> None:
        """Note, before a slot gets the outcome, that the store will never accept it."""
        if self.place[claim] == FINISHED:
            self.move(claim, FINISHED, FOR_RQ)

    # -- slots --

    def took(self) -> int:
        """Note that a slot took the next job out of the buffer."""
        claim = self.buffer.pop(0)
        self.move(claim, BUFFER, HAND)
        return claim

    def finishing(self, outcome: JobOutcome) -> None:
        self.outcomes[outcome.claim] = outcome
        self.move(outcome.claim, HAND, FINISHED)

    def dropped(self, jobs: list[Claimed]) -> None:
        """Note that the whole buffer was dropped, in order."""
        claims = [job.claim for job in jobs]
        assert claims == self.buffer, f"dropped {claims}, had {self.buffer}"
        for claim in claims:
            self.move(claim, BUFFER, DROPPED)
        self.buffer.clear()

    # -- what must hold between two turns --

    def agree_with(self, page: SharedPage) -> None:
        """Assert that the page shows what a supervisor needs if the child were killed now."""
        running = {job.claim for job in page.running()}
        assert running == self.on_page, f"the page shows {running} as running, and not {self.on_page}"
        assert page.get(BUFFERED) == len(self.buffer), f"{page.get(BUFFERED)} buffered, not {len(self.buffer)}"
        assert page.get(DONE) == self.done, f"{page.get(DONE)} done, not {self.done}"
        finished = set(self.are(FINISHED, FOR_RQ))
        owed = finished - running
        assert not owed or page.get(UNSETTLED), f"{owed} are finished, and the page says that all is settled"
        kept = {outcome.claim for outcome in page.journal.read()} | running
        forgotten = (finished | set(self.are(WITH_RQ))) - kept
        assert not forgotten, f"a kill would forget how {forgotten} ended"
