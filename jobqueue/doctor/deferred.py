"""Find jobs that wait for others in vain: those have all ended, and nothing will enqueue the job any more.

RQ enqueues dependents in a second step after the end of what they wait for, from memory: a worker that dies between the
two leaves them deferred (or ready, until RQ's maintenance). And nothing enqueues a job that waits for an expired one.

    deferred and ready registries ──► what each waits for ──► nothing is open: in vain ── a pause ──► again
                                                        └───► one of them failed or was canceled: blocked, as meant
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from jobqueue.doctor.finding import Finding
from jobqueue.protocol import keys
from jobqueue.protocol.protocol import Protocol, queue_names
from jobqueue.store.connection import redis
from jobqueue.words import count

PAGE = 500
WAITS = (b"deferred", b"ready_to_enqueue")
ENDS = (b"failed", b"stopped", b"canceled")


class Dependents(NamedTuple):
    """The ids of jobs that wait for others."""

    in_vain: frozenset[str]  # all that they wait for has ended
    blocked: frozenset[str]  # one that they wait for failed or was canceled


def dependents(client: redis.Redis) -> Dependents:
    """Examine all jobs that wait for others. Reads only."""
    in_vain: set[str] = set()
    blocked: set[str] = set()
    for page in _pages(client):
        for job_id, status, allows_failure, states in _looked_at(client, page):
            open_ones = {state for state in states if state not in (None, b"finished")}
            open_ones -= {b"failed"} if allows_failure else set()
            if status in WAITS and not open_ones:
                in_vain.add(job_id)
            elif status in WAITS and open_ones.intersection(ENDS):
                blocked.add(job_id)
    return Dependents(frozenset(in_vain), frozenset(blocked))


def examine_dependents(client: redis.Redis, before: Dependents, fix: bool) -> Iterator[Finding]:
    """Compare two examinations; with ``fix`` enqueue the jobs that waited in vain in both."""
    now = dependents(client)
    ids = tuple(sorted(before.in_vain & now.in_vain))
    if now.blocked:
        text = f"{count(len(now.blocked), 'job waits', 'jobs wait')} for a job that failed, was stopped or canceled."
        to_do = "They start when it is requeued and finishes; `jobq status ID` says what one waits for."
        yield Finding("blocked", "note", text, to_do, tuple(sorted(now.blocked)))
    if not ids:
        yield Finding("dependents", "ok", "no job waits in vain for others")
        return
    text = f"{count(len(ids), 'job waits', 'jobs wait')} for others that have all ended, and nothing starts them"
    if not fix:
        yield Finding("dependents", "problem", f"{text}.", "`jobq doctor --fix` puts them into their queues.", ids)
        return
    protocol = Protocol(client)
    moved = tuple(job_id for job_id in ids if protocol.bring_on(job_id))
    yield Finding("dependents", "note", f"{text}; {count(len(moved), 'is', 'are')} in their queues now.", "", moved)


def _pages(client: redis.Redis) -> Iterator[list[str]]:
    queues: Any = client.smembers(keys.QUEUES)
    for name in queue_names(queues):
        for kind in ("deferred", "ready"):
            yield from _pages_of(client, keys.registry(kind, name))


def _pages_of(client: redis.Redis, registry: str) -> Iterator[list[str]]:
    page: list[str] = []
    try:
        for member, _ in client.zscan_iter(registry, count=PAGE):
            page.append(member.decode(errors="replace"))
            if len(page) == PAGE:
                yield page
                page = []
    except redis.ResponseError:  # a key of another type, which another finding reports
        return
    if page:
        yield page


def _looked_at(client: redis.Redis, ids: Iterable[str]) -> Iterator[tuple[str, bytes, bool, list[bytes | None]]]:
    """Yield for each job: its id, its status, whether it allows failures, and the status of each job that it waits for.
    Jobs with keys of a wrong type are skipped."""
    ids = list(ids)
    with client.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.hmget(keys.job(job_id), "status", "allow_dependency_failures")
            pipe.smembers(keys.dependencies(job_id))
        read = pipe.execute(raise_on_error=False)
        jobs = [job for job in zip(ids, read[::2], read[1::2], strict=True) if not _failed(*job[1:])]
        wanted = sorted({name for _, _, dependencies in jobs for name in dependencies})
        for dependency in wanted:
            pipe.hget(keys.job(dependency.decode(errors="replace")), "status")
        states = dict(zip(wanted, pipe.execute(raise_on_error=False), strict=True))
    for job_id, (status, allows), dependencies in jobs:
        found = [states[dependency] for dependency in dependencies]
        if not _failed(*found):
            yield job_id, status or b"", allows == b"1", found


def _failed(*replies: Any) -> bool:
    return any(isinstance(reply, Exception) for reply in replies)
