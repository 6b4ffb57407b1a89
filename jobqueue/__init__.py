"""jobq: a Redis job queue whose workers run jobs in threads or in processes, wire-compatible with RQ.

from jobqueue import Queue
with Queue() as queue:
    print(queue.enqueue("square", 5).result())
"""

from __future__ import annotations

import importlib
import sys

TYPE_CHECKING = False  # importing typing takes a while, in which a command line's first signal may come
if TYPE_CHECKING:
    from typing import Any

    from rq import get_current_job

    from jobqueue.errors import (
        BadArguments,
        BadValue,
        BrokenWorkers,
        DuplicateJob,
        JobCanceled,
        JobError,
        JobFailed,
        JobqError,
        JobStopped,
        NoSuchJob,
        NotSerializable,
        ResultTimeout,
        StoreError,
        StoreRefused,
        StoreUnreachable,
        TaskNotFound,
        UsageError,
    )
    from jobqueue.executor.executor import JobExecutor
    from jobqueue.job import Job
    from jobqueue.producing.batch import Batch
    from jobqueue.producing.queue import Queue

    __version__: str


def _keep_the_gil_off() -> None:
    """On a free-threaded Python, hide hiredis from ``import redis``: loading it turns the GIL on again (measured)."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        sys.modules.setdefault("hiredis", None)  # type: ignore[arg-type]  # None makes the import fail, redis expects that


_keep_the_gil_off()  # here, because this file runs before any other module of jobq can import redis

# Public name → module, imported at the first use: `import jobqueue` imports no rq. All other names are errors.
_HOME = {
    "Batch": "jobqueue.producing.batch",
    "Job": "jobqueue.job",
    "JobExecutor": "jobqueue.executor.executor",
    "Queue": "jobqueue.producing.queue",
    "get_current_job": "rq",
}

__all__ = [
    "BadArguments",
    "BadValue",
    "Batch",
    "BrokenWorkers",
    "DuplicateJob",
    "Job",
    "JobCanceled",
    "JobError",
    "JobExecutor",
    "JobFailed",
    "JobStopped",
    "JobqError",
    "NoSuchJob",
    "NotSerializable",
    "Queue",
    "ResultTimeout",
    "StoreError",
    "StoreRefused",
    "StoreUnreachable",
    "TaskNotFound",
    "UsageError",
    "__version__",
    "get_current_job",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("jobq")
    if name not in __all__:
        raise AttributeError(f"module 'jobqueue' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME.get(name, "jobqueue.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
