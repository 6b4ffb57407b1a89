"""End a job by RQ's own code, with its callbacks, retries, dependents and webhooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rq.timeouts import JobTimeoutException

from jobqueue.clock import monotonic
from jobqueue.protocol.outcomes import RAISED
from jobqueue.workers.child.consumer import Consumer
from jobqueue.workers.rq_finish.finishing import Finishing
from jobqueue.workers.rq_finish.limits import FinishLimits
from jobqueue.workers.running.limits import Interruptible
from jobqueue.workers.shared.endings import JOB, PLUGIN, RECORDING
from jobqueue.workers.shared.journal import SharedPage

if TYPE_CHECKING:
    from jobqueue.workers.rq_finish.finish import Finisher


class SlotFinish:
    """Finishes the jobs of one slot, one at a time, in the slot's thread. The child watchdog reads ``finishing`` and
    ``since``."""

    def __init__(
        self,
        slot: Interruptible,
        number: int,
        page: SharedPage,
        consumer: Consumer,
        make_finisher: Callable[[FinishLimits], Finisher],
    ) -> None:
        """make_finisher: called for the first job that needs it, as it imports a lot."""
        self._number = number
        self._page = page
        self._consumer = consumer
        self._make_finisher = make_finisher
        self._finisher: Finisher | None = None
        self._limits = FinishLimits(slot, self._show)
        self.finishing: Finishing | None = None  # the outcome that is being recorded
        self.since = 0.0  # monotonic seconds: when that, or a plugin's code, has begun; 0: neither runs

    def record(self, finishing: Finishing) -> None:
        """Have RQ's own code record this end."""
        self._show(RECORDING, 0.0)
        if finishing.ending.kind == RAISED and not finishing.recorded:
            self._consumer.note(finishing.outcome())
        self.since = monotonic()
        self.finishing = finishing
        if self._finisher is None:
            self._finisher = self._make_finisher(self._limits)
        finishing.record(self._finisher)
        with self._limits.stretch(finishing.limit):
            finishing.forget()
        self.finishing, self.since = None, 0.0
        self._page.allow(self._number, JOB, 0.0, 0.0)
        self._consumer.let_go(finishing.claim, self._number)

    @contextmanager
    def limited(self, limit: float) -> Iterator[None]:
        """Limit what a plugin does behind the job's end, in seconds. What is raised at the limit ends here."""
        self.since = monotonic()
        try:
            with self._limits.limited(PLUGIN, limit):
                yield
        except JobTimeoutException:
            pass
        self.since = 0.0
        self._page.allow(self._number, JOB, 0.0, 0.0)

    def _show(self, what: int, limit: float) -> None:
        """Show on the page what runs after the job's end. A wait for the store does not count as a job past its
        limit."""
        self._page.allow(self._number, what, monotonic(), limit)
