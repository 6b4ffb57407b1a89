"""What a run wrote into a store, taken away again: jobs, queues, and workers that nobody has buried.

All through a ``pipe``: it sends commands and returns the answers in order, as patiently as its owner likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jobqueue import keys
from jobqueue.connection import redis

Command = tuple[Any, ...]
Pipe = Callable[[Iterable[Command]], list[Any]]

PAGE = 500
REGISTRIES = ("wip", "finished", "failed", "scheduled", "deferred", "ready", "canceled")


def send(client: redis.Redis, page: Sequence[Command]) -> list[Any]:
    """Send commands in one round trip."""
    with client.pipeline(transaction=False) as pipe:
        for command in page:
            pipe.execute_command(command[0].upper(), *command[1:])
        answers: list[Any] = pipe.execute()
    return answers


def in_pages(commands: Iterable[Command], send_page: Callable[[Sequence[Command]], list[Any]]) -> list[Any]:
    """Send commands in pages; return the answers in order."""
    answers: list[Any] = []
    waiting = list(commands)
    for start in range(0, len(waiting), PAGE):
        answers += send_page(waiting[start : start + PAGE])
    return answers


def members(pipe: Pipe, command: str, key: str) -> set[str]:
    (found,) = pipe([(command, key, 0, -1)])
    return {member.decode() for member in found}


def listed(pipe: Pipe, queues: Iterable[str], kinds: Iterable[str]) -> set[str]:
    """The ids in these queues and in their registries of these kinds."""
    kinds, found = tuple(kinds), set[str]()
    for name in queues:
        for key in (keys.queue(name), keys.intermediate(name)):
            found |= members(pipe, "lrange", key)
        for kind in kinds:
            found |= {member.partition(":")[0] for member in members(pipe, "zrange", keys.registry(kind, name))}
    return found


def workers_of(pipe: Pipe, queue: str) -> set[str]:
    """The names of the workers that serve the queue now."""
    (found,) = pipe([("smembers", keys.workers_of(queue))])
    return {member.decode()[len(keys.worker("")) :] for member in found}


def delete(pipe: Pipe, names: Iterable[str]) -> None:
    waiting = list(names)
    pipe(("unlink", *waiting[start : start + PAGE]) for start in range(0, len(waiting), PAGE))


def delete_jobs(pipe: Pipe, ids: Sequence[str]) -> None:
    """Delete all that is known of these jobs but their places in lists and registries."""
    executions = pipe(("zrange", keys.executions(i), 0, -1) for i in ids)
    delete(pipe, (keys.execution(i, x.decode()) for i, found in zip(ids, executions, strict=True) for x in found))
    for spell in (keys.job, keys.results, keys.executions, keys.fin, keys.dependents, keys.dependencies):
        delete(pipe, (spell(i) for i in ids))


def delete_queue(pipe: Pipe, name: str) -> None:
    """Delete a queue and its registries, but not its jobs."""
    held = members(pipe, "lrange", keys.intermediate(name))  # RQ's maintenance remembers when it saw these
    delete(pipe, (f"{keys.intermediate(name)}:first_seen:{job_id}" for job_id in held))
    delete(pipe, (keys.registry(kind, name) for kind in REGISTRIES))
    delete(pipe, [keys.queue(name), keys.intermediate(name), keys.back(name), keys.workers_of(name)])
    pipe([("srem", keys.QUEUES, keys.queue(name))])


def delete_workers(pipe: Pipe, names: Iterable[str]) -> None:
    """Delete what dead workers left; one that stopped properly has left nothing."""
    names = set(names)
    (owners,) = pipe([("smembers", keys.OWNERS)])
    dead = [owner for owner in owners if owner.decode().rpartition(":")[0] in names]
    delete(pipe, (keys.own(owner.decode()) for owner in dead))
    pipe(("srem", keys.OWNERS, owner) for owner in dead)
    for name in names:
        delete(pipe, [keys.lease(name), keys.worker(name), keys.worker_executions(name)])
        pipe([("srem", keys.WORKERS, keys.worker(name))])
