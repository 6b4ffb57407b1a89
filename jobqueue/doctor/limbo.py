"""Finds jobs that nobody holds: their hash says that they wait or run, and they stand in no list, registry or hand.

RQ 3.0 leaves such jobs behind when a worker on several queues is killed between its pop and its start; on one queue
they stay in its intermediate list until its maintenance fails them.

    all hashes ──► queued or started ──minus──► queues, owners, started registries ──► suspects ── a pause ──► again

The pause is for those who have just popped a job and not said so yet: who lives has moved on by then. Who is a
suspect twice, with the same hash, is lost; it is brought back by a script that looks at everything once more in one
instant. Memory grows with the jobs that wait or run, about 150 bytes for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from jobqueue import keys
from jobqueue.connection import redis
from jobqueue.protocol import Protocol, queue_names

PAGE = 1000
FIELDS = ("status", "enqueued_at", "started_at", "worker_name")
HELD = (b"queued", b"started")  # by a list, or by a worker


class Suspect(NamedTuple):
    """A job and what its hash said of it."""

    id: str
    queue: str
    seen: tuple[str, ...]  # FIELDS

    @property
    def status(self) -> str:
        return self.seen[0]


def suspects(client: redis.Redis) -> list[Suspect]:
    """Return the jobs that seem to be in limbo; some may only be on their way. Reads, writes nothing."""
    jobs = dict(_waiting_or_running(client))
    for job_id in _held(client):
        jobs.pop(job_id, None)
    return _not_running(client, _still_so(client, list(jobs)))


def in_limbo(client: redis.Redis, before: Iterable[Suspect]) -> list[Suspect]:
    """Look again: return those that nobody has touched since."""
    now = set(suspects(client))
    return [job for job in before if job in now]


def bring_back(client: redis.Redis, lost: Iterable[Suspect]) -> list[Suspect]:
    """Put the jobs at the heads of their queues, the one that has waited longest first; return those that went."""
    oldest_last = sorted(lost, key=lambda job: job.seen[1], reverse=True)
    protocol = Protocol(client)
    return [job for job in oldest_last if protocol.bring_back(job.queue, job.id, job.seen)]


def _waiting_or_running(client: redis.Redis) -> Iterator[tuple[bytes, None]]:
    prefix = len(keys.job(""))
    for page in _pages(client.scan_iter(match=keys.job("*"), count=PAGE, _type="HASH")):
        with client.pipeline(transaction=False) as pipe:
            for key in page:
                pipe.hget(key, "status")
            states = pipe.execute(raise_on_error=False)
        yield from ((key[prefix:], None) for key, state in zip(page, states, strict=True) if state in HELD)


def _held(client: redis.Redis) -> Iterator[bytes]:
    """Ids that somebody holds, in the order in which jobs move on, so that one that moves is met at its next place."""
    queues: Any = client.smembers(keys.QUEUES)
    for key in queues:
        yield from _from_the_tail(client, key.decode())
    owners: Any = client.smembers(keys.OWNERS)
    for owner in owners:
        for job_id, _ in client.zscan_iter(keys.own(owner.decode()), count=PAGE):
            yield job_id
    for name in queue_names(queues):
        for member, _ in client.zscan_iter(keys.registry("wip", name), count=PAGE):
            yield member.rpartition(b":")[0]


def _from_the_tail(client: redis.Redis, key: str) -> Iterator[bytes]:
    """From the end, because jobs leave at the head: so none moves past the place where we read."""
    last = -1
    while True:
        page: Any = client.lrange(key, last - PAGE + 1, last)
        yield from page
        if len(page) < PAGE:
            return
        last -= PAGE


def _still_so(client: redis.Redis, ids: Sequence[bytes]) -> list[Suspect]:
    found = []
    for page in _pages(ids):
        with client.pipeline(transaction=False) as pipe:
            for job_id in page:
                pipe.hmget(keys.job(job_id.decode()), "origin", *FIELDS)
            read = pipe.execute()
        for job_id, (origin, *fields) in zip(page, read, strict=True):
            if origin and fields[0] in HELD:
                found.append(Suspect(job_id.decode(), origin.decode(), tuple((f or b"").decode() for f in fields)))
    return found


def _not_running(client: redis.Redis, found: Sequence[Suspect]) -> list[Suspect]:
    """Without those that a worker runs for a queue whose key does not begin as RQ's do: its name is in the job only."""
    with client.pipeline(transaction=False) as pipe:
        for job in found:
            pipe.zrange(keys.executions(job.id), 0, -1)
        executions = pipe.execute()
        for job, ids in zip(found, executions, strict=True):
            pipe.zmscore(keys.registry("wip", job.queue), [f"{job.id}:{x.decode()}" for x in ids] or [""])
        scores = pipe.execute()
    return [job for job, at in zip(found, scores, strict=True) if not any(score is not None for score in at)]


def _pages(items: Iterable[Any]) -> Iterator[list[Any]]:
    page: list[Any] = []
    for item in items:
        page.append(item)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page
