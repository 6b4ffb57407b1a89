"""Give back claimed jobs that this child should not keep: behind long jobs, at a shutdown, after it held still.

The child watchdog calls these methods; what has to wait for Redis is handed to the request thread.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobqueue.protocol.claims import Claimed, Token
from jobqueue.workers.child.consumer import Consumer
from jobqueue.workers.child.prefetch import LONG
from jobqueue.workers.child.request_thread import RequestThread
from jobqueue.workers.child.slot import Slot
from jobqueue.workers.child.supervisor_link import SupervisorLink
from jobqueue.workers.shared.journal import CAME_BACK, REVOKED, SharedPage
from jobqueue.workers.shared.messages import Dropped

RECONCILE_EVERY = 30.0  # seconds


class GiveBack:
    """Takes jobs out of the consumer's buffer and returns them to their queues."""

    def __init__(
        self,
        owner: str,
        page: SharedPage,
        consumer: Consumer,
        slots: Sequence[Slot],
        request_thread: RequestThread,
        now: float,
    ) -> None:
        self._owner = owner
        self._page = page
        self._consumer = consumer
        self._slots = slots
        self._request_thread = request_thread
        self._is_answering = False  # a revocation
        self._is_returning = False  # a give-back is on its way
        self._next_reconcile = now + RECONCILE_EVERY  # monotonic seconds

    def step(self, now: float) -> None:
        """Give back jobs, if that is due."""
        if not self._is_returning and self.keeps_others_waiting and self._all_are_long(now):
            self._is_returning = True
            self._request_thread.do(self.return_buffer)
        if self._page.revoked and not self._is_answering:
            self._is_answering = True
            self._request_thread.do(self._answer)
        if now >= self._next_reconcile:
            self._next_reconcile = now + RECONCILE_EVERY
            self._request_thread.do_if_awake(self._consumer.reconcile)

    @property
    def keeps_others_waiting(self) -> bool:
        """Whether jobs or outcomes wait behind running jobs."""
        return self._consumer.holds_up or self._consumer.lets_wait

    def _all_are_long(self, now: float) -> bool:
        """Return whether all slots are busy with long jobs or callbacks, so that jobs behind them had better go to
        another child."""
        return not any(now - (slot.busy_since or now) < LONG for slot in self._slots)

    def return_buffer(self) -> None:
        """(request thread) Settle finished jobs, and give back the buffered ones."""
        try:
            self._consumer.settle()
            self._return(self._consumer.drop_buffer())
        finally:
            self._is_returning = False

    def _answer(self) -> None:
        """(request thread) Drop the buffer that the supervisor gave back while this process held still, before any of
        its jobs starts. This confirms the revocation that was seen before the drop, not one that comes meanwhile."""
        revoked = self._page.get(REVOKED)
        try:
            dropped = self._consumer.drop_buffer(at_rest=True)
            self._page.set(CAME_BACK, revoked)
        finally:
            self._is_answering = False
        self._return(dropped)

    def quiet(self, link: SupervisorLink) -> None:
        """(request thread) Claim nothing more, and tell the supervisor which jobs have not started: it gives back those
        of all children in one step, so that the order of the queues stays."""
        link.tell(Dropped(self._tokens(self._consumer.drop_buffer(quiet=True))))

    def withdraw(self) -> None:
        """Claim nothing more, and give back the jobs that have not started."""
        self._return(self._consumer.drop_buffer(quiet=True))

    def _return(self, dropped: Sequence[Claimed]) -> None:
        tokens = self._tokens(dropped)
        self._request_thread.do(lambda: self._request_thread.give_back(tokens))

    def _tokens(self, jobs: Sequence[Claimed]) -> tuple[Token, ...]:
        return tuple(job.token(self._owner) for job in jobs)
