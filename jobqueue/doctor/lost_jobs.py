"""Find lost jobs: their hash says that they wait or run, and they are in no list, no registry, and held by no worker.

RQ 3.0 leaves such jobs behind when a worker on several queues is killed between its pop and its start; on one queue
they stay in its intermediate list until its maintenance fails them.

    all hashes ──► queued or started ──minus──► queues, owners, started registries ──► suspects ── a pause ──► again

The pause is for workers that have just popped a job and not recorded it yet: a living worker has done so by then. A job
that is suspect twice, with the same hash, is lost; a script that checks everything once more in one step puts it back.
Only suspects are read again. Memory grows with the jobs that wait or run, about 150 bytes for each, up to MOST of them;
a store with more is examined in part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from jobqueue.pages import pages
from jobqueue.protocol import keys
from jobqueue.protocol.protocol import Protocol, queue_names
from jobqueue.store.connection import redis

PAGE = 1000
IDS = 10_000  # ids of a queue that are read at once
MOST = 1_000_000  # jobs that wait or run, of which no more are examined
SAID_EVERY = 100_000  # keys or ids between two reports of progress
FIELDS = ("status", "enqueued_at", "started_at", "worker_name")
HELD = (b"queued", b"started")  # statuses in which a list or a worker must hold the job
Tell = Callable[[str], object]


class LostJob(NamedTuple):
    """A job and the fields of its hash when it was examined."""

    id: str
    queue: str
    seen: tuple[str, ...]  # the values of FIELDS

    @property
    def status(self) -> str:
        return self.seen[0]


class LostJobs(NamedTuple):
    """The suspects, how many jobs were examined, and whether these were all."""

    jobs: list[LostJob]
    looked_at: int
    all: bool


def suspects(client: redis.Redis, tell: Tell = lambda text: None) -> LostJobs:
    """Find jobs that seem to be lost; some may only be on their way to a worker. Reads only.

    tell: called with a sentence about the progress.
    """
    jobs, all_seen = _waiting_or_running(client, tell)
    looked_at = len(jobs)
    return LostJobs(_without_held(client, jobs, tell) if jobs else [], looked_at, all_seen)


def still_lost(client: redis.Redis, before: Iterable[LostJob], tell: Tell = lambda text: None) -> list[LostJob]:
    """Examine these jobs again: return those whose hash has not changed since."""
    seen = list(before)
    now = set(_without_held(client, {job.id.encode(): None for job in seen}, tell)) if seen else set()
    return [job for job in seen if job in now]


def _without_held(client: redis.Redis, jobs: dict[bytes, None], tell: Tell) -> list[LostJob]:
    for number, job_id in enumerate(_held(client), 1):
        jobs.pop(job_id, None)
        if number % SAID_EVERY == 0:
            tell(f"looked for them at {number:,} places")
    return _not_running(client, _still_so(client, list(jobs)))


def bring_back(client: redis.Redis, lost: Iterable[LostJob]) -> list[LostJob]:
    """Put the jobs at the heads of their queues, the one that has waited longest first; return those that were put
    back."""
    oldest_last = sorted(lost, key=lambda job: job.seen[1], reverse=True)
    protocol = Protocol(client)
    return [job for job in oldest_last if protocol.bring_back(job.queue, job.id, job.seen)]


def _waiting_or_running(client: redis.Redis, tell: Tell) -> tuple[dict[bytes, None], bool]:
    """Return the ids of the jobs that wait or run, and whether these are all."""
    protocol, cursor, jobs, keys_seen = Protocol(client), b"0", dict[bytes, None](), 0
    while len(jobs) < MOST:
        cursor, ids = protocol.survey(cursor, PAGE)
        jobs |= dict.fromkeys(ids)
        keys_seen += PAGE
        if keys_seen % SAID_EVERY == 0:
            tell(f"looked at {keys_seen:,} keys of the store, {len(jobs):,} jobs wait or run")
        if cursor == b"0":
            return jobs, True
    return jobs, False


def _held(client: redis.Redis) -> Iterator[bytes]:
    """Yield the ids that lists and workers hold, in the order in which jobs move on, so that a moving job is met at its
    next place."""
    queues: Any = client.smembers(keys.QUEUES)
    for key in queues:
        yield from _from_the_tail(client, key)
    owners: Any = client.smembers(keys.OWNERS)
    for owner in owners:
        for job_id, _ in client.zscan_iter(keys.own(owner.decode(errors="replace")), count=PAGE):
            yield job_id
    for name in queue_names(queues):
        for member, _ in client.zscan_iter(keys.registry("wip", name), count=PAGE):
            yield member.rpartition(b":")[0]


def _from_the_tail(client: redis.Redis, key: bytes) -> Iterator[bytes]:
    """Yield a list's ids from its end: jobs leave at the head, so none moves past the place of reading."""
    last = -1
    while True:
        try:
            page: Any = client.lrange(key, last - IDS + 1, last)
        except redis.ResponseError:  # the key is not a list
            return
        yield from page
        if len(page) < IDS:
            return
        last -= IDS


def _still_so(client: redis.Redis, ids: Sequence[bytes]) -> list[LostJob]:
    found = []
    for page in pages(ids, PAGE):
        with client.pipeline(transaction=False) as pipe:
            for job_id in page:
                pipe.hmget(keys.job(_text(job_id)), "origin", *FIELDS)
            read = pipe.execute(raise_on_error=False)
        for job_id, (origin, *fields) in ((i, h) for i, h in zip(page, read, strict=True) if isinstance(h, list)):
            if origin and fields[0] in HELD:
                found.append(LostJob(_text(job_id), _text(origin), tuple(_text(f or b"") for f in fields)))
    return found


def _not_running(client: redis.Redis, found: Sequence[LostJob]) -> list[LostJob]:
    """Drop the jobs that a worker runs for a queue whose key does not begin as RQ's do: only the job knows that queue's
    name."""
    with client.pipeline(transaction=False) as pipe:
        for job in found:
            pipe.zrange(keys.executions(job.id), 0, -1)
        executions = pipe.execute()
        for job, ids in zip(found, executions, strict=True):
            pipe.zmscore(
                keys.registry("wip", job.queue), [f"{job.id}:{x.decode(errors='replace')}" for x in ids] or [""]
            )
        scores = pipe.execute()
    return [job for job, at in zip(found, scores, strict=True) if not any(score is not None for score in at)]


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
