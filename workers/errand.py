"""What a rescue leaves to RQ's own code: failure and stopped callbacks, retries, dependents, webhooks.

That is user code, so it runs in the main thread of a short-lived child, which acts for the dead owner under its
tokens. When it dies as well, the supervisor's second, final rescue fails what is left without it.
"""

from __future__ import annotations

import logging
import socket

import redis
from rq.timeouts import UnixSignalDeathPenalty

from jobqueue.connection import client
from jobqueue.protocol import ForRQ
from workers.rq_finish import Finisher
from workers.settings import Settings

log = logging.getLogger(__name__)


class Errand:
    """Finishes the jobs of a dead owner; looks like a Child to whoever starts it."""

    def __init__(self, settings: Settings, owner: str, worker: str, jobs: list[ForRQ], control: socket.socket) -> None:
        store: redis.Redis = client(settings.address)
        self._finisher = Finisher(settings, owner, store, UnixSignalDeathPenalty, worker=worker)
        self._jobs = jobs
        self._control = control  # held open: its end tells the supervisor that we are gone

    def run(self) -> None:
        for job in self._jobs:
            self._finisher.finish_left(job)
