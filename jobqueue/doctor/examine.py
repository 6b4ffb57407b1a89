"""Examine a store once: the server, the queues, and, twice with a pause, jobs that nobody holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from jobqueue.doctor.clocks import examine_clocks
from jobqueue.doctor.deferred import dependents, examine_dependents
from jobqueue.doctor.finding import Finding
from jobqueue.doctor.lost_jobs import LostJob, LostJobs, Tell, bring_back, still_lost, suspects
from jobqueue.doctor.owners import Holding, examine_leases, holdings
from jobqueue.doctor.queues import examine_queues
from jobqueue.doctor.schedules import examine_schedules
from jobqueue.doctor.server import examine_server
from jobqueue.doctor.types import examine_types, look, safely
from jobqueue.doctor.wrong_keys import examine_wrong_keys
from jobqueue.store.connection import redis
from jobqueue.words import count

# Seconds between the two; a lease is renewed every 3 s, a popped job is started within milliseconds.
BETWEEN_LOOKS = 5.0


def examine(
    client: redis.Redis,
    *,
    fix: bool = False,
    patience: float = BETWEEN_LOOKS,
    sleep: Callable[[float], None] = time.sleep,
    tell: Tell = lambda text: None,
) -> Iterator[Finding]:
    """Iterate over all findings; with ``fix`` put lost jobs back into their queues and enqueue those that wait in vain.
    tell: called with a sentence about the progress. Raises what redis-py raises."""
    yield from examine_server(client)
    yield from examine_types(client)
    yield from safely("queues", examine_queues(client))
    wrong = list(safely("schedules", examine_schedules(client)))
    yield from wrong
    if all(finding.severity != "problem" for finding in wrong):
        yield from safely("clocks", examine_clocks(client))
    yield from safely("wrong keys", examine_wrong_keys(client))
    failed: list[Finding] = []
    leases = look(lambda: holdings(client), "leases", failed)
    seen: LostJobs | None = look(lambda: suspects(client, tell), "limbo", failed)
    waiting = look(lambda: dependents(client), "dependents", failed)
    yield from failed
    sleep(patience)
    if leases is not None:
        yield from safely("leases", _leases(client, leases))
    if waiting is not None:
        yield from safely("dependents", examine_dependents(client, waiting, fix))
    if seen is not None:
        yield from safely("limbo", _looked_again(client, seen, tell, fix))


def _leases(client: redis.Redis, before: Mapping[str, Holding]) -> Iterator[Finding]:
    yield from examine_leases(before, holdings(client))


def _looked_again(client: redis.Redis, seen: LostJobs, tell: Tell, fix: bool) -> Iterator[Finding]:
    yield _lost_jobs(client, still_lost(client, seen.jobs, tell), fix)
    if not seen.all:
        text = f"only {seen.looked_at:,} of the jobs that wait or run were looked at: there are more"
        yield Finding("limbo", "note", text, "Look again when there are fewer.")


def _lost_jobs(client: redis.Redis, lost: list[LostJob], fix: bool) -> Finding:
    if not lost:
        return Finding("limbo", "ok", "no job is in limbo")
    ids = tuple(job.id for job in lost)
    started = sum(job.status == "started" for job in lost)
    text = f"{count(len(lost), 'job')} in limbo: {len(lost) - started:,} say that they wait and {started:,} that "
    text += "they run, but no queue and no worker holds them"
    if not fix:
        return Finding("limbo", "problem", f"{text}.", "`jobq doctor --fix` puts them back into their queues.", ids)
    back = tuple(job.id for job in bring_back(client, lost))
    rest = len(lost) - len(back)
    text += f"; {count(len(back), 'is', 'are')} back at the head of their queues"
    return Finding("limbo", "note", f"{text}{f', {rest:,} moved meanwhile' if rest else ''}.", "", back)
