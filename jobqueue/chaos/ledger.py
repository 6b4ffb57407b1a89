"""The store as a storm sees it: how far the jobs are, which trees have an owner there, and what became of each job.

Everything that a run writes stands under queues, ids and a record of its own, and ``clean`` takes all of it away.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from jobqueue import keys
from jobqueue.chaos import task
from jobqueue.chaos.count import ENDED, Fact, Tally, runs, tally
from jobqueue.connection import Store, explain, redis
from jobqueue.errors import StoreError
from jobqueue.inspector import Inspector
from jobqueue.producer import A_DAY, Queue

T = TypeVar("T")

PAGE = 500
PATIENCE = 20.0  # seconds that we wait for a store that was killed
REGISTRIES = ("wip", "finished", "failed", "scheduled", "deferred", "ready", "canceled")


class Ledger:
    """The jobs of one mode. Its own connection; commands here are safe to repeat, and are repeated after an outage."""

    def __init__(self, store: Store, queues: int) -> None:
        run = secrets.token_hex(4)
        self.queues = [f"chaos-{run}-{n + 1}" for n in range(queues)]
        self.record = keys.chaos(run)
        self.ids: list[str] = []
        self.workers: dict[int, str] = {}  # the supervisor's pid → the worker's name
        self._store = store
        self._client = store.client()

    def patiently(self, do: Callable[[], T]) -> T:
        """Do it, again if the store is being restarted. Raises StoreUnreachable or StoreRefused."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return do()
            except (redis.ConnectionError, redis.TimeoutError) as e:
                if time.monotonic() > deadline:
                    raise explain(e, self._store.address) from e
                time.sleep(0.05)
                with suppress(StoreError):
                    self._store.ensure()

    # -- before and during the storm -------------------------------------------------------------------------------

    def submit(self, durations: Sequence[float]) -> None:
        """Enqueue a job per duration, in turn into each queue."""
        for n, name in enumerate(self.queues):
            mine = durations[n :: len(self.queues)]
            with Queue(name, store=self._store) as queue:
                options = {"result_ttl": A_DAY, "failure_ttl": A_DAY}
                for start in range(0, len(mine), PAGE):
                    some = mine[start : start + PAGE]
                    batch = queue.enqueue_many(f"{task.__name__}:work", [self.record] * len(some), some, **options)
                    self.ids += batch.ids

    def ended(self) -> int:
        """How many jobs have an outcome, by RQ's registries."""
        return sum(self._pipe(("zcard", keys.registry(kind, name)) for name in self.queues for kind in ENDED))

    def note_workers(self) -> None:
        """Learn the names of the trees that have registered since."""
        members: Any = self.patiently(lambda: self._client.smembers(keys.workers_of(self.queues[0])))
        for member in members:
            name = member.decode()[len(keys.worker("")) :]
            if name not in self.workers.values():
                pid: Any = self.patiently(lambda name=name: self._client.hget(keys.worker(name), "pid"))  # type: ignore[misc]
                if pid:
                    self.workers[int(pid)] = name

    def owners(self) -> set[str]:
        """Return the names of the trees that have owners."""
        members: Any = self.patiently(lambda: self._client.smembers(keys.OWNERS))
        return {member.decode().rpartition(":")[0] for member in members}

    # -- afterwards ------------------------------------------------------------------------------------------------

    def tally(self) -> Tally:
        """Count what became of the jobs. Only when no worker runs any more: nothing may move meanwhile."""
        statuses = self._pipe(("hget", keys.job(i), "status") for i in self.ids)
        outcomes = self._pipe(("xlen", keys.results(i)) for i in self.ids)
        record: Any = self.patiently(lambda: self._client.hgetall(self.record))
        begun, done = runs(record)
        standing = self._standing()
        facts = [
            Fact(status.decode() if status else None, n, begun[i], done[i], i in standing)
            for i, status, n in zip(self.ids, statuses, outcomes, strict=True)
        ]
        return tally(facts, self._errors())

    def _standing(self) -> set[str]:
        """The ids in any list or sorted set from which somebody would take them again."""
        found = self._listed(set(REGISTRIES) - set(ENDED))
        owners: Any = self.patiently(lambda: self._client.smembers(keys.OWNERS))
        for owner in owners:
            found |= self._members("zrange", keys.own(owner.decode()))
        return found

    def _listed(self, kinds: Iterable[str]) -> set[str]:
        """The ids in our queues and in their registries of these kinds."""
        found: set[str] = set()
        for name in self.queues:
            for key in (keys.queue(name), keys.intermediate(name)):
                found |= self._members("lrange", key)
            for kind in kinds:
                found |= {member.partition(":")[0] for member in self._members("zrange", keys.registry(kind, name))}
        return found

    def _members(self, command: str, key: str) -> set[str]:
        members: Any = self.patiently(lambda: self._client.execute_command(command.upper(), key, 0, -1))
        return {member.decode() for member in members}

    def _errors(self) -> Iterator[str]:
        inspector = Inspector(self._client)
        for name in self.queues:
            failed = self.patiently(lambda name=name: inspector.failed(name, len(self.ids)))  # type: ignore[misc]
            yield from (job.error for job in failed)

    def clean(self) -> None:
        """Delete all that this run wrote; of its workers too, those that nobody has buried."""
        self.note_workers()
        self._forget_workers()
        ids = {*self.ids, *self._listed(REGISTRIES)}  # a Ctrl-C can come before a submit has told its ids
        self._delete_jobs(list(ids))
        for name in self.queues:
            held = self._members("lrange", keys.intermediate(name))  # RQ's maintenance remembers when it saw these
            self._delete(f"{keys.intermediate(name)}:first_seen:{job_id}" for job_id in held)
            self._delete(keys.registry(kind, name) for kind in REGISTRIES)
            self._delete([keys.queue(name), keys.intermediate(name), keys.back(name), keys.workers_of(name)])
            self.patiently(lambda name=name: self._client.srem(keys.QUEUES, keys.queue(name)))  # type: ignore[misc]
        self._delete([self.record])

    def _delete_jobs(self, ids: Sequence[str]) -> None:
        executions = self._pipe(("zrange", keys.executions(i), 0, -1) for i in ids)
        self._delete(keys.execution(i, x.decode()) for i, members in zip(ids, executions, strict=True) for x in members)
        for spell in (keys.job, keys.results, keys.executions, keys.fin, keys.dependents, keys.dependencies):
            self._delete(spell(i) for i in ids)

    def _forget_workers(self) -> None:
        names = set(self.workers.values())
        members: Any = self.patiently(lambda: self._client.smembers(keys.OWNERS))
        dead = [owner for owner in members if owner.decode().rpartition(":")[0] in names]
        self._delete(keys.own(owner.decode()) for owner in dead)
        if dead:
            self.patiently(lambda: self._client.srem(keys.OWNERS, *dead))
        for name in names:
            self._delete([keys.lease(name), keys.worker(name), keys.worker_executions(name)])
            self.patiently(lambda name=name: self._client.srem(keys.WORKERS, keys.worker(name)))  # type: ignore[misc]

    # -- round trips -----------------------------------------------------------------------------------------------

    def _pipe(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Send commands in pages; return the answers in order."""
        answers: list[Any] = []
        waiting = list(commands)
        for start in range(0, len(waiting), PAGE):
            answers += self.patiently(lambda page=waiting[start : start + PAGE]: self._send(page))  # type: ignore[misc]
        return answers

    def _send(self, page: Sequence[tuple[Any, ...]]) -> list[Any]:
        with self._client.pipeline(transaction=False) as pipe:
            for command in page:
                pipe.execute_command(command[0].upper(), *command[1:])
            answers: list[Any] = pipe.execute()
        return answers

    def _delete(self, names: Iterable[str]) -> None:
        self._pipe(("unlink", name) for name in names)

    def close(self) -> None:
        self._client.close()
