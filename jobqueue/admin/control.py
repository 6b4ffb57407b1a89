"""Act on single jobs and queues: requeue, delete, cancel, stop, pause. Each is one transaction."""

from __future__ import annotations

import time
from typing import Any

import redis
from rq.command import send_stop_job_command
from rq.exceptions import InvalidJobOperation, NoSuchJobError

from jobqueue.errors import JobError, NoSuchJob
from jobqueue.job import Job
from jobqueue.protocol import keys
from jobqueue.protocol.protocol import Protocol
from jobqueue.serializers import JSON, Auto

_WAITING = frozenset({"created", "queued", "scheduled", "deferred", "rate_limited", "ready_to_enqueue"})
ASK_AGAIN = 2.0  # seconds between two requests to stop a job


def requeue(client: redis.Redis, job_id: str) -> None:
    """Put a failed or stopped job back into its queue, as if it had never run. Raises NoSuchJob, JobError.

    RQ removes it from the registry and pushes it in two steps; a client that died between them would lose the job.
    """
    (reply,) = Protocol(client).requeue_failed([job_id])
    if error := why_not_requeued(job_id, reply):
        raise error


def why_not_requeued(job_id: str, reply: str) -> JobError | None:
    """Return what the script's reply about a job means; None: it was requeued."""
    if reply == "requeued":
        return None
    if not reply:
        return _no_such_job(job_id)
    if reply == "limited":
        return JobError(f"Job {job_id} is rate limited: requeue it with `rq requeue`, which takes its turn.", job_id)
    return JobError(f"Job {job_id} is {reply}; only failed and stopped jobs can be requeued.", job_id)


def delete_failed(client: redis.Redis, job_id: str) -> None:
    """Delete a failed or stopped job, its results and its output. Raises NoSuchJob, JobError."""
    (reply,) = Protocol(client).delete_failed([job_id])
    if error := why_not_deleted(client, job_id, reply):
        raise error


def why_not_deleted(client: redis.Redis, job_id: str, reply: str) -> JobError | None:
    """Do what the script has left to RQ's code; return what its reply about a job means; None: it is deleted."""
    if reply == "deleted":
        return None
    if reply == "by rq":
        return delete_by_rq(client, job_id)
    return JobError(f"Job {job_id} is {reply}, not failed.", job_id) if reply else _no_such_job(job_id)


def delete_by_rq(client: redis.Redis, job_id: str) -> NoSuchJob | None:
    """Delete a job that has a rate limit or belongs to a group. Return NoSuchJob if it is gone."""
    try:
        _fetch(client, job_id).delete()
    except NoSuchJob as e:
        return e
    client.delete(keys.output(job_id))
    return None


def waits_for(client: redis.Redis, job_id: str) -> list[str]:
    """Return the ids of the jobs that depend on this one, to tell the user what a delete leaves behind."""
    key = keys.dependents(job_id).encode(errors="surrogateescape")
    if client.type(key) != b"set":
        return []
    found: Any = client.smembers(key)
    ids = sorted(i.decode(errors="surrogateescape") for i in found)
    with client.pipeline(transaction=False) as pipe:
        for i in ids:
            pipe.hget(keys.job(i).encode(errors="surrogateescape"), "status")
        states = pipe.execute(raise_on_error=False)
    return [i for i, status in zip(ids, states, strict=True) if status == b"deferred"]


def cancel(client: redis.Redis, job_id: str) -> None:
    """Cancel a job that waits. Raises NoSuchJob; JobError for a job that runs, is about to, or has ended."""
    if error := why_not_canceled(job_id, *Protocol(client).cancel_job(job_id, only_waiting=True)):
        raise error


def why_not_canceled(job_id: str, done: bool, before: str) -> JobError | None:
    """Return what the script's reply about a job means; None: it was canceled."""
    if done:
        return None
    if not before:
        return _no_such_job(job_id)
    if before == "started":
        return JobError(f"Job {job_id} is running; only a job that waits can be canceled.", job_id)
    if before == "held":
        return JobError(f"Job {job_id} is held by a worker and about to run.", job_id)
    return JobError(f"Job {job_id} is {before} already.", job_id)


def stop(client: redis.Redis, job_id: str, timeout: float) -> bool:
    """Ask the worker of a running job to stop it (RQ's stop-job command), and wait up to ``timeout`` seconds.

    Returns True if it has ended, False if not yet. Raises NoSuchJob; JobError for a job that does not run, or still
    runs at the end of the time.
    """
    job = _fetch(client, job_id)
    status = str(job.get_status(refresh=False).value)
    if status != "started":
        hint = "; jobq cancel takes it out of its queue" if status in _WAITING else ""
        raise JobError(f"Job {job_id} does not run: it is {status}{hint}.", job_id)
    now = time.monotonic()
    deadline, ask_at = now + timeout, now
    send_stop_job_command(client, job_id, serializer=Auto)
    while (now := time.monotonic()) < deadline:
        if now >= ask_at + ASK_AGAIN:
            # The worker's subscription may have died silently; repeating the request is harmless.
            ask_at = now
            _ask_to_stop(client, job_id)
        if client.hget(keys.job(job_id), "status") != b"started":
            return True
        time.sleep(0.02)
    if timeout:
        raise JobError(f"Job {job_id} still runs after {timeout:g} s; is its worker {job.worker_name} alive?", job_id)
    return False


def _ask_to_stop(client: redis.Redis, job_id: str) -> None:
    try:
        send_stop_job_command(client, job_id, serializer=Auto)
    except (NoSuchJobError, InvalidJobOperation):  # the job has just ended
        pass


def pause(client: redis.Redis, queue: str | None) -> bool:
    """Keep workers from taking more from the queue, or without one from any; return whether that is new."""
    if queue is None:
        return client.set(keys.SUSPENDED, 1, nx=True) is not None
    return bool(client.sadd(keys.PAUSED, queue))


def resume(client: redis.Redis, queue: str | None) -> bool:
    """Undo pause; return whether there was a pause."""
    if queue is None:
        return bool(client.delete(keys.SUSPENDED))
    return bool(client.srem(keys.PAUSED, queue))


def _fetch(client: redis.Redis, job_id: str) -> Job:
    try:
        return Job.fetch(job_id, connection=client, serializer=JSON)  # type: ignore[return-value]  # never unpickles
    except (NoSuchJobError, ValueError, TypeError):
        raise _no_such_job(job_id) from None


def _no_such_job(job_id: str) -> NoSuchJob:
    return NoSuchJob(f"There is no job {job_id}: never enqueued, deleted, or expired.", job_id)
