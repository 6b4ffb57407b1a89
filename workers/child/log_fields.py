"""Give each log record of a job, also those of the user's own loggers, the fields of jobqueue/logs.py.

This is done where all records pass, in ``logging.Logger.handle``: so it works whatever a module or a job does to
handlers, levels, filters and factories, at its import or later, and changes none of them. Outside of jobs it is one
look at a context variable per record. A thread that a job starts begins with an empty context: its records have no
fields.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jobqueue import logs
from jobqueue.protocol.claims import Claimed
from jobqueue.workers.child.task_name import task_name

Handle = Callable[[logging.Logger, logging.LogRecord], None]


def name_jobs_in_logs(worker: str) -> None:
    """Do this in the whole process, from now on, with this worker's name. Twice is once."""

    def describe(job: Any) -> Mapping[str, Any]:
        found = {"job": job.id, "queue": job.queue, "worker": worker}
        if isinstance(job, Claimed):  # a job of a dead owner is known by its token only
            found |= {"task": task_name(job.data).replace(":", "."), "attempt": job.features.attempt}
        return found

    logs.describe_with(describe)
    before: Any = logging.Logger.handle
    if not hasattr(before, "jobq"):
        logging.Logger.handle = _with_fields(before)  # type: ignore[method-assign, assignment]


@contextlib.contextmanager
def jobs_named_in_logs(worker: str) -> Iterator[None]:
    """Do the same while inside, and undo it: for a process that is not ours."""
    before = logging.Logger.handle
    name_jobs_in_logs(worker)
    ours = logging.Logger.handle
    try:
        yield
    finally:
        if logging.Logger.handle is ours:
            logging.Logger.handle = before  # type: ignore[method-assign]


def _with_fields(handle: Handle) -> Handle:
    def handle_with_fields(self: logging.Logger, record: logging.LogRecord) -> None:
        logs.add_fields(record)
        handle(self, record)

    handle_with_fields.jobq = True  # type: ignore[attr-defined]
    return handle_with_fields
