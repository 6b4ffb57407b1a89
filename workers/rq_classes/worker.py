"""Worker classes for ``rq worker --worker-class`` and ``rq worker-pool``: RQ's, on our engine.

    jobqueue.rq.SimpleWorker    in the place of RQ's SimpleWorker: jobs run in this process
    jobqueue.rq.Worker          in the place of RQ's Worker: jobs run in one warm child instead of a fork for each

Same constructors, same work(), RQ's defaults: the serializer given, any function, ``--on-crash fail``. Registration,
maintenance, commands, scheduler and signals are RQ's; claiming, running and settling are ours. Where somebody has
overridden how RQ runs jobs, RQ's own loop does it (eligibility.py).
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from redis import Redis
from redis.exceptions import ClusterCrossSlotError, ClusterDownError, ConnectionError, MovedError, RedisError
from rq.command import parse_payload
from rq.defaults import DEFAULT_LOGGING_DATE_FORMAT, DEFAULT_LOGGING_FORMAT, DEFAULT_WORKER_TTL
from rq.exceptions import StopRequested
from rq.queue import Queue
from rq.utils import now, utcformat
from rq.worker import BaseWorker, DequeueStrategy, WorkerStatus
from rq.worker import SimpleWorker as RQSimpleWorker
from rq.worker import Worker as RQWorker

from jobqueue.network.backoff import Backoff
from jobqueue.network.listening import Listener
from jobqueue.protocol.protocol import Protocol
from jobqueue.store.address import NO_CLUSTER
from jobqueue.store.connection import limit_commands, takes_bytes
from jobqueue.workers.rq_classes.eligibility import why_rq
from jobqueue.workers.rq_classes.engine import Engine
from jobqueue.workers.rq_classes.horse import Horse
from jobqueue.workers.rq_classes.lease import is_dead
from jobqueue.workers.rq_classes.rq_roles import RQRoles
from jobqueue.workers.rq_finish.maintenance import Intermediate, take_out_wrong_entries
from jobqueue.workers.rq_finish.overrides import remember
from jobqueue.workers.running.context import after_imports
from jobqueue.workers.running.copies import this_is_the_original
from jobqueue.workers.running.fork_hazards import MOST, in_words
from jobqueue.workers.running.limits import PASSING
from jobqueue.workers.running.open_descriptors import connections
from jobqueue.workers.running.output import lines_buffered
from jobqueue.workers.shared.deaths import EXECUTION_TTL, DeathReport, claim_in
from jobqueue.workers.shared.logs import logging_guarded

RAISED_BY_SIGNALS = (StopRequested, SystemExit, KeyboardInterrupt)  # in this process, wherever it stands


class OnOurEngine(BaseWorker):
    """What both classes share: RQ's work() with our engine in the place of its loop."""

    engine: Engine | None = None  # while jobs run in this process
    horse: Horse | None = None  # while they run in a child
    rq_roles: RQRoles | None = None
    lease = 10.0  # seconds without a renewal after which this worker may be called dead
    execution_ttl = EXECUTION_TTL

    def __init__(self, queues: Any, name: str | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(queues, name, *args, **kwargs)
        takes_bytes(self.connection)

    def work(
        self,
        burst: bool = False,
        logging_level: str | None = None,
        date_format: str = DEFAULT_LOGGING_DATE_FORMAT,
        log_format: str = DEFAULT_LOGGING_FORMAT,
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        with_scheduler: bool = False,
        dequeue_strategy: DequeueStrategy = DequeueStrategy.DEFAULT,
    ) -> bool:
        """Run jobs as RQ's work() does, with its arguments. Returns whether any job was run.

        Raises redis-py's ConnectionError, which `rq worker` answers with one line, also for a Redis Cluster.
        """
        formats = (logging_level, date_format, log_format)
        if why := self._why_rq():
            self.log.info("Worker %s: RQ's own loop runs it, not jobq's engine: %s", self.name, why)
            return super().work(burst, *formats, max_jobs, max_idle_time, with_scheduler, dequeue_strategy)
        self._look_around()
        try:
            self.bootstrap(*formats)
        except (ClusterCrossSlotError, ClusterDownError, MovedError) as e:
            raise ConnectionError(f"The store {NO_CLUSTER}") from e
        self._dequeue_strategy = dequeue_strategy
        if with_scheduler:
            self._start_scheduler(burst, *formats)
        self._install_signal_handlers()  # type: ignore[no-untyped-call]
        try:
            with self._closed_terminal_stops(), logging_guarded(RAISED_BY_SIGNALS + PASSING, self.log):
                return bool(self._work_on_engine(burst, max_jobs, max_idle_time))
        finally:
            self.teardown()  # type: ignore[no-untyped-call]

    @contextmanager
    def _closed_terminal_stops(self) -> Iterator[None]:
        """SIGHUP is a stop like SIGTERM: RQ's worker dies of it with its job, unless somebody ignores it (nohup)."""
        before = signal.getsignal(signal.SIGHUP)
        if before is signal.SIG_DFL:
            signal.signal(signal.SIGHUP, self.request_stop)
        try:
            yield
        finally:
            if before is signal.SIG_DFL:
                signal.signal(signal.SIGHUP, before)

    def _why_rq(self) -> str:
        raise NotImplementedError

    def _look_around(self) -> None:
        """Before anything of ours is open."""

    def _serve(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> int:
        """Run jobs; return how many."""
        raise NotImplementedError

    def _work_on_engine(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> int:
        this_is_the_original()
        self.rq_roles = RQRoles(self, self.lease, self.execution_ttl)
        after_imports.capture()
        try:
            self.rq_roles.start()
            with after_imports.watching_imports():
                return self._serve(burst, max_jobs, max_idle_time)
        except StopRequested:
            return 0
        except Exception:  # as RQ's work() does
            self.log.error("Worker %s: found an unhandled exception, quitting...", self.name, exc_info=True)
            return 0
        finally:
            rq_roles, self.rq_roles = self.rq_roles, None
            try:
                rq_roles.stop()
            except RedisError as e:
                self.log.warning("Worker %s: could not give its lease back: %s", self.name, e)

    def register_birth(self) -> None:
        """As RQ's; the name of a worker of ours that was killed is free once its lease has run out."""
        if is_dead(self.connection, self.name):
            self.connection.hset(self.key, "death", utcformat(now()))
        super().register_birth()  # type: ignore[no-untyped-call]

    def _set_connection(self, connection: Redis) -> Redis:
        """RQ lets each command of this client wait for 415 s, as its loop blocks over it; ours does not, and jobs get
        it too."""
        connection = super()._set_connection(connection)
        limit_commands(connection)
        return connection

    def subscribe(self) -> None:
        """As RQ's, over a connection that is looked after."""
        self.log.info("Worker %s: subscribing to channel %s", self.name, self.pubsub_channel_name)
        self.pubsub = Listener(self.connection.connection_pool)
        self.pubsub.subscribe(**{self.pubsub_channel_name: self.handle_payload})
        self.pubsub_thread = self.pubsub.run_in_thread(  # type: ignore[assignment]
            sleep_time=60, daemon=True, exception_handler=self._pubsub_exception_handler
        )

    def unsubscribe(self) -> None:
        """As RQ's, in another order: who hears the goodbye before it is told to stop listens for a second more."""
        if self.pubsub is not None and self.pubsub_thread is not None:
            self.log.info("Worker %s: unsubscribing from channel %s", self.name, self.pubsub_channel_name)
            self.pubsub_thread.stop()
            try:
                self.pubsub.unsubscribe()  # wakes it
            except RedisError as e:  # a job has closed its connection: who listens to nothing needs no goodbye
                self.log.debug("Worker %s: could not unsubscribe: %s", self.name, e)
            self.pubsub_thread.join(timeout=1)
            self.pubsub.close()

    def clean_registries(self) -> None:
        """RQ's, but what a process of ours holds is not stuck between two lists: a child may claim while we look."""
        classes = [queue.__class__ for queue in self.queues]
        for name in self.queue_names():
            take_out_wrong_entries(self.connection, name)
        try:
            for queue in self.queues:
                queue.__class__ = _careful(queue.__class__)  # type: ignore[arg-type]  # a class can be hashed
            after_imports.run(super().clean_registries)  # failure callbacks are user code
        finally:
            for queue, own in zip(self.queues, classes, strict=True):
                queue.__class__ = own
        protocol = Protocol(self.connection)
        for name in self.queue_names():
            protocol.forget_gone("deferred", name)
            protocol.forget_gone("canceled", name)

    # -- commands and signals ------------------------------------------------------------------------------------------

    def handle_payload(self, message: Any) -> None:
        """(pubsub thread) A command from outside."""
        payload = parse_payload(message)
        if self.rq_roles is not None and payload["command"] in ("stop-job", "stop-execution"):
            self._stop_job(self.rq_roles, payload.get("job_id", ""), payload.get("execution_id"))
        else:
            super().handle_payload(message)  # type: ignore[no-untyped-call]

    def _stop_job(self, rq_roles: RQRoles, job_id: str, execution_id: str | None) -> None:
        runs = self.horse or self.engine
        claim = rq_roles.claim_of(runs.owner, job_id) if runs is not None else None
        meant = claim if execution_id is None else claim_in(execution_id)
        if runs is None or claim is None or meant != claim or not runs.stop_job(claim):
            self.log.warning("Not working on job %s, command ignored.", job_id)

    def _shutdown(self) -> None:
        """(signal handler) RQ's raises where it stands when idle; the engine stops where it is safe."""
        runs = self.horse or self.engine
        if runs is None:
            super()._shutdown()  # type: ignore[no-untyped-call]
        elif self.engine is not None and self.engine.consumer.mending:  # the store is away, and may be for long
            raise StopRequested
        else:
            self._stop_requested = True
            runs.stir()
            if self.get_state() == WorkerStatus.BUSY:
                self._say_that_it_stops()

    def _say_that_it_stops(self) -> None:
        """As RQ's, but nothing is raised in the midst of a job: not when the store is away, nor when the horse has just
        ended its job."""
        try:
            self.set_shutdown_requested_date()  # type: ignore[no-untyped-call]
        except RedisError as e:
            self.log.warning("Worker %s: could not say that it stops: %s", self.name, e)
        if self.scheduler:
            self.stop_scheduler()  # type: ignore[no-untyped-call]


@cache
def _careful(queue_class: type[Queue]) -> type[Queue]:
    """This class of queue, with an intermediate list that shows only what nobody holds."""
    careful = property(lambda queue: Intermediate(queue.key, queue.connection))
    return type(queue_class.__name__, (queue_class,), {"intermediate_queue": careful})


class SimpleWorker(OnOurEngine, RQSimpleWorker):
    """RQ's SimpleWorker on our engine. The lease is renewed by a thread: a job whose C code holds the GIL for longer
    than ``lease`` seconds lets the worker look dead, and then its outcome is not recorded."""

    lease = 30.0
    execution_ttl = DEFAULT_WORKER_TTL

    def _why_rq(self) -> str:
        return why_rq(self, SimpleWorker, RQSimpleWorker)

    def _serve(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> int:
        completed = 0
        while True:
            left = None if max_jobs is None else max_jobs - completed
            engine = self._serve_once(burst, left, max_idle_time)
            completed += engine.completed
            if not engine.fenced or self._stop_requested or completed == max_jobs:
                return completed

    def _serve_once(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> Engine:
        rq_roles = self.rq_roles
        assert rq_roles is not None
        engine = Engine(
            self,
            rq_roles.settings,
            self._own(rq_roles),
            rq_roles.page,
            rq_roles.client,
            tend=lambda: rq_roles.tend(before=engine.set_aside),
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
                self.log.warning("Worker %s: what it holds is left to a rescue: %s", self.name, e)
        return engine

    def _own(self, rq_roles: RQRoles) -> str:
        """A fresh name, however long the store does not answer: it may be away, and where a job has closed what was
        open, the connection over which it is asked first leads nowhere, or to what has its number now."""
        backoff = Backoff()
        while True:
            try:
                return rq_roles.own()
            except RedisError as e:
                if self._stop_requested:
                    raise StopRequested from e
                self._state = WorkerStatus.IDLE  # so that a signal ends the wait
                self.log.warning("Worker %s: cannot begin anew yet: %s", self.name, e)
                time.sleep(backoff.failed())


class Worker(OnOurEngine, RQWorker):
    """RQ's Worker with one warm child instead of a fork for each job."""

    def _why_rq(self) -> str:
        return why_rq(self, Worker, RQWorker)

    def _look_around(self) -> None:
        """The horse has this process's objects, so it can only be forked, as RQ's is."""
        if found := connections():
            self.log.warning(
                "Worker %s: open in this process and shared with its work horse: %s. A horse that is killed leaves "
                "half-read answers to the next: open connections in the jobs' functions",
                self.name,
                ", ".join(in_words(found)[:MOST]),
            )

    def _serve(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> int:
        assert self.rq_roles is not None
        self.horse = horse = Horse(self, self.rq_roles)
        try:
            horse.run(burst, max_jobs, max_idle_time)
        finally:
            self.horse = None
            horse.close()
        return horse.completed

    @property
    def horse_pid(self) -> int:
        """The child's pid while it runs a job, as in RQ; else 0."""
        if self.horse is not None:
            return self.horse.pid if self.horse.is_busy else 0
        return self._horse_pid

    def get_state(self) -> str:
        if self.horse is not None and self.horse.is_busy:
            return WorkerStatus.BUSY
        return super().get_state()


remember(OnOurEngine, SimpleWorker, Worker)
