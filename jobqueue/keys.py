"""All Redis keys, spelled in one place. RQ's keys have RQ's meaning; jobq's stand under ``<prefix>:jobq:``.

The Lua scripts spell the same keys in ``scripts/_prelude.lua``; ``tests/unit/test_keys.py`` holds the two together.
"""

from __future__ import annotations

from rq.defaults import RQ_KEY_PREFIX

PREFIX = RQ_KEY_PREFIX

# -- RQ's ----------------------------------------------------------------------------------------------------------

QUEUES = f"{PREFIX}:queues"
SUSPENDED = f"{PREFIX}:suspended"
WORKERS = f"{PREFIX}:workers"


def queue(name: str) -> str:
    return f"{PREFIX}:queue:{name}"


def intermediate(name: str) -> str:
    return f"{PREFIX}:queue:{name}:intermediate"


def job(job_id: str) -> str:
    return f"{PREFIX}:job:{job_id}"


def dependents(job_id: str) -> str:
    return f"{PREFIX}:job:{job_id}:dependents"


def dependencies(job_id: str) -> str:
    """RQ spells this one with two colons."""
    return f"{PREFIX}:job::{job_id}:dependencies"


def results(job_id: str) -> str:
    return f"{PREFIX}:results:{job_id}"


def executions(job_id: str) -> str:
    return f"{PREFIX}:executions:{job_id}"


def execution(job_id: str, execution_id: str) -> str:
    return f"{PREFIX}:execution:{job_id}:{execution_id}"


def registry(kind: str, queue_name: str) -> str:
    """kind: finished, failed, wip, scheduled, deferred, ready or canceled."""
    return f"{PREFIX}:{kind}:{queue_name}"


def worker(name: str) -> str:
    return f"{PREFIX}:worker:{name}"


def worker_executions(name: str) -> str:
    return f"{PREFIX}:worker:{name}:executions"


def workers_of(queue_name: str) -> str:
    return f"{PREFIX}:workers:{queue_name}"


def channel(worker_name: str) -> str:
    return f"{PREFIX}:pubsub:{worker_name}"


def scheduler_lock(queue_name: str) -> str:
    return f"{PREFIX}:scheduler-lock:{queue_name}"


# -- jobq's --------------------------------------------------------------------------------------------------------

OWNERS = f"{PREFIX}:jobq:owners"
SEQ = f"{PREFIX}:jobq:seq"
PAUSED = f"{PREFIX}:jobq:paused"


def own(owner: str) -> str:
    """What the child process ``owner`` (W:CHILD.N) holds: member job id, score claim number."""
    return f"{PREFIX}:jobq:own:{owner}"


def lease(worker_name: str) -> str:
    return f"{PREFIX}:jobq:lease:{worker_name}"


def back(queue_name: str) -> str:
    """Ids that stand returned at the head of the queue: member job id, score the claim that took it first."""
    return f"{PREFIX}:jobq:back:{queue_name}"


def fin(job_id: str) -> str:
    """Watched by RQ's own finish; RESCUE deletes it, so that a finish of a dead owner cannot commit."""
    return f"{PREFIX}:jobq:fin:{job_id}"


def chaos(run: str) -> str:
    """What the jobs of one run of ``jobq chaos`` wrote about their runs: field id:token, value begun or done."""
    return f"{PREFIX}:jobq:chaos:{run}"
