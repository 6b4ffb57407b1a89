"""Start and replace the own workers of an executor: a supervisor on a private queue that serves only what the caller
named.

    submit(f) ──► does the group serve f? ──no──► a new group that serves f too, on a queue of its own; the old takes
        │                                        no more jobs and leaves when it has done those that it has
        └──yes──► its queue ──► `jobq worker QUEUE -I ...`

A group runs only what the caller has named, whatever is written into the store: that is why it is not started with
--allow-any, and why it is replaced when the caller names more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from jobqueue.errors import BrokenWorkers, WorkerDied
from jobqueue.executor.private_queue import erase, new_name, pipe_to
from jobqueue.executor.references import check_served, search_path
from jobqueue.executor.worker_process import WorkerProcess, environment
from jobqueue.store.connection import redis
from jobqueue.store.open import Store

log = logging.getLogger(__name__)

GRACE = 2.0  # seconds that running jobs get when the workers stop
MOST_DEATHS = 3  # deaths of the supervisor in a row, without a result in between
BOOT_FAILED = 2  # exit code of a `jobq worker` that cannot start, so that starting it again is useless


@dataclass(frozen=True)
class Shape:
    """How own workers are started; see JobExecutor."""

    mode: str
    workers: int | None
    flags: tuple[str, ...] = ()
    log: Path | None = None


class WorkerGroup:
    """One supervisor and its private queue. Any thread may call it."""

    def __init__(self, store: Store, shape: Shape, serves: Iterable[str]) -> None:
        self.queue = new_name("executor")
        self.serves = frozenset(serves)
        self.outstanding = 0  # jobs; counted by WorkerGroups
        self._store = store
        self._shape = shape
        self._deaths = 0
        self._over = False
        self._broken = ""  # why it cannot go on
        self._mutex = threading.Lock()
        self._worker = self._start()

    def _start(self) -> WorkerProcess:
        shape = self._shape
        env = environment(self._store) | {"PYTHONPATH": search_path()}
        flags = ["--private", "--no-scheduler", "--maintenance-interval", "0", *shape.flags]
        return WorkerProcess(
            [self.queue],
            mode=shape.mode,
            number=shape.workers,
            modules=sorted(self.serves),
            flags=flags,
            env=env,
            log=shape.log,
            grace=GRACE,
            inherit_stdout=True,
        ).start()

    def check(self) -> None:
        """Start the supervisor again if it died; its jobs are rescued after its lease. Raises BrokenWorkers when that
        is useless."""
        with self._mutex:
            if self._over:
                return
            if self._broken:  # a new exception each time: a raised one keeps the frames of all callers
                raise BrokenWorkers(self._broken)
            try:
                self._worker.check()
            except WorkerDied as e:
                self._worker.stop()
                self._deaths += 1
                if e.exit_code_of_worker == BOOT_FAILED or self._deaths > MOST_DEATHS:
                    self._broken = f"The executor's workers cannot go on. {e}"
                    raise BrokenWorkers(self._broken) from None
                log.warning("%s; starting it again", e)
                self._worker = self._start()

    def did_a_job(self) -> None:
        self._deaths = 0

    def halt(self) -> None:
        """Stop the workers; their queue and its jobs stay."""
        self._over = True  # before the lock, so that ``check`` does not take the end for a death
        with self._mutex:
            self._worker.stop()

    def stop(self) -> None:
        """Stop the workers, and delete their queue with all its jobs."""
        self.halt()
        try:
            with self._store.client() as client:
                erase(pipe_to(client), [self.queue])
        except redis.RedisError as e:
            log.warning("The queue %s could not be deleted: %s", self.queue, e)


class WorkerGroups:
    """The groups of one executor: one that takes new jobs, and older ones that still have some."""

    def __init__(self, store: Store, shape: Shape, serves: Iterable[str]) -> None:
        self._make: Callable[[Iterable[str]], WorkerGroup] = lambda names: WorkerGroup(store, shape, names)
        self._serves = frozenset(serves)
        self._checked: set[str] = set()  # names that can be imported
        self._groups: list[WorkerGroup] = []
        self._leaving: list[threading.Thread] = []
        self._mutex = threading.RLock()
        self._ending = threading.Lock()

    def queue_for(self, serves: str) -> str:
        """Return the queue of a group that serves ``serves``; start the group if need be. One job counts as outstanding
        from now on, so that the group stays. Raises BrokenWorkers."""
        if serves and serves not in self._checked:
            check_served(serves)  # a name that cannot be imported would break the whole executor
            self._checked.add(serves)
        with self._mutex:
            if not self._groups or not self._covers(self._groups[-1], serves):
                known = self._groups[-1].serves if self._groups else self._serves
                known |= {serves} if serves else frozenset()
                self._groups.append(self._make(known))
                self._dismiss_the_idle()
            group = self._groups[-1]
            group.check()
            group.outstanding += 1
            return group.queue

    @staticmethod
    def _covers(group: WorkerGroup, serves: str) -> bool:
        bits = serves.partition(":")[0].split(".")
        parents = {".".join(bits[:i]) for i in range(1, len(bits) + 1)}
        return not serves or not group.serves.isdisjoint({serves, *parents})

    def count(self, queue: str, jobs: int) -> None:
        """Add so many outstanding jobs of that queue; a negative number when jobs have ended or were never enqueued."""
        with self._mutex:
            for group in self._groups:
                if group.queue == queue:
                    group.outstanding += jobs
            self._dismiss_the_idle()

    def settled(self, queue: str) -> None:
        """Note that a job of that queue has its outcome, which shows that its workers work."""
        with self._mutex:
            for group in self._groups:
                if group.queue == queue:
                    group.did_a_job()
        self.count(queue, -1)

    def check(self) -> None:
        """Check all groups. Raises BrokenWorkers."""
        with self._mutex:
            groups = list(self._groups)
        for group in groups:
            group.check()

    def _dismiss_the_idle(self) -> None:
        """Stop older groups that have no jobs, in threads, so that no caller waits for that."""
        for group in [group for group in self._groups[:-1] if not group.outstanding]:
            self._groups.remove(group)
            self._leaving = [thread for thread in self._leaving if thread.is_alive()]
            self._leaving.append(threading.Thread(target=group.stop, name="jobq-group-leaves"))
            self._leaving[-1].start()

    def halt(self) -> None:
        """Stop all workers and interrupt what they run. Their jobs stay until ``stop``."""
        with self._ending:
            with self._mutex:
                groups = list(self._groups)
            for group in groups:
                group.halt()

    def stop(self) -> None:
        """Stop all workers and interrupt what they run. Safe to repeat, and from two threads: when it returns they have
        stopped, so that the store may be closed. (No new threads here: Python cannot start any while it exits.)"""
        with self._ending:
            with self._mutex:
                groups, self._groups = self._groups, []
                leaving, self._leaving = self._leaving, []
            for group in groups:
                group.stop()
            for thread in leaving:
                thread.join()
