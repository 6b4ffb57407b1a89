"""Stand in for a child that holds still: do in the store what the child cannot do while, for example, C code holds the
GIL.

Its running jobs get their start marks, jobs that wait behind them are given back, finished ones are recorded. The child
may react again at any moment, and all this may be late: jobs that it claims from here on are left alone, and it starts
none of those that its slots hold before it has asked Redis, because its page is revoked first.
"""

from __future__ import annotations

import time

from jobqueue.protocol.protocol import Protocol
from jobqueue.workers.roles.settling import settle
from jobqueue.workers.shared.deaths import EXECUTION_TTL
from jobqueue.workers.shared.journal import PULSE, SharedPage
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.shared.timestamps import rq_time


def stand_in(protocol: Protocol, settings: Settings, owner: str, page: SharedPage, pulse: int) -> None:
    """Stand in for the child of this owner name, which held still at ``pulse``; do nothing if it has moved since. Runs
    in the roles thread; may be repeated."""
    newest = protocol.newest_claim()
    if page.get(PULSE) != pulse:
        return
    page.revoke()
    time.sleep(0.001)  # a slot that was about to start a job has written its claim by now, or asks Redis
    now, monotonic = time.time(), time.monotonic()
    running = [(job.claim, rq_time(now - (monotonic - job.start))) for job in page.running()]
    try:
        finished = list(page.journal.read())
        if list(page.journal.read()) != finished or not page.revoked:  # the child reacts again
            return
    except (ValueError, EOFError, TypeError):
        return
    finished = [outcome for outcome in finished if not outcome.by_rq]
    done = [outcome.claim for outcome in finished]
    protocol.stand_in(owner, settings.worker, EXECUTION_TTL, newest, running, done)
    for _ in settle(protocol, settings, owner, finished):
        pass
