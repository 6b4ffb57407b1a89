"""Decide whether our engine may run a worker's jobs, or RQ's own loop has to.

A method of RQ's worker, job or queue that is overridden, in a subclass, on an instance or by patching (Sentry does),
has to be called as RQ calls it. Then RQ's own loop runs the worker. This is decided once, when ``work()`` begins.
"""

from __future__ import annotations

import threading

from rq.timeouts import UnixSignalDeathPenalty
from rq.worker import BaseWorker

from jobqueue.workers.rq_finish.overrides import SETTINGS, overridden, patched, what_overrides


def why_rq(worker: BaseWorker, ours: type, theirs: type) -> str:
    """Return why RQ's own loop has to run this worker; "": the engine may. ``ours``: the class of ours that the worker
    is an instance of; ``theirs``: the class of RQ's that it replaces."""
    if threading.current_thread() is not threading.main_thread():
        return "it is not in the main thread"
    if worker.death_penalty_class is not UnixSignalDeathPenalty:
        return f"its death_penalty_class is {worker.death_penalty_class.__name__}"
    was_patched = next(filter(None, map(patched, (ours, *ours.__bases__, BaseWorker, theirs))), "")
    found = overridden(type(worker), ours, BaseWorker) or was_patched
    methods = (name for name in vars(worker) if callable(getattr(BaseWorker, name, None)) and name not in SETTINGS)
    found = found or next(methods, "")
    for cls in {worker.job_class, worker.queue_class, *(type(q) for q in worker.queues)}:
        found = found or what_overrides(cls)
    return f"{found} is overridden" if found else ""
