"""Import this module in a worker: once, the process that has recorded an outcome dies before it enqueues the
dependents. The file DIED notes that it has."""

from __future__ import annotations

import os
import signal
from typing import Any

from jobqueue.workers.rq_finish.rq_objects import FinishingQueue


def first_end(*_: Any) -> int:
    return 1


def first_failure(*_: Any) -> int:
    raise ValueError("as you wished")


def _dies_before(name: str) -> None:
    original = getattr(FinishingQueue, name)

    def die_once(*args: Any, **kwargs: Any) -> Any:
        try:
            os.close(os.open(os.environ["DIED"], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return original(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    setattr(FinishingQueue, name, die_once)


if "DIED" in os.environ:
    _dies_before("enqueue_dependents")  # RQ's failure
    _dies_before("enqueue_ready_jobs_by_queue")  # RQ's success
