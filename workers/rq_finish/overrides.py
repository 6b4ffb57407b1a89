"""Which of RQ's methods a user's class overrides, or somebody has patched: our engine would not call those."""

from __future__ import annotations

from typing import Any

from rq.job import Job
from rq.queue import Queue
from rq.worker import BaseWorker, SimpleWorker, Worker

import jobqueue.job
import jobqueue.producing.queue
from jobqueue.workers.rq_finish.rq_objects import FinishingJob
from jobqueue.workers.running.current import CurrentJob

# Settings rather than behaviour: who sets these wants something that the engine does too.
SETTINGS = {"queue_class", "job_class", "death_penalty_class", "log_result_lifespan", "log_job_description"}


def _code_of(cls: type) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if name not in SETTINGS and not name.startswith("__")}


_as_made: dict[type, dict[str, Any]] = {}


def remember(*classes: type) -> None:
    """Keep how the classes are made, to notice later that somebody patched one."""
    _as_made.update((cls, _code_of(cls)) for cls in classes)


remember(BaseWorker, Worker, SimpleWorker, Job, Queue)
_OURS = (jobqueue.job.Job, jobqueue.producing.queue.Queue)
_ON_TOP = (CurrentJob, FinishingJob)


def what_overrides(cls: type) -> str:
    """What a job or queue class does instead of RQ's, or of what we put on top of it; "": it only adds."""
    base = Job if issubclass(cls, Job) else Queue
    return overridden(cls, base, base, *(_ON_TOP if base is Job else ())) or patched(base)


def overridden(cls: type, until: type, *bases: type) -> str:
    """What classes below ``until`` define although one of ``bases`` has it too."""
    for below in cls.__mro__[: cls.__mro__.index(until)]:
        if below in _OURS:
            break
        for name in _code_of(below):
            if any(hasattr(base, name) for base in bases):
                return f"{below.__name__}.{name}"
    return ""


def patched(cls: type) -> str:
    """What of the class is not as it was made."""
    original = _as_made[cls]
    changed = (name for name, value in _code_of(cls).items() if name not in original or value is not original[name])
    return next((f"{cls.__name__}.{name}" for name in changed), "")
