"""A queue that one program fills and one worker serves, and that is gone with them: its name, and its end."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from jobqueue import keys
from jobqueue.connection import redis

PAGE = 500
REGISTRIES = ("wip", "finished", "failed", "scheduled", "deferred", "ready", "canceled")


def new_name(prefix: str) -> str:
    """Return a name that nobody can guess: who does not know the queue puts nothing into it by accident."""
    return f"{prefix}-{secrets.token_hex(8)}"


def erase(client: redis.Redis, queue: str) -> int:
    """Delete the queue, its registries and all its jobs; tell how many those were. Only when no worker serves it.

    Registries go page by page with their jobs, so that a kill in the midst leaves nothing that a second call misses.
    """
    count = 0
    for key in (keys.queue(queue), keys.intermediate(queue)):
        while members := _some(client.lrange(key, 0, PAGE - 1)):
            count += _delete_jobs(client, members)
            client.ltrim(key, len(members), -1)
    for kind in REGISTRIES:
        key = keys.registry(kind, queue)
        while members := _some(client.zrange(key, 0, PAGE - 1)):
            count += _delete_jobs(client, [member.partition(":")[0] for member in members])
            client.zremrangebyrank(key, 0, len(members) - 1)
    client.delete(keys.back(queue), keys.workers_of(queue))
    client.srem(keys.QUEUES, keys.queue(queue))
    return count


def _some(members: Any) -> list[str]:
    return [member.decode() for member in members]


def _delete_jobs(client: redis.Redis, ids: Sequence[str]) -> int:
    of_a_job = (keys.results, keys.dependents, keys.dependencies, keys.executions)
    client.unlink(*[key(job_id) for job_id in ids for key in of_a_job])
    return int(client.unlink(*map(keys.job, ids)))
