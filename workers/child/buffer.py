"""Hold the jobs that a child has claimed: those that wait for a slot, in order, and those that slots run.

A job that is to run alone (one of several that ran when their process crashed) is handed out when no slot has a job,
and no other job is handed out before it has ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from jobqueue.protocol.claims import Claimed
from jobqueue.workers.child.prefetch import MOST_PER_CYCLE, Prefetch
from jobqueue.workers.child.strategies import QueueOrder
from jobqueue.workers.shared.journal import BUFFERED, OUT_OF_WORK, SharedPage
from jobqueue.workers.shared.settings import Settings


class Buffer:
    """Hand out claimed jobs, and say how many more to claim. The consumer's lock guards it."""

    def __init__(
        self,
        settings: Settings,
        page: SharedPage,
        on_out_of_work: Callable[[], object],
        on_retire: Callable[[], object],
    ) -> None:
        self._page = page
        self._slots = settings.slots
        self._on_out_of_work = on_out_of_work
        self._on_retire = on_retire
        self._until_retirement = settings.max_jobs  # jobs; below 0: it has asked to retire, or never will
        self._one_is_alone = False  # a slot has a job that has to run alone
        self._asked = 0  # jobs that the last request asked for
        self.jobs: deque[Claimed] = deque()
        self.in_hand: set[int] = set()  # claims that slots have
        self.doubtful: set[int] = set()  # of these, what must not start without asking Redis
        self.order = QueueOrder(settings.queues, settings.dequeue_strategy)
        self.prefetch = Prefetch(settings.slots)
        self.most_more: int | None = None  # jobs that may still be handed out; None: no limit
        self.out_of_work = False  # the queues were found empty
        self.quiet = False  # claim and hand out nothing ever again

    # -- jobs to slots and back ----------------------------------------------------------------------------------------

    def take(self) -> Claimed | None:
        """Return the first job; None if there is none, or if it has to wait until no other job runs."""
        if not self.jobs or self.quiet or self._one_is_alone:
            return None
        if self.jobs[0].features.alone and self._slots > 1:
            if self.in_hand:
                return None
            self._one_is_alone = True
        job = self.jobs.popleft()
        self._page.set(BUFFERED, len(self.jobs))
        self.in_hand.add(job.claim)
        if self.most_more is not None:
            self.most_more -= 1
        self._until_retirement -= 1
        if self._until_retirement == 0:
            self._on_retire()
        return job

    def ended(self, claim: int) -> bool:
        """Note that the job of this claim has left its slot. Return True if a job may start now that had to wait: then
        the slots must be woken."""
        self.in_hand.discard(claim)
        self.doubtful.discard(claim)
        if self._one_is_alone or (self.jobs and self.jobs[0].features.alone):
            self._one_is_alone = False
            return True
        return False

    def drop(self, doubt: bool) -> list[Claimed]:
        """Take out all jobs and return them, to be given back. doubt: the supervisor may have given them back already,
        and also the jobs that slots took meanwhile."""
        if doubt:
            self.doubtful |= self.in_hand
        dropped = list(self.jobs)
        self.jobs.clear()
        if dropped:
            self.order.gave_back(dropped[0].queue)
        self._page.set(BUFFERED, 0)
        self.prefetch.jammed()
        return dropped

    # -- jobs from the queues ------------------------------------------------------------------------------------------

    @property
    def may_claim(self) -> bool:
        """Whether jobs should be requested: the queues may have some, and none waits here."""
        return not (self.out_of_work or self.quiet or self.jobs or self.most_more == 0)

    def want(self, idle: int) -> int:
        """Return how many jobs to request. idle: number of slots that wait for one."""
        if self.quiet:
            return 0
        most = 1 if self.order.changes else MOST_PER_CYCLE
        want = min(most, idle + max(0, self.prefetch.ahead - len(self.jobs)))
        return want if self.most_more is None else min(want, self.most_more - len(self.jobs))

    def asking(self, want: int) -> None:
        """Note how many jobs a request asks for."""
        self._asked = want

    @property
    def is_asking(self) -> bool:
        """Whether the last request asked for jobs."""
        return self._asked > 0

    def arrived(self, jobs: Sequence[Claimed]) -> None:
        """Add the jobs that the last request has claimed."""
        self.jobs.extend(jobs)
        if jobs:
            self.order.took(jobs[-1].queue)
        self._page.set(BUFFERED, len(self.jobs))
        if jobs:
            self.set_out_of_work(False)
            if len(jobs) == self._asked:
                self.prefetch.gave_all()
        elif self._asked:
            self.set_out_of_work(True)

    def set_out_of_work(self, out_of_work: bool) -> None:
        """Note whether the queues are empty, and tell the supervisor when they have become so."""
        self._page.set(OUT_OF_WORK, int(out_of_work))
        if out_of_work and not self.out_of_work:
            self._on_out_of_work()
        self.out_of_work = out_of_work
