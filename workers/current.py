"""What ``rq.get_current_job()`` returns inside a job: a real RQ job that is read from Redis when somebody looks at it.

Most jobs never look (reading one costs 43 us and a round trip), so it starts as an id and a connection.
"""

from __future__ import annotations

from typing import Any

import redis
from rq.job import Job, JobStatus

from jobqueue.serializers import Auto


class CurrentJob(Job):
    """An RQ job that hydrates itself at the first attribute that is read or set, once."""

    def __init__(self, job_id: str, connection: redis.Redis) -> None:
        self.__dict__.update(_id=job_id, connection=connection, _hydrated=False)

    def _hydrate(self) -> None:
        self.__dict__["_hydrated"] = True
        Job.__init__(self, self.__dict__["_id"], connection=self.__dict__["connection"], serializer=Auto)
        self.refresh()  # type: ignore[no-untyped-call]

    def get_status(self, refresh: bool = True) -> JobStatus:
        """Seen from inside, a job is running, also in its first 5 ms when that does not stand in Redis yet."""
        status = super().get_status(refresh)
        return JobStatus.STARTED if status is JobStatus.QUEUED else status

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self.__dict__.get("_hydrated", True):
            raise AttributeError(name)
        self._hydrate()
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not self.__dict__["_hydrated"]:
            self._hydrate()
        super().__setattr__(name, value)
