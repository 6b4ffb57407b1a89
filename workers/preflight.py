"""Check a worker before it starts: its width, the jobs at the heads of its queues, cron entries, imports.

Each check either raises BootFailed, with what to do in one sentence, or warns. None of them runs code of the user's in
this process.
"""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Sequence

import redis

from jobqueue.errors import BootFailed, NotServed, StoreLoading, StoreUnreachable
from jobqueue.network.backoff import Backoff
from jobqueue.producing.importing import cannot_import, why_not_imported
from jobqueue.protocol import keys
from jobqueue.schedules.timetable import Schedule
from jobqueue.serializers import JSON, decompress, format_of
from jobqueue.store.open import Store
from jobqueue.words import count, one_line
from jobqueue.workers.shared.served import check_served, flags_for
from jobqueue.workers.shared.settings import Settings

log = logging.getLogger(__name__)

MOST_THREADS = 4096  # in one process; each has a stack, and all share one GIL
MOST_CHILDREN = 4096
FILES_PER_CHILD = 3  # descriptors of the supervisor: two handles with a file of faults each, one socket
OTHER_FILES = 48  # its own descriptors: connections to the store, the fork server, pages, wake pipes


def check_width(children: int, slots: int) -> None:
    """Check that this machine allows this number of processes and threads. Raises BootFailed now, before a limit is met
    in the middle of the start."""
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


def check_queues(store: Store, settings: Settings, strict: bool) -> None:
    """Warn of each job at the head of a queue that this worker would fail when it takes it. With ``strict`` raise
    BootFailed for the first one: a single job keeps workers from starting only if the operator wants that."""
    for complaint in await_heads(store, settings):
        if strict:
            raise BootFailed(complaint)
        log.warning("%s; else it fails as soon as it is taken (--strict-queue: do not start then)", complaint)


def check_cron(entries: Sequence[Schedule], settings: Settings) -> None:
    """Check that this worker serves the jobs that cron files put into its queues. Raises BootFailed, with the flag to
    use."""
    for entry in entries:
        if entry.queue in settings.queues and (wrong := _why_refused(decompress(entry.fields["data"]), settings)):
            raise BootFailed(f"the cron entry {entry.name} {wrong}")


def check_imports(settings: Settings) -> None:
    """Import the served modules in a process of their own, as the fork server would. Raises BootFailed."""
    plugins = (settings.plugins, settings.no_plugins)
    if why := why_not_imported(settings.modules, settings.exception_handlers, settings.own_classes, plugins):
        raise BootFailed(cannot_import(why))
    log.info(
        "the worker could start: %s served, %s looked at",
        count(len(settings.served), "module"),
        count(len(settings.queues), "queue"),
    )


def await_heads(store: Store, settings: Settings) -> list[str]:
    """Return what ``refused_heads`` finds. Wait for a store that went away after it was opened, as a running worker
    does."""
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


def refused_heads(client: redis.Redis, settings: Settings) -> list[str]:
    """Look at the job at the head of each queue. Return one sentence, with the flag to use, for each that this worker
    does not run."""
    with client.pipeline(transaction=False) as pipe:
        for name in settings.queues:
            pipe.lindex(keys.queue(name), 0)
        heads = pipe.execute(raise_on_error=False)  # a key of another type is not a queue: doctor names it
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


def _why_refused(raw: bytes, settings: Settings) -> str:
    """Return why this worker does not run a job with this data, and the flag to use; "" when it does."""
    if settings.serializer:  # code of the user's, which does not run in this process
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
    """Return the name of the function that a job calls, without running any of it. None: the job calls a method, or its
    data is no call at all; then it fails as a job, with a sentence of its own."""
    try:
        if kind == "json":
            function, instance, *_ = JSON.loads(raw)
            return function if instance is None else None
        import pickletools  # imported here: most jobs are JSON

        values = [value for op, value, _ in pickletools.genops(raw) if "UNICODE" in op.name or op.name == "NONE"]
        return values[0] if isinstance(values[0], str) and values[1] is None else None
    except Exception:
        return None
