"""Turn flags into a running worker. This is the only place that knows modes: after it there are children and slots.

mode      children  slots in each
thread    1         -n (default 16)
process   -n        --threads (default: one child per core, one slot: the job in the child's main thread)
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Sequence

from jobqueue.errors import UsageError
from jobqueue.insight.capacity import cores
from jobqueue.schedules.timetable import Schedule
from jobqueue.store.open import Store
from jobqueue.tasks import extra
from jobqueue.words import count
from jobqueue.workers.preflight import check_cron, check_imports, check_queues, check_width
from jobqueue.workers.shared.forked_process import ForkedProcess
from jobqueue.workers.shared.logs import set_up_logging
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.shared.titles import Title
from jobqueue.workers.supervisor.supervisor import Supervisor

log = logging.getLogger(__name__)

THREADS = 16
CANNOT = "threads: a limit cannot interrupt a blocking C call, a crash ends all jobs; --mode process keeps them apart"


def shape(mode: str, number: int | None, threads: int | None) -> tuple[int, int]:
    """Return (children, slots in each). Raises UsageError for numbers that are not possible."""
    for flag, value in (("-n", number), ("--threads", threads)):
        if value is not None and value < 1:
            raise UsageError(f"{flag} {value}: a worker needs at least one; give {flag} 1 or more")
    if mode == "thread":
        if threads is not None:
            raise UsageError("--threads goes with --mode process; in thread mode -n is the number of threads")
        return 1, number or THREADS
    return number or cores(), threads or 1


def worker_name() -> str:
    """Make a name that is unique, readable in ``rq info``, and without the characters that keys are made of."""
    host = "".join(c if c.isalnum() or c in "-." else "-" for c in socket.gethostname())
    return f"{host}-{os.getpid()}-{secrets.token_hex(3)}"


def describe(settings: Settings, mode: str) -> str:
    """Return the line that says what is started."""
    what = count(settings.children, "process")
    if mode == "thread":
        what += f" with {count(settings.slots, 'thread')}"
    elif settings.slots > 1:
        what += f" with {settings.slots} threads each"
    return f"{settings.worker}: {what}, serving {', '.join(settings.queues)}"


def launch(
    settings: Settings,
    mode: str,
    store: Store,
    *,
    cron: Sequence[Schedule] = (),
    check_only: bool = False,
    strict_queue: bool = False,
    fork_server: ForkedProcess | None = None,
) -> int:
    """Run a worker until it is stopped; return the exit code. Raises BootFailed.

    cron: entries of cron files; check_only: look whether the worker could start, and leave; strict_queue: do not start
    if a job at the head of a queue would fail; fork_server: one that was forked in advance (forking/prepare.py).
    """
    set_up_logging(settings.log_format, settings.verbose, settings.worker)
    check_width(settings.children, settings.slots)
    check_queues(store, settings, strict_queue or check_only)
    check_cron(cron, settings)
    if check_only:
        check_imports(settings)
        return 0
    log.info("%s", describe(settings, mode))
    if settings.slots > 1:
        log.info("%s", CANNOT)
    if lacks := extra.missing():
        log.debug("%s", lacks)  # a job that needs such a task fails, and its failure says so
    Title(settings.worker, "supervisor")
    return Supervisor(settings, store, cron, fork_server=fork_server).run()
