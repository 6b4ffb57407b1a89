"""What a rescue leaves to RQ's own code: failure and stopped callbacks, retries, dependents, webhooks.

That is user code, so it runs in the main thread of a short-lived child, which acts for the dead owner under its
tokens. When it dies as well, another does it without code of the user's; when that dies too, the supervisor's second,
final rescue fails what is left without it.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Collection, Sequence

import redis

from jobqueue.protocol.rescue import ForRQ
from jobqueue.store.connection import client
from jobqueue.workers.rq_finish.alarm_slot import AlarmSlot
from jobqueue.workers.rq_finish.finish import Finisher
from jobqueue.workers.rq_finish.limits import FinishLimits
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)


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
