"""jobqueue.Queue with RQ's default format, for use in place of RQ's Queue. It has its own module because it is pickled
by name."""

from __future__ import annotations

from typing import Any

from rq.serializers import resolve_serializer

import jobqueue


class Queue(jobqueue.Queue):
    """Our Queue; the serializer is RQ's unless one is given."""

    def __init__(
        self,
        name: str = "default",
        connection: Any = None,
        default_timeout: Any = None,
        is_async: bool = True,
        job_class: Any = None,
        serializer: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        chosen = resolve_serializer(serializer)
        super().__init__(name or "default", connection, default_timeout, is_async, job_class, chosen, *args, **kwargs)
        if not name:  # RQ deletes a job that was in no queue by a queue without a name; a user's Queue("") is refused
            self.name, self._key = "", self.redis_queue_namespace_prefix
