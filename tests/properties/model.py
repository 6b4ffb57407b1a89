"""The content that the store should have, in plain Python, for test_protocol_machine.py to compare with.

The model is told what each script was asked to do, says what the script must answer, and knows what the store must hold
afterwards (view.py spells that as keys). This file has the jobs, and the changes that need no token; model_owners.py
has the owners of jobs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Token = tuple[str, str, int]  # owner, job, claim


@dataclass(repr=False)
class Job:
    """A job whose hash exists."""

    id: str
    queue: str
    status: str = "queued"
    ttl: int | None = None  # seconds that it may wait
    result_ttl: int | None = None
    failure_ttl: int | None = None
    retries: int = 0
    on_crash: str | None = None
    front: bool = False  # of a scheduled job: it goes to the head when it is due
    expires: bool = False
    crashes: int = 0
    redelivered: int = 0
    is_suspect: bool = False
    order: int | None = None  # the claim under which it was given back first
    dependents: set[str] = field(default_factory=set)
    dependency: str | None = None

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(f"{self.id} {self.status} in {self.queue}")


@dataclass
class Hold:
    """A job that an owner holds, and which of RQ's keys for it exist."""

    claim: int
    queue: str
    worker: str
    intermediate: bool = True
    execution: bool = False
    listed: bool = False  # among the worker's executions
    wip: bool = False


class Books:
    """The true state of all jobs, and its changes by producers, operators and RQ's own tools. view.py and the machine
    read it."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.queues: dict[str, list[str]] = defaultdict(list)
        self.back: dict[str, dict[str, int]] = defaultdict(dict)  # returned to the head, and their order
        self.held: dict[str, dict[str, Hold]] = {}  # by the owners whose names stand in the owners set
        self.registries: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.settled: dict[str, list[int]] = defaultdict(list)  # job → claims whose outcome was recorded
        self.counted: dict[str, list[int]] = defaultdict(lambda: [0, 0])  # worker → successes, failures
        self.seen: set[tuple[str, str]] = set()  # (queue, job) that RQ's maintenance has met in an intermediate list
        self.known_queues: set[str] = set()
        self.ended: dict[str, tuple[str, set[str]]] = {}  # the end, dependents not enqueued
        self.last_claim = 0

    # -- asking --------------------------------------------------------------------------------------------------------

    def hold(self, token: Token) -> Hold | None:
        owner, job_id, claim = token
        hold = self.held.get(owner, {}).get(job_id)
        return hold if hold is not None and hold.claim == claim else None

    def places(self, job_id: str) -> list[str]:
        found = ["queue" for ids in self.queues.values() for other in ids if other == job_id]
        found += ["owner" for holds in self.held.values() if job_id in holds]
        return found + [kind for (kind, _), ids in self.registries.items() if job_id in ids]

    # -- producers and operators ---------------------------------------------------------------------------------------

    def enqueue(self, job: Job, at_front: bool) -> bool:
        self.known_queues.add(job.queue)
        if job.id in self.jobs:
            return False
        self.jobs[job.id] = job
        job.expires = job.ttl is not None
        self._push(job, at_front)
        return True

    def _push(self, job: Job, at_front: bool = False) -> None:
        job.status = "queued"
        self.known_queues.add(job.queue)
        self.queues[job.queue].insert(0 if at_front else len(self.queues[job.queue]), job.id)

    def shelve(self, job: Job, kind: str) -> None:
        """Put the job into a registry where it waits."""
        self.jobs[job.id] = job
        job.status = kind
        self.registries[kind, job.queue].add(job.id)

    def due(self, queue: str, ids: Iterable[str]) -> int:
        moved = 0
        for job_id in ids:
            self.registries["scheduled", queue].discard(job_id)
            moved += 1
            if job := self.jobs.get(job_id):
                job.expires = job.expires or job.ttl is not None
                self._push(job, job.front)
        return moved

    def vanish(self, job_id: str) -> None:
        """Let its hash expire, or be deleted by hand: keys that name it stay."""
        del self.jobs[job_id]

    def cancel(self, job_id: str) -> None:
        """Do what RQ's cancel does."""
        job = self.jobs[job_id]
        self._take_out(job, wip=job.status == "started")
        job.status = "canceled"
        self.registries["canceled", job.queue].add(job_id)

    def hand_over(self, job: Job, how: str) -> None:
        """End the job: its dependents are put aside."""
        if job.dependents:
            _, before = self.ended.get(job.id, ("", set()))
            self.ended[job.id] = how, before | job.dependents
            job.dependents = set()

    def bring_on(self, job_id: str) -> None:
        """Enqueue the dependents that wait for nothing else; the others continue to wait."""
        if job_id not in self.ended:
            return
        how, dependents = self.ended.pop(job_id)
        parent = self.jobs.get(job_id)
        for dependent in (self.jobs[i] for i in sorted(dependents) if i in self.jobs):
            if dependent.status != "deferred":
                continue
            if how == "finished" or (parent and parent.status == "finished"):
                self.registries["deferred", dependent.queue].discard(dependent.id)
                self._push(dependent)
            elif parent:
                parent.dependents.add(dependent.id)

    def delete(self, job_id: str) -> None:
        """Do what RQ's delete does: remove executions, results, and the place, but not an owner's sorted set."""
        job = self.jobs.pop(job_id)
        self._take_out(job, wip=True)
        for hold in self._holds(job_id):
            hold.execution = hold.listed = False
        self.settled.pop(job_id, None)

    def _take_out(self, job: Job, wip: bool) -> None:
        queue = self.queues[job.queue]
        if job.id in queue:
            queue.remove(job.id)
        kind = "failed" if job.status == "stopped" else job.status
        self.registries[kind, job.queue].discard(job.id)
        for hold in self._holds(job.id):
            hold.wip = hold.wip and not wip

    def _holds(self, job_id: str) -> list[Hold]:
        return [holds[job_id] for holds in self.held.values() if job_id in holds]
