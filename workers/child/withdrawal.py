"""Have a process replaced in which a job has changed something that cannot be undone."""

from __future__ import annotations

import contextlib
import logging

from jobqueue.workers.child.slot_parts import SlotParts
from jobqueue.workers.running.monkey_patches import is_patched
from jobqueue.workers.running.resource_limits import resource_limits
from jobqueue.workers.shared.retry import CutOff, retry_request

log = logging.getLogger(__name__)


def put_limits_back() -> None:
    """Undo what a job has done to the limits of this process, before anything else is done in it."""
    if resource_limits.were_set:
        resource_limits.put_back()


def why_unfit(needs_threads: bool) -> str:
    """Undo what can be undone of the changes; return why this process can run no other job, "" if it can.

    needs_threads: jobs and the child's watchdog run in threads here.
    """
    put_limits_back()
    if stuck := resource_limits.stuck:
        return f"a job has lowered {' and '.join(stuck)} and nobody may raise it again"
    if needs_threads and is_patched():  # it cannot wait for anything any more
        return (
            "a job has replaced Python's threads or sockets (monkey.patch_all() of gevent, or monkey_patch() of "
            "eventlet)"
        )
    return ""


def withdraw(parts: SlotParts, why: str) -> None:
    """(a slot's thread) Claim nothing more, ask for another process, and give back the jobs that have not started. No
    other thread does that: it might never run."""
    if parts.consumer.is_quiet:
        return
    tokens = [job.token(parts.owner) for job in parts.consumer.drop_buffer(quiet=True)]
    log.warning("%s: this process takes no more jobs, and another takes its place", why)
    parts.ask_to_retire()
    if tokens:
        with contextlib.suppress(CutOff):  # the supervisor gives them back when this process has ended
            retry_request(lambda: parts.protocol.give_back(parts.settings.worker, tokens), "giving jobs back")
