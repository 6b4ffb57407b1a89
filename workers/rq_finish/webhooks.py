"""Send the webhooks of jobs, each within a time limit for all of it.

A webhook's own timeout limits each wait for the network only: a server that sends a byte now and then would keep the
process, and the jobs behind it, for as long as it likes.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Any

from rq.job import Job, JobStatus
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty

log = logging.getLogger(__name__)

TIMES = 2  # the webhook's timeout: to connect, and to be answered
A_DAY = 86_400  # seconds; a longer limit no alarm can have


class _InOneLine(logging.Filter):
    """Say of a webhook that was given up in one line why; RQ logs a traceback that ends in code of ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(error, JobTimeoutException):
            record.msg, record.exc_info = f"{record.getMessage()}: {error}", None
            record.args = ()
        return True


logging.getLogger("rq.webhook").addFilter(_InOneLine())


class LimitedWebhooks(Job):
    """A job whose webhooks have limits. In processes without slots, an alarm interrupts them."""

    def limited(self, seconds: int) -> AbstractContextManager[Any]:
        """Limit the code inside."""
        penalty: AbstractContextManager[Any] = UnixSignalDeathPenalty(seconds, JobTimeoutException)
        return penalty

    def send_webhooks(self, status: str | JobStatus, *, exc_string: str | None = None) -> None:
        """Send each in turn, as RQ does; log and leave one that takes too long."""
        webhooks = self.webhooks
        try:
            for webhook in webhooks:
                self.webhooks, limit = [webhook], min(TIMES * webhook.timeout, A_DAY)
                try:
                    with self.limited(limit):
                        super().send_webhooks(status, exc_string=exc_string)
                except JobTimeoutException:  # RQ logs what it can catch itself
                    log.warning("job %s: a webhook was given up after %d s", self.id, limit)
        finally:
            self.webhooks = webhooks
