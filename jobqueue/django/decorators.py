"""``@job``: give a function ``delay``, which enqueues a call of it."""

from __future__ import annotations

from typing import Any

from rq.decorators import job as rqs_job

from jobqueue.django.queues import get_queue


def job(func_or_queue: Any = "default", connection: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Give the function ``delay(...)`` and ``enqueue(...)``, which put a call of it into a queue of the settings.

    ``@job``: the queue "default"; ``@job("mail", timeout=60)``: this queue, with the options of RQ's decorator. A queue
    may be given as an object too. Raises BadSettings at the import of the module.
    """
    if callable(func_or_queue):
        return job("default")(func_or_queue)
    queue = get_queue(func_or_queue, connection=connection) if isinstance(func_or_queue, str) else func_or_queue
    return rqs_job(queue, connection, *args, **kwargs)
