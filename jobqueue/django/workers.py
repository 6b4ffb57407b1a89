"""Make RQ's worker in this process, as django-rq does: for tests and for programs that run their own worker."""

from __future__ import annotations

from typing import Any

from django.utils.module_loading import import_string

from jobqueue.django.queues import DjangoQueue, get_queues
from jobqueue.django.settings import exception_handlers, worker_class
from jobqueue.producing.queue import Queue


def get_worker(*queue_names: str, **options: Any) -> Any:
    """Return an RQ worker of these queues ("default" without a name) on jobq's engine; ``.work(burst=True)`` runs what
    waits. job_class, queue_class and worker_class are django-rq's, other options those of RQ's Worker."""
    kind = options.pop("worker_class", None) or worker_class() or "jobqueue.rq.Worker"
    kind = import_string(kind) if isinstance(kind, str) else kind
    chosen = {name: options.pop(name, None) for name in ("job_class", "queue_class")}
    queues = [_plain(queue) for queue in get_queues(*queue_names, **chosen)]
    options.setdefault("exception_handlers", [import_string(name) for name in exception_handlers()] or None)
    options.setdefault("serializer", queues[0].serializer)
    options.setdefault("job_class", chosen["job_class"])
    return kind(queues, connection=queues[0].connection, queue_class=type(queues[0]), **options)


def _plain(queue: Any) -> Any:
    """Return the same queue without the wait for commits. A worker does not enqueue calls, and for methods that are
    overridden it would leave jobq's engine."""
    if type(queue) is not DjangoQueue:
        return queue
    return Queue(queue.name, queue.connection, queue._default_timeout, serializer=queue.serializer)
