"""Spell all Redis keys, in one place. RQ's keys have RQ's meaning; jobq's begin with ``<prefix>:jobq:``.

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


def first_seen(queue_name: str, job_id: str) -> str:
    """When RQ's maintenance first saw the job in the intermediate list."""
    return f"{PREFIX}:queue:{queue_name}:intermediate:first_seen:{job_id}"


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


def rate_limit(name: str) -> str:
    """How many jobs of a rate limit may be under way; with ``:allowed`` added those that are, with ``:rate_limited``
    those that wait."""
    return f"{PREFIX}:rl:{name}"


CRON_NAMES = f"{PREFIX}:cron_jobs"
CRON_SCHEDULERS = f"{PREFIX}:cron_schedulers"


def cron_scheduler(name: str) -> str:
    return f"{PREFIX}:cron_scheduler:{name}"


def cron_history(name: str) -> str:
    """The jobs that a cron entry of this name made: member job id, score when it was enqueued."""
    return f"{PREFIX}:cron_job:{name}:jobs"


# -- jobq's --------------------------------------------------------------------------------------------------------

OWNERS = f"{PREFIX}:jobq:owners"
SEQ = f"{PREFIX}:jobq:seq"
PAUSED = f"{PREFIX}:jobq:paused"
USAGE = f"{PREFIX}:jobq:usage"  # the tasks that have a record
# Counters for jobqueue/metrics: deaths of processes and runs that did not return, by cause; what became of their jobs.
DEATHS = f"{PREFIX}:jobq:deaths"
ASIDE = f"{PREFIX}:jobq:aside"  # keys of a wrong type that a script found: member key, score when it was moved aside
SCHEDULES = f"{PREFIX}:jobq:schedules"  # stored schedules: member id, score the next time
CRON_ENTRIES = f"{PREFIX}:jobq:cron_entries"  # the same for entries of cron files; only the leader enqueues these
ENDED = (
    f"{PREFIX}:jobq:ended"  # jobs whose end is recorded, and whose dependents are not all enqueued: id, how it ended
)
CRON_LEADER = f"{PREFIX}:jobq:cron_leader"  # the name of the supervisor that leads, with an expiry


def own(owner: str) -> str:
    """The claimed jobs of the child process ``owner`` (W:CHILD.N): member job id, score claim number."""
    return f"{PREFIX}:jobq:own:{owner}"


def lease(worker_name: str) -> str:
    return f"{PREFIX}:jobq:lease:{worker_name}"


def back(queue_name: str) -> str:
    """The returned jobs at the head of the queue: member job id, score the claim that took it first."""
    return f"{PREFIX}:jobq:back:{queue_name}"


def fin(job_id: str) -> str:
    """Watched by RQ's own finish; RESCUE deletes it, so that a finish of a dead owner cannot commit."""
    return f"{PREFIX}:jobq:fin:{job_id}"


def waiting_for(job_id: str) -> str:
    """The dependents of a job that is in ENDED."""
    return f"{PREFIX}:jobq:waiting_for:{job_id}"


def submit(mark: str) -> str:
    """The number of the request of a submit that counts: earlier ones, which were given up, do nothing when they arrive
    late."""
    return f"{PREFIX}:jobq:submit:{mark}"


def aside(key: str) -> str:
    """The place where a key of a wrong type is kept for a week after it was moved aside."""
    return f"{PREFIX}:jobq:aside:{key}"


def output(job_id: str) -> str:
    """The end of what a job's last run has logged and printed, where its worker keeps that: text, total (bytes)."""
    return f"{PREFIX}:jobq:output:{job_id}"


def usage(task: str) -> str:
    """The workers' records of a task's runs; jobqueue/insight/usage.py has the fields."""
    return f"{PREFIX}:jobq:usage:{task}"


def schedule(schedule_id: str) -> str:
    """When a schedule is due, its queue, and its last occurrence."""
    return f"{PREFIX}:jobq:schedule:{schedule_id}"


def schedule_job(schedule_id: str) -> str:
    """The fields with which each job of the schedule starts."""
    return f"{PREFIX}:jobq:schedule_job:{schedule_id}"


def bell(name: str) -> str:
    """A stream that ends the wait of the executor ``name`` for results, so that it sees a job that was just added."""
    return f"{PREFIX}:jobq:bell:{name}"


def chaos(run: str) -> str:
    """The notes of the jobs of one run of ``jobq chaos`` about their runs: field id:token, value begun or done."""
    return f"{PREFIX}:jobq:chaos:{run}"
