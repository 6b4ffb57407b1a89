"""Find which of RQ's methods a user's class overrides, and which were patched: our engine would not call those."""

from __future__ import annotations

from typing import Any

from rq.job import Job
from rq.queue import Queue
from rq.worker import BaseWorker, SimpleWorker, Worker

import jobqueue.job
import jobqueue.producing.queue
from jobqueue.workers.rq_finish.rq_objects import FinishingJob
from jobqueue.workers.running.current import CurrentJob

# Attributes that are settings, not behaviour: the engine reads them too.
SETTINGS = {"queue_class", "job_class", "death_penalty_class", "log_result_lifespan", "log_job_description"}


def _code_of(cls: type) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if name not in SETTINGS and not name.startswith("__")}


_as_made: dict[type, dict[str, Any]] = {}


def remember(*classes: type) -> None:
    """Keep the attributes of the classes, so that ``patched`` can tell later what was changed."""
    _as_made.update((cls, _code_of(cls)) for cls in classes)


remember(BaseWorker, Worker, SimpleWorker, Job, Queue)
_OURS = (jobqueue.job.Job, jobqueue.producing.queue.Queue)
_ON_TOP = (CurrentJob, FinishingJob)


def what_overrides(cls: type) -> str:
    """Return what a job or queue class overrides of RQ's class, or of the subclass that we make of it; "": nothing."""
    base = Job if issubclass(cls, Job) else Queue
    return overridden(cls, base, base, *(_ON_TOP if base is Job else ())) or patched(base)


def overridden(cls: type, until: type, *bases: type) -> str:
    """Return the first attribute that a class below ``until`` defines and one of ``bases`` has too, as CLASS.NAME."""
    for below in cls.__mro__[: cls.__mro__.index(until)]:
        if below in _OURS:
            break
        for name in _code_of(below):
            if any(hasattr(base, name) for base in bases):
                return f"{below.__name__}.{name}"
    return ""


def patched(cls: type) -> str:
    """Return the first attribute that was changed since ``remember``, as CLASS.NAME; "": none."""
    original = _as_made[cls]
    changed = (name for name, value in _code_of(cls).items() if name not in original or value is not original[name])
    return next((f"{cls.__name__}.{name}" for name in changed), "")
