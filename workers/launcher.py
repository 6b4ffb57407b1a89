"""From flags to a running tree. This is the only place that knows modes: after it there are children and slots.

mode      children  slots in each
thread    1         -n (default 16)
process   -n        --threads (default: one child per core, one slot: the job in the child's main thread)
"""

from __future__ import annotations

import logging
import os
import pickletools
import resource
import secrets
import socket
import time
from collections.abc import Sequence

import redis

from jobqueue.errors import BootFailed, NotServed, StoreLoading, StoreUnreachable, UsageError
from jobqueue.insight.capacity import cores
from jobqueue.network.backoff import Backoff
from jobqueue.producing.importing import cannot_import, why_not_imported
from jobqueue.protocol import keys
from jobqueue.schedules.timetable import Schedule
from jobqueue.serializers import JSON, decompress, format_of
from jobqueue.store.open import Store
from jobqueue.tasks import extra
from jobqueue.words import count, one_line
from jobqueue.workers.shared import titles
from jobqueue.workers.shared.logs import set_up_logging
from jobqueue.workers.shared.served import check_served, flags_for
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.supervisor.supervisor import Supervisor

log = logging.getLogger(__name__)

THREADS = 16
MOST_THREADS = 4096  # in one process; each has a stack, and all share one GIL
MOST_CHILDREN = 4096
FILES_PER_CHILD = 3  # of the supervisor's: two handles with a file for the faults of each, one socket
OTHER_FILES = 48  # its own: the store's connections, the fork server, pages, bells


def shape(mode: str, number: int | None, threads: int | None) -> tuple[int, int]:
    """Return (children, slots in each). Raises UsageError for a shape that cannot be."""
    for flag, value in (("-n", number), ("--threads", threads)):
        if value is not None and value < 1:
            raise UsageError(f"{flag} {value}: a worker needs at least one; give {flag} 1 or more")
    if mode == "thread":
        if threads is not None:
            raise UsageError("--threads goes with --mode process; in thread mode -n is the number of threads")
        return 1, number or THREADS
    return number or cores(), threads or 1


def check_width(children: int, slots: int) -> None:
    """Raises BootFailed for more processes or threads than this machine lets us have: said at once, and not by whatever
    fails first in the middle."""
    if slots > MOST_THREADS:
        raise BootFailed(f"{slots:,} threads in one process are too many: {MOST_THREADS:,} at most")
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = FILES_PER_CHILD * children + OTHER_FILES
    if limit != resource.RLIM_INFINITY and needed > limit:
        most = max(0, limit - OTHER_FILES) // FILES_PER_CHILD
        advice = f"give -n {most} at most, or raise the limit" if most else f"raise it to {needed:,} or more"
        raise BootFailed(
            f"{children:,} processes need {needed:,} open files, and the limit is {limit:,} (ulimit -n): {advice}"
        )
    if children > MOST_CHILDREN:
        raise BootFailed(f"{children:,} processes are too many: {MOST_CHILDREN:,} at most")


def worker_name() -> str:
    """Unique, readable in `rq info`, and without the characters that keys are made of."""
    host = "".join(c if c.isalnum() or c in "-." else "-" for c in socket.gethostname())
    return f"{host}-{os.getpid()}-{secrets.token_hex(3)}"


def describe(settings: Settings, mode: str) -> str:
    """One line that says what is started, and loudly what the mode cannot do."""
    what = count(settings.children, "process")
    if mode == "thread":
        what += f" with {count(settings.slots, 'thread')}"
    elif settings.slots > 1:
        what += f" with {settings.slots} threads each"
    return f"{settings.worker}: {what}, serving {', '.join(settings.queues)}"


CANNOT = "threads: a limit cannot interrupt a blocking C call, a crash ends all jobs; --mode process keeps them apart"


def refused_heads(client: redis.Redis, settings: Settings) -> list[str]:
    """Look at the job at the head of each queue; say of each that we would not serve what is wrong, with the flag."""
    with client.pipeline(transaction=False) as pipe:
        for name in settings.queues:
            pipe.lindex(keys.queue(name), 0)
        heads = pipe.execute(raise_on_error=False)  # a key of another type is no queue: doctor names it
    there = {name: head for name, head in zip(settings.queues, heads, strict=True) if isinstance(head, bytes)}
    with client.pipeline(transaction=False) as pipe:
        for head in there.values():
            pipe.hget(keys.job(head.decode(errors="replace")), "data")
        datas = pipe.execute(raise_on_error=False)
    return [
        one_line(f"the job {head.decode(errors='replace')} at the head of queue {name!r} {wrong}")
        for (name, head), data in zip(there.items(), datas, strict=True)
        if isinstance(data, bytes) and (wrong := _why_refused(decompress(data), settings))
    ]


def await_heads(store: Store, settings: Settings) -> list[str]:
    """Look at the heads. A store that went away after it was opened is waited for, as a running worker does."""
    client, backoff = store.client(), Backoff(first=0.1)
    while True:
        try:
            return refused_heads(client, settings)
        except redis.AuthenticationError:
            raise
        except (redis.ConnectionError, redis.TimeoutError) as e:
            if not backoff.failures:
                log.warning("the store went away (%s); waiting for it", e)
        time.sleep(backoff.failed())
        try:
            store.ensure()
        except (StoreUnreachable, StoreLoading) as e:
            log.debug("%s", e)


def _why_refused(raw: bytes, settings: Settings) -> str:
    """Return why this worker does not run a job with this data, and the flag to use; "" when it does."""
    if settings.serializer:  # it is user code, which we do not run here
        return ""
    kind = format_of(raw)
    if kind not in settings.accept:
        return f"is {kind}, and this worker reads {', '.join(settings.accept)} only: start it with --accept json,{kind}"
    function = None if settings.allow_any else function_in(raw, kind)
    if function is None:
        return ""
    try:
        check_served(function, function, settings.served)
    except NotServed:
        return f"calls {function}, which this worker does not serve: start it with {flags_for(function, function)}"
    return ""


def function_in(raw: bytes, kind: str) -> str | None:
    """The name of the function that a job calls, without running any of it; None: a method, or not a call at all (that
    fails as a job, with its own sentence)."""
    try:
        if kind == "json":
            function, instance, *_ = JSON.loads(raw)
            return function if instance is None else None
        values = [value for op, value, _ in pickletools.genops(raw) if "UNICODE" in op.name or op.name == "NONE"]
        return values[0] if isinstance(values[0], str) and values[1] is None else None
    except Exception:
        return None


def check_imports(settings: Settings) -> int:
    """Import the served modules in a process of their own, as the fork server would. Raises BootFailed."""
    if why := why_not_imported(settings.modules, settings.exception_handlers, settings.own_classes):
        raise BootFailed(cannot_import(why))
    log.info(
        "the worker could start: %s served, %s looked at",
        count(len(settings.served), "module"),
        count(len(settings.queues), "queue"),
    )
    return 0


def check_cron(entries: Sequence[Schedule], settings: Settings) -> None:
    """Look at what cron files put into our queues. Raises BootFailed, with the flag to use, for what we do not run."""
    for entry in entries:
        if entry.queue in settings.queues and (wrong := _why_refused(decompress(entry.fields["data"]), settings)):
            raise BootFailed(f"the cron entry {entry.name} {wrong}")


def check_queues(store: Store, settings: Settings, strict: bool) -> None:
    """Warn of jobs that this worker will fail when it takes them. Raises BootFailed for one if ``strict``: nobody's job
    may keep a whole fleet from starting unless the operator wants that."""
    for complaint in await_heads(store, settings):
        if strict:
            raise BootFailed(complaint)
        log.warning("%s; else it fails as soon as it is taken (--strict-queue: do not start then)", complaint)


def launch(
    settings: Settings,
    mode: str,
    store: Store,
    *,
    cron: Sequence[Schedule] = (),
    check_only: bool = False,
    strict_queue: bool = False,
) -> int:
    """Run the tree until it is stopped; return the exit code. ``cron``: entries of cron files. Raises BootFailed."""
    set_up_logging(settings.log_format, settings.verbose)
    check_width(settings.children, settings.slots)
    check_queues(store, settings, strict_queue or check_only)
    check_cron(cron, settings)
    if check_only:
        return check_imports(settings)
    log.info("%s", describe(settings, mode))
    if settings.slots > 1:
        log.info("%s", CANNOT)
    if lacks := extra.missing():
        log.debug("%s", lacks)  # who asks for such a task is told by its failure
    titles.show(settings.worker, "supervisor")
    return Supervisor(settings, store, cron).run()
