"""RQ's worker classes on our engine, for ``rq worker --worker-class`` and ``rq worker-pool``.

    jobqueue.rq.SimpleWorker    replaces RQ's SimpleWorker: jobs run in this process
    jobqueue.rq.Worker          replaces RQ's Worker: jobs run in one child that stays, where RQ forks one for each

Constructors, ``work()`` and defaults are RQ's: the serializer given, any function, ``--on-crash fail``. RQ's code does
registration, maintenance, commands, scheduler and signals; ours claims, runs and settles jobs. Where a subclass or a
patch changes how RQ runs jobs, RQ's own loop runs them (eligibility.py).
"""

from __future__ import annotations

import time

from redis.exceptions import RedisError
from rq.defaults import DEFAULT_WORKER_TTL
from rq.exceptions import StopRequested
from rq.worker import SimpleWorker as RQSimpleWorker
from rq.worker import Worker as RQWorker
from rq.worker import WorkerStatus

from jobqueue.network.backoff import Backoff
from jobqueue.workers.rq_classes.eligibility import why_rq
from jobqueue.workers.rq_classes.engine import Engine
from jobqueue.workers.rq_classes.horse import Horse
from jobqueue.workers.rq_classes.on_engine import OnOurEngine
from jobqueue.workers.rq_classes.rq_roles import RQRoles
from jobqueue.workers.rq_finish.overrides import remember
from jobqueue.workers.running.fork_hazards import MOST, in_words
from jobqueue.workers.running.open_descriptors import connections
from jobqueue.workers.running.output import lines_buffered
from jobqueue.workers.shared.deaths import DeathReport


class SimpleWorker(OnOurEngine, RQSimpleWorker):
    """RQ's SimpleWorker on our engine. A thread of this process renews the lease: when a job's C code holds the GIL for
    longer than ``lease`` seconds, other workers take this one for dead, and the job's outcome is not recorded."""

    lease = 30.0
    execution_ttl = DEFAULT_WORKER_TTL
    runs_user_code_apart = False

    def _why_rq(self) -> str:
        return why_rq(self, SimpleWorker, RQSimpleWorker)

    def _serve(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> int:
        completed, is_first = 0, True
        while True:
            left = None if max_jobs is None else max_jobs - completed
            engine = self._serve_once(burst, left, max_idle_time, is_first)
            completed, is_first = completed + engine.completed, False
            if not engine.fenced or self._stop_requested or completed == max_jobs:
                self.rq_roles.plugins.call("process_stop")  # type: ignore[union-attr]
                return completed

    def _serve_once(self, burst: bool, max_jobs: int | None, max_idle_time: int | None, is_first: bool) -> Engine:
        """Run jobs under one owner name; return the closed engine. If it was fenced, another one has to follow."""
        rq_roles = self.rq_roles
        assert rq_roles is not None
        engine = Engine(
            self,
            rq_roles.settings,
            self._own(rq_roles),
            rq_roles.page,
            rq_roles.client,
            tend=lambda: rq_roles.tend(before=engine.set_aside),
            plugins=rq_roles.plugins,
            is_first=is_first,
        )
        self.engine = engine
        try:
            with lines_buffered():
                engine.serve(burst, max_jobs, max_idle_time)
        except StopRequested:
            self._stop_requested = True
        finally:
            self.engine = None
            engine.close()
            try:
                rq_roles.rescue(DeathReport(engine.owner, list(rq_roles.page.journal.read()), []))
            except RedisError as e:
                self.log.warning("Worker %s: its jobs are left to a rescue: %s", self.name, e)
        return engine

    def _own(self, rq_roles: RQRoles) -> str:
        """Return a new owner name, however long the store does not answer. Where a job has closed our descriptors, the
        first request fails too: its connection is closed, or its number belongs to another file now."""
        backoff = Backoff()
        while True:
            try:
                return rq_roles.own()
            except RedisError as e:
                if self._stop_requested:
                    raise StopRequested from e
                self._state = WorkerStatus.IDLE  # RQ's signal handler raises in this state, which ends the wait
                self.log.warning("Worker %s: cannot start over yet: %s", self.name, e)
                time.sleep(backoff.failed())


class Worker(OnOurEngine, RQWorker):
    """RQ's Worker with one child that stays, where RQ forks one for each job."""

    horse: Horse | None = None

    def _why_rq(self) -> str:
        return why_rq(self, Worker, RQWorker)

    def _look_around(self) -> None:
        """Warn of connections that are open in this process: its horse is forked from it, as RQ's is, and has them."""
        if found := connections():
            self.log.warning(
                "Worker %s: open in this process and shared with its work horse: %s. After a horse that was killed, "
                "the next may read the rest of its answers: open connections in the jobs' functions",
                self.name,
                ", ".join(in_words(found)[:MOST]),
            )

    def _serve(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> int:
        assert self.rq_roles is not None
        self.horse = horse = Horse(self, self.rq_roles)
        try:
            horse.run(burst, max_jobs, max_idle_time)
        finally:
            try:
                horse.wait_for_helpers()
            finally:
                self.horse = None
                horse.close()
        return horse.completed

    @property
    def horse_pid(self) -> int:
        """The child's pid while it runs a job, else 0, as in RQ."""
        if self.horse is not None:
            return self.horse.pid if self.horse.is_busy else 0
        return self._horse_pid

    def get_state(self) -> str:
        if self.horse is not None and self.horse.is_busy:
            return WorkerStatus.BUSY
        return super().get_state()


remember(OnOurEngine, SimpleWorker, Worker)
