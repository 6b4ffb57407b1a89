"""The rules of producers, operators and RQ's own tools."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from machine import Machine
from model import Job
from model_owners import ENDS
from processes import QUEUES, THEN
from rq.job import Job as RQJob

from jobqueue.protocol import keys
from jobqueue.serializers import JSON

IDS = tuple("abcdefgh")
LONG_AGO, NEVER = 1, 4_000_000_000
queues = st.sampled_from(QUEUES)
options: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "ttl": st.just(1000),
        "retries": st.just(1),
        "result_ttl": st.sampled_from([0, -1]),
        "failure_ttl": st.sampled_from([0, 0, -1]),
        "on_crash": st.sampled_from(["retry", "fail"]),
    },
)


def fields_of(job: Job, status: str = "queued") -> Any:
    """Return the hash of a job as producers write it."""
    fields: dict[str, Any] = {
        "status": status,
        "origin": job.queue,
        "data": b'["x.y",null,[],{}]',
        "timeout": 180,
        "created_at": THEN,
        "ttl": job.ttl,
        "result_ttl": job.result_ttl,
        "failure_ttl": job.failure_ttl,
        "retries_left": job.retries or None,
        "jobq_on_crash": job.on_crash,
        "enqueue_at_front": 1 if job.front else None,
        "dependency_ids": json.dumps([job.dependency]) if job.dependency else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


class Clients(Machine):
    """The rules of producers, operators and RQ's own tools."""

    def free_ids(self) -> list[str]:
        """Return ids that no key uses. (An id whose hash expired while it was in a queue is there twice when it is
        enqueued again: in RQ too.)"""
        return [job_id for job_id in IDS if job_id not in self.model.jobs and not self.model.places(job_id)]

    @initialize(data=st.data(), queue=queues)
    def first_jobs(self, data: st.DataObject, queue: str) -> None:
        for job_id in IDS[: len(IDS) // 2]:
            job = Job(job_id, queue, **data.draw(options))
            self.model.enqueue(job, at_front=False)
            self.protocol.enqueue(queue, [(job_id, fields_of(job))], ttl=job.ttl)

    @precondition(lambda self: self.free_ids())
    @rule(data=st.data(), queue=queues, at_front=st.booleans(), repeats=st.integers(0, 1), options=options)
    def enqueue(self, data: st.DataObject, queue: str, at_front: bool, repeats: int, options: Any) -> None:
        """Enqueue new jobs, again after a lost reply."""
        some = data.draw(st.lists(st.sampled_from(self.free_ids()), min_size=1, max_size=4, unique=True))
        for _ in range(1 + repeats):
            jobs = [Job(job_id, queue, **options) for job_id in some]
            new = [self.model.enqueue(job, at_front) for job in jobs]
            sent = [(job.id, fields_of(job)) for job in jobs]
            assert self.protocol.enqueue(queue, sent, at_front=at_front, ttl=options.get("ttl")) == new

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data(), queue=queues)
    def enqueue_again(self, data: st.DataObject, queue: str) -> None:
        """Enqueue an id that exists already, wherever it is."""
        job = Job(self.one(data, sorted(self.model.jobs)), queue)
        assert self.protocol.enqueue(queue, [(job.id, fields_of(job))]) == [self.model.enqueue(job, False)]

    @precondition(lambda self: self.free_ids())
    @rule(data=st.data(), queue=queues, front=st.booleans(), is_due=st.booleans(), options=options)
    def schedule(self, data: st.DataObject, queue: str, front: bool, is_due: bool, options: Any) -> None:
        job = Job(self.one(data, self.free_ids()), queue, front=front, **options)
        self.client.hset(keys.job(job.id), mapping=fields_of(job, "scheduled"))
        self.client.zadd(keys.registry("scheduled", queue), {job.id: LONG_AGO if is_due else NEVER})
        self.model.shelve(job, "scheduled")

    @rule(queue=queues)
    def due(self, queue: str) -> None:
        """Move due jobs to their queues; not while an RQ scheduler does that."""
        registry = keys.registry("scheduled", queue)
        self.client.set(keys.scheduler_lock(queue), 1)
        assert self.protocol.due([queue]) == [-1 if self.client.exists(registry) else 0]
        self.client.delete(keys.scheduler_lock(queue))
        ids: Any = self.client.zrangebyscore(registry, 0, LONG_AGO)
        assert self.protocol.due([queue]) == [self.model.due(queue, [job_id.decode() for job_id in ids])]

    @precondition(lambda self: self.free_ids() and self.can_have_dependents())
    @rule(data=st.data(), queue=queues)
    def depend(self, data: st.DataObject, queue: str) -> None:
        """Enqueue a job that waits for another; RQ's own finish has to end that one from now on."""
        parent = self.one(data, self.can_have_dependents())
        job = Job(self.one(data, self.free_ids()), queue, dependency=parent.id)
        self.client.hset(keys.job(job.id), mapping=fields_of(job, "deferred"))
        self.client.zadd(keys.registry("deferred", queue), {job.id: LONG_AGO})
        self.client.sadd(keys.dependents(parent.id), job.id)
        self.client.sadd(keys.dependencies(job.id), parent.id)
        self.client.sadd(keys.QUEUES, keys.queue(queue))
        self.model.known_queues.add(queue)
        self.model.shelve(job, "deferred")
        parent.dependents.add(job.id)

    def can_have_dependents(self) -> list[Job]:
        waiting = [job for job in self.model.jobs.values() if job.status in ("queued", "started")]
        return [
            job for job in waiting if not job.dependents and job.id not in self.model.ended
        ]  # of several RQ enqueues any first

    @precondition(lambda self: self.plain())
    @rule(data=st.data(), how=st.sampled_from(["vanish", "delete", "cancel", "our cancel"]))
    def remove(self, data: st.DataObject, how: str) -> None:
        """Let a hash expire, or do RQ's delete or cancel, at any time."""
        held = [job_id for job_id in self.plain() if "owner" in self.model.places(job_id)]
        job_id = self.one(data, held or self.plain())
        if how == "vanish":
            self.client.delete(keys.job(job_id))
            self.model.vanish(job_id)
            return
        job = RQJob.fetch(job_id, connection=self.client, serializer=JSON)
        if how == "delete":
            job.delete()
            self.model.delete(job_id)
        elif how == "our cancel":
            if done := self.protocol.cancel_job(job_id, only_waiting=False)[0]:
                self.model.cancel(job_id)
            assert done == (job.get_status(refresh=False).value not in ("canceled", *ENDS))
        elif not job.is_canceled:
            job.cancel()
            self.model.cancel(job_id)

    def plain(self) -> list[str]:
        """Return jobs without dependents and dependencies: removing others is RQ's task."""
        return sorted(job.id for job in self.model.jobs.values() if not job.dependents and not job.dependency)

    @precondition(lambda self: self.free_to_send)
    @rule(data=st.data(), which=st.sampled_from(["all", *QUEUES]))
    def closed(self, data: st.DataObject, which: str) -> None:
        """Let a child claim jobs while workers are suspended or a queue is paused."""
        process = self.one(data, self.free_to_send)
        if which == "all":
            self.suspended = self.client.set(keys.SUSPENDED, 1) is True
        else:
            self.client.sadd(keys.PAUSED, which)
            self.paused.add(which)
        self.cycled(process, QUEUES, want=2, idle=2, is_lost=process.dead)
        self.client.delete(keys.SUSPENDED, keys.PAUSED)
        self.suspended, self.paused = False, set()
