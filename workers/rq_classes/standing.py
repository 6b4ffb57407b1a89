"""Whether our engine may stand in the place of RQ's loop for a worker, or somebody has a say in how RQ runs jobs.

Who overrides a method of RQ's worker, job or queue, in a subclass, on an instance or by patching (Sentry does), counts
on RQ calling it. Then RQ's own loop runs, method by method. Looked at once, when work() begins.
"""

from __future__ import annotations

import threading
from typing import Any

from rq.job import Job
from rq.queue import Queue
from rq.timeouts import UnixSignalDeathPenalty
from rq.worker import BaseWorker, SimpleWorker, Worker

import jobqueue.job
import jobqueue.producing.producer
from jobqueue.workers.rq_finish.finish import FinishingJob
from jobqueue.workers.running.current import CurrentJob

# Settings rather than behaviour: who sets these wants something that the engine does too.
_SETTINGS = {"queue_class", "job_class", "death_penalty_class", "log_result_lifespan", "log_job_description"}


def _code_of(cls: type) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if name not in _SETTINGS and not name.startswith("__")}


_as_made: dict[type, dict[str, Any]] = {}


def remember(*classes: type) -> None:
    """Keep how the classes are made, to notice later that somebody patched one."""
    _as_made.update((cls, _code_of(cls)) for cls in classes)


remember(BaseWorker, Worker, SimpleWorker, Job, Queue)
_OURS = (jobqueue.job.Job, jobqueue.producing.producer.Queue)
_ON_TOP = (CurrentJob, FinishingJob)


def why_rq(worker: BaseWorker, ours: type, theirs: type) -> str:
    """Why RQ's own loop has to run this worker, whose class is or descends from our ``ours``, which stands in the place
    of ``theirs``; "": the engine may."""
    if threading.current_thread() is not threading.main_thread():
        return "it is not in the main thread"
    if worker.death_penalty_class is not UnixSignalDeathPenalty:
        return f"its death_penalty_class is {worker.death_penalty_class.__name__}"
    patched = next(filter(None, map(_patched, (ours, *ours.__bases__, BaseWorker, theirs))), "")
    found = _overridden(type(worker), ours, BaseWorker) or patched
    methods = (name for name in vars(worker) if callable(getattr(BaseWorker, name, None)) and name not in _SETTINGS)
    found = found or next(methods, "")
    for cls in {worker.job_class, worker.queue_class, *(type(q) for q in worker.queues)}:
        found = found or what_overrides(cls)
    return f"{found} is overridden" if found else ""


def what_overrides(cls: type) -> str:
    """What a job or queue class does instead of RQ's, or of what we put on top of it; "": it only adds."""
    base = Job if issubclass(cls, Job) else Queue
    return _overridden(cls, base, base, *(_ON_TOP if base is Job else ())) or _patched(base)


def _overridden(cls: type, until: type, *bases: type) -> str:
    """What classes below ``until`` define although one of ``bases`` has it too."""
    for below in cls.__mro__[: cls.__mro__.index(until)]:
        if below in _OURS:
            break
        for name in _code_of(below):
            if any(hasattr(base, name) for base in bases):
                return f"{below.__name__}.{name}"
    return ""


def _patched(cls: type) -> str:
    """What of the class is not as it was made."""
    original = _as_made[cls]
    changed = (name for name, value in _code_of(cls).items() if name not in original or value is not original[name])
    return next((f"{cls.__name__}.{name}" for name in changed), "")
