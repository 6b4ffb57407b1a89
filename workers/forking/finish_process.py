"""What a rescue leaves to RQ's own code: failure and stopped callbacks, retries, dependents, webhooks.

That is user code, so it runs in the main thread of a short-lived child, which acts for the dead owner under its
tokens. When it dies as well, another does it without code of the user's; when that dies too, the supervisor's second,
final rescue fails what is left without it.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
from collections.abc import Collection, Sequence

import redis

from jobqueue.protocol.rescue import ForRQ
from jobqueue.store.connection import client
from jobqueue.workers.rq_finish.finish import Finisher
from jobqueue.workers.rq_finish.limits import FinishLimits
from jobqueue.workers.running.limits import Interruptible, time_limit_error
from jobqueue.workers.shared.endings import HARD, SUBJECTS
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)


class AlarmSlot(Interruptible):
    """Nobody looks after a finish process: what is limited is interrupted by a timer, and what does not react ends the
    process, by a thread that needs no GIL."""

    def __init__(self) -> None:
        super().__init__()
        self._nowhere = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives

    def enter(self, target: int, limit: float) -> None:
        super().enter(target, limit)
        if limit > 0:
            self._pending = time_limit_error(limit, SUBJECTS[self.what])
            faulthandler.dump_traceback_later(limit + HARD, exit=True, file=self._nowhere)
            signal.setitimer(signal.ITIMER_REAL, limit)

    def leave(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        self._pending = None
        super().leave()


class FinishProcess:
    """Finishes the jobs of a dead owner; looks like a Child to whoever starts it."""

    def __init__(
        self,
        settings: Settings,
        owner: str,
        worker: str,
        jobs: Sequence[ForRQ],
        plain: Collection[int],
        control: socket.socket,
    ) -> None:
        """plain: claims of jobs whose code has held up somebody already: they are recorded without it."""
        store: redis.Redis = client(settings.address)
        self._slot = AlarmSlot()
        self._finisher = Finisher(settings, owner, store, limits=FinishLimits(self._slot), worker=worker)
        self._jobs, self._plain = jobs, plain
        self._control = control  # held open: its end tells the supervisor that we are gone

    def run(self) -> None:
        self._slot.bind()
        for job in self._jobs:
            self._finisher.finish_left(job, plain=job.claim in self._plain)
