"""Find what happened to every acknowledged job of the long storm, and which keys are left in the store."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import redis
from helpers import lines
from storm_windows import UNEXPLAINED, explained, runs_of

from jobqueue.protocol import keys

if TYPE_CHECKING:
    from storm_worlds import World

BAD = ("stuck", "lost", "in no or two places", "two outcomes", "finished without a run", UNEXPLAINED, "keys left")
ENDED = {"finished": "finished", "failed": "failed", "stopped": "failed", "canceled": "canceled"}  # status → registry
STANDS = re.compile(
    r"rq:(queues|workers.*|worker:[^:]*|clean_registries:.*|cron_schedulers|cron_scheduler:.*|(finished|failed|canceled)"
    r":.*|canceled:.*|jobq:(seq|owners|usage.*|schedules)|scheduler-lock:.*|clean_groups|scheduler:.*)"
)


def drained(world: World) -> Counter[str]:
    """Return the statuses of the acknowledged jobs that have not ended; empty when all have."""
    store = world.inner()
    ids = list(world.acknowledged)
    open_ones: Counter[str] = Counter()
    statuses = dict(zip(ids, fetch(store, ids, "status"), strict=True))
    for job_id, status in statuses.items():
        if status not in ENDED and status != "gone" and not blocked(world, statuses, job_id):
            open_ones[status] += 1
    return open_ones


def blocked(world: World, statuses: dict[str, str], job_id: str) -> bool:
    """Return whether a job waits for one that failed or was canceled, or for one that waits so: RQ never starts it."""
    if statuses[job_id] != "deferred" or world.acknowledged[job_id] == "after_failure":
        return False
    states = [(parent, statuses.get(parent, "gone")) for parent in world.parents[job_id]]
    return any(
        s in ("failed", "stopped", "canceled") or blocked(world, statuses, p) for p, s in states if p in statuses
    )


def fetch(store: redis.Redis, ids: list[str], field: str) -> list[str]:
    found: list[str] = []
    for start in range(0, len(ids), 1000):
        with store.pipeline(transaction=False) as pipe:
            for job_id in ids[start : start + 1000]:
                pipe.hget(keys.job(job_id), field)
            found += [value.decode() if value else "gone" for value in pipe.execute()]
    return found


def judge(world: World) -> dict[str, Any]:
    """Return what happened to all jobs, and what is wrong."""
    store = world.inner()
    ids = list(world.acknowledged)
    statuses = dict(zip(ids, fetch(store, ids, "status"), strict=True))
    registries = {
        kind: {member.decode() for member in store.zrange(keys.registry(kind, "default"), 0, -1)}
        for kind in ("finished", "failed", "canceled", "deferred", "scheduled", "wip")
    }
    wrong_place = [
        f"{job_id}: {status}, in {places}"
        for job_id, status in statuses.items()
        if status in ENDED and (places := [k for k in registries if job_id in registries[k]]) != [ENDED[status]]
        if job_id not in world.canceled_by_rq  # in two steps; the maintenance takes it out of the other registry
    ]
    runs = runs_of(lines(world.record))
    begun = Counter(run.job for run in runs)
    ended = {run.job for run in runs if run.ended is not None}
    with store.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.xlen(keys.results(job_id))
        outcomes = dict(zip(ids, pipe.execute(), strict=True))
    meant = {job_id: 3 if world.acknowledged[job_id] == "retried" else 1 for job_id in ids}
    again = Counter(world.acknowledged[i] for i in ids if begun[i] > meant[i])
    more, defects = explained(runs, meant, world.acts, world.lease)
    return {
        "acknowledged": len(ids),
        "refused": sum(world.refused.values()),
        "acts": dict(Counter(act.name for act in world.acts)),
        "statuses": dict(Counter(statuses.values())),
        "blocked": sum(blocked(world, statuses, job_id) for job_id in ids),
        "stuck": dict(drained(world)),
        "lost": [job_id for job_id, status in statuses.items() if status == "gone"][:20],
        "in no or two places": wrong_place[:20],
        "two outcomes": [i for i in ids if outcomes[i] > 1 and world.acknowledged[i] != "retried"][:20],
        "finished without a run": [i for i in ids if statuses[i] == "finished" and i not in ended][:20],
        "ran again": sum(again.values()),
        "ran again, by kind": dict(again),
        "runs more than meant": sum(more.values()),
        "by window": {name: number for name, number in more.items() if name != UNEXPLAINED},
        UNEXPLAINED: more[UNEXPLAINED],
        "runs of these": defects[:20],
        "keys left": left_over(store, {job_id for job_id, status in statuses.items() if status == "canceled"}),
    }


def left_over(store: redis.Redis, canceled: set[str]) -> list[str]:
    """Return keys that never expire and are of no worker, queue or registry. RQ keeps canceled jobs for ever."""
    found = []
    for key in store.scan_iter(count=2000):
        name = key.decode()
        if not STANDS.fullmatch(name) and store.ttl(key) == -1 and name.removeprefix("rq:job:") not in canceled:
            found.append(name)
    return found[:20]
