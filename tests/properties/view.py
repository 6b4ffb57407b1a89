"""The store's content and the model's, in one form that can be compared: key → the part of its value that matters.

All keys are looked at, so what a script leaves behind is seen. Left out: the claim counter, the memory of who stands
returned at the head (the order of the queues shows it), data and times.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import redis
from model import Books, Job

from jobqueue.protocol import keys

FIELDS = ("status", "retries_left", "jobq_crashes", "jobq_redelivered", "jobq_suspect")
COUNTS = ("successful_job_count", "failed_job_count")


def _texts(values: Any) -> list[str]:
    return sorted(v.decode() for v in values)


def _in_order(values: Any) -> list[str]:
    return [v.decode() for v in values]


def _numbers(values: Any) -> tuple[int, ...]:
    return tuple(int(v or 0) for v in values)


def _job(values: Any) -> tuple[str | int, ...]:
    return (values[0] or b"").decode(), *_numbers(values[1:])


def _fields(values: Any) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in values.items()}


def _scored(pairs: Any) -> dict[str, int]:
    return {member.decode(): int(score) for member, score in pairs}


SETS = r"queues|jobq:owners|jobq:waiting_for:.*|worker:.*:executions|job:.*:dependents|job::.*:dependencies"
ZSETS = r"(executions|wip|finished|failed|scheduled|deferred|canceled):.*"

# key behind the prefix, command, and what is compared of its reply
KINDS: list[tuple[str, Callable[[Any, str], Any], Callable[[Any], Any]]] = [
    (r"queue:[^:]*", lambda pipe, key: pipe.lrange(key, 0, -1), _in_order),
    (r"queue:[^:]*:intermediate", lambda pipe, key: pipe.lrange(key, 0, -1), _texts),
    (r"queue:[^:]*:intermediate:first_seen:.*", lambda pipe, key: pipe.exists(key), bool),
    (r"job:[^:]*", lambda pipe, key: pipe.hmget(key, *FIELDS), _job),
    (r"results:.*", lambda pipe, key: pipe.xlen(key), int),
    (r"execution:.*", lambda pipe, key: pipe.exists(key), bool),
    (r"worker:[^:]*", lambda pipe, key: pipe.hmget(key, *COUNTS), _numbers),
    (r"jobq:fin:.*", lambda pipe, key: pipe.exists(key), bool),
    (r"jobq:ended", lambda pipe, key: pipe.hgetall(key), _fields),
    (r"jobq:own:.*", lambda pipe, key: pipe.zrange(key, 0, -1, withscores=True), _scored),
    (ZSETS, lambda pipe, key: pipe.zrange(key, 0, -1), _texts),
    (SETS, lambda pipe, key: pipe.smembers(key), _texts),
]
IGNORED = re.compile(r"jobq:(seq|deaths|back:.*|lease:.*|paused)|suspended|scheduler-lock:.*")


def stored(client: redis.Redis) -> dict[str, Any]:
    """Return the store's content, and the jobs whose hashes will expire."""
    names = [name for key in client.keys("*") if not IGNORED.fullmatch(name := _name(key))]
    kinds = [next((k for k in KINDS if re.fullmatch(k[0], name)), None) for name in names]
    with client.pipeline(transaction=False) as pipe:
        for name, kind in zip(names, kinds, strict=True):
            assert kind is not None, f"what is {name}?"
            kind[1](pipe, f"{keys.PREFIX}:{name}")
        jobs = [name for name in names if re.fullmatch("job:[^:]*", name)]
        for name in jobs:
            pipe.ttl(f"{keys.PREFIX}:{name}")
        replies = pipe.execute()
    found = {name: kind[2](reply) for name, kind, reply in zip(names, kinds, replies, strict=False) if kind}
    return found | {f"{name} expires": ttl > 0 for name, ttl in zip(jobs, replies[len(names) :], strict=True)}


def _name(key: Any) -> str:
    return str(key.decode()).removeprefix(f"{keys.PREFIX}:")


def expected(model: Books) -> dict[str, Any]:
    """Return what the store should contain."""
    found: dict[str, Any] = {"queues": sorted(keys.queue(name) for name in model.known_queues)}
    found |= {f"queue:{queue}": ids for queue, ids in model.queues.items()}
    found |= {f"{kind}:{queue}": sorted(ids) for (kind, queue), ids in model.registries.items()}
    found |= {f"queue:{queue}:intermediate:first_seen:{job_id}": True for queue, job_id in model.seen}
    found |= {f"results:{job_id}": len(claims) for job_id, claims in model.settled.items()}
    found |= {f"worker:{worker}": tuple(counts) for worker, counts in model.counted.items()}
    found["jobq:owners"] = sorted(model.held)
    found["jobq:ended"] = {job_id: how for job_id, (how, _) in model.ended.items()}
    found |= {f"jobq:waiting_for:{job_id}": sorted(ids) for job_id, (_, ids) in model.ended.items()}
    for job in model.jobs.values():
        found |= _of_job(job)
    for owner, holds in model.held.items():
        found[f"jobq:own:{owner}"] = {job_id: hold.claim for job_id, hold in holds.items()}
    found |= _traces(model)
    return {key: value for key, value in found.items() if value not in ([], {})}


def _of_job(job: Job) -> dict[str, Any]:
    return {
        f"job:{job.id}": (job.status, job.retries, job.crashes, job.redelivered, job.is_suspect),
        f"job:{job.id} expires": job.expires,
        f"job:{job.id}:dependents": sorted(job.dependents),
        f"job::{job.id}:dependencies": [job.dependency] if job.dependency else [],
    }


def _traces(model: Books) -> dict[str, Any]:
    """Return RQ's own view of the jobs that are held."""
    found: dict[str, list[str]] = defaultdict(list)
    executions: dict[str, Any] = {}
    for job_id, hold in ((job_id, hold) for holds in model.held.values() for job_id, hold in holds.items()):
        number = f"{hold.claim:032x}"
        if hold.intermediate:
            found[f"queue:{hold.queue}:intermediate"].append(job_id)
        if hold.wip:
            found[f"wip:{hold.queue}"].append(f"{job_id}:{number}")
        if hold.execution:
            executions[f"execution:{job_id}:{number}"] = True
            found[f"executions:{job_id}"].append(number)
        if hold.listed:
            found[f"worker:{hold.worker}:executions"].append(f"{job_id}:{number}")
    return executions | {key: sorted(members) for key, members in found.items()}
