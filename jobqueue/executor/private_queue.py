"""Name and delete a queue that one program fills and its own workers serve.

``erase`` sends its commands through a ``Pipe``, which returns the answers in order and may repeat each command.
``erase`` may be called again after an interruption: a key that names others is deleted only after those.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from jobqueue.protocol import keys
from jobqueue.store.connection import redis

Command = tuple[Any, ...]
Pipe = Callable[[Iterable[Command]], list[Any]]

PAGE = 500
REGISTRIES = ("wip", "finished", "failed", "scheduled", "deferred", "ready", "canceled")


def new_name(prefix: str) -> str:
    """Return a name that cannot be guessed, so that no other program uses the queue by accident."""
    return f"{prefix}-{secrets.token_hex(8)}"


# -- sending -------------------------------------------------------------------------------------------------------


def pipe_to(client: redis.Redis, retry_request: Callable[[Callable[[], list[Any]]], list[Any]] | None = None) -> Pipe:
    """Return a function that sends commands in pages, a round trip each. retry_request: calls a function that sends one
    page, again if it fails."""

    def pipe(commands: Iterable[Command]) -> list[Any]:
        answers: list[Any] = []
        waiting = list(commands)
        for start in range(0, len(waiting), PAGE):
            page = waiting[start : start + PAGE]
            answers += retry_request(lambda page=page: send(client, page)) if retry_request else send(client, page)  # type: ignore[misc]
        return answers

    return pipe


def send(client: redis.Redis, page: Sequence[Command]) -> list[Any]:
    """Send commands in one round trip."""
    with client.pipeline(transaction=False) as pipe:
        for command in page:
            pipe.execute_command(command[0].upper(), *command[1:])
        answers: list[Any] = pipe.execute()
    return answers


# -- what is there -------------------------------------------------------------------------------------------------


def members(pipe: Pipe, command: str, key: str) -> Iterator[list[str]]:
    """Iterate over the members of a list (lrange) or sorted set (zrange), a page at a time."""
    start = 0
    while True:
        (found,) = pipe([(command, key, start, start + PAGE - 1)])
        if not found:
            return
        yield [member.decode() for member in found]
        start += len(found)


def listed(pipe: Pipe, queue: str, kinds: Iterable[str] = REGISTRIES) -> Iterator[list[str]]:
    """Iterate over the ids in the queue and in its registries of these kinds, a page at a time."""
    for key in (keys.queue(queue), keys.intermediate(queue)):
        yield from members(pipe, "lrange", key)
    for kind in kinds:
        for page in members(pipe, "zrange", keys.registry(kind, queue)):
            yield [member.partition(":")[0] for member in page]  # members of wip are id:execution


def workers_of(pipe: Pipe, queue: str) -> set[str]:
    """Return the names of the workers that are registered for the queue."""
    (found,) = pipe([("smembers", keys.workers_of(queue))])
    return {member.decode().removeprefix(keys.worker("")) for member in found}


def owners_of(pipe: Pipe, workers: Collection[str]) -> list[str]:
    """Return the owners of these workers: names of their children, which may hold jobs."""
    (owners,) = pipe([("smembers", keys.OWNERS)])
    return [owner for owner in (o.decode() for o in owners) if owner.rpartition(":")[0] in workers]


# -- the end -------------------------------------------------------------------------------------------------------


def erase(pipe: Pipe, queues: Sequence[str], *, ids: Iterable[str] = (), workers: Iterable[str] = ()) -> int:
    """Delete the queues with all their jobs, and what their dead workers left; return the number of deleted jobs.

    Call it only when no worker serves them any more. ids: jobs that may be in no list; workers: names of workers that
    served the queues, besides those still registered there.
    """
    names = {*workers, *(name for queue in queues for name in workers_of(pipe, queue))}
    owners = owners_of(pipe, names)
    count = delete_jobs(pipe, list(ids))
    for owner in owners:
        for page in members(pipe, "zrange", keys.own(owner)):
            count += delete_jobs(pipe, page)
    for queue in queues:
        for page in listed(pipe, queue):
            count += delete_jobs(pipe, page)
    delete_workers(pipe, names, owners)
    for queue in queues:
        delete_queue(pipe, queue)
    return count


def delete(pipe: Pipe, names: Iterable[str]) -> int:
    """Delete keys; return how many there were."""
    waiting = list(names)
    return sum(pipe(("unlink", *waiting[start : start + PAGE]) for start in range(0, len(waiting), PAGE)))


def delete_jobs(pipe: Pipe, ids: Sequence[str]) -> int:
    """Delete the keys of these jobs, but not their entries in lists and registries; return how many jobs existed."""
    executions = pipe(("zrange", keys.executions(i), 0, -1) for i in ids)
    delete(pipe, (keys.execution(i, x.decode()) for i, found in zip(ids, executions, strict=True) for x in found))
    for spell in (keys.results, keys.executions, keys.fin, keys.dependents, keys.dependencies):
        delete(pipe, (spell(i) for i in ids))
    return delete(pipe, (keys.job(i) for i in ids))


def delete_queue(pipe: Pipe, name: str) -> None:
    """Delete a queue and its registries, but not its jobs."""
    for page in members(pipe, "lrange", keys.intermediate(name)):
        delete(pipe, (keys.first_seen(name, job_id) for job_id in page))
    delete(pipe, (keys.registry(kind, name) for kind in REGISTRIES))
    delete(pipe, [keys.queue(name), keys.intermediate(name), keys.back(name), keys.workers_of(name)])
    pipe([("srem", keys.QUEUES, keys.queue(name))])


def delete_workers(pipe: Pipe, names: Collection[str], owners: Sequence[str]) -> None:
    """Delete what dead workers and their owners left; a worker that stopped properly has left nothing."""
    delete(pipe, (keys.own(owner) for owner in owners))
    pipe(("srem", keys.OWNERS, owner) for owner in owners)
    for name in names:
        delete(pipe, [keys.lease(name), keys.worker(name), keys.worker_executions(name)])
        pipe([("srem", keys.WORKERS, keys.worker(name))])
