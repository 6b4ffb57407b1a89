"""Run RQ's ``work()`` on our engine, in place of RQ's loop: the part that both worker classes share."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any
from typing import Protocol as Interface

from redis import Redis
from redis.exceptions import ClusterCrossSlotError, ClusterDownError, ConnectionError, MovedError, RedisError
from rq.command import parse_payload
from rq.defaults import DEFAULT_LOGGING_DATE_FORMAT, DEFAULT_LOGGING_FORMAT
from rq.exceptions import StopRequested
from rq.queue import Queue
from rq.utils import now, utcformat
from rq.worker import BaseWorker, DequeueStrategy, WorkerStatus

from jobqueue.network.listening import Listener
from jobqueue.protocol.protocol import Protocol
from jobqueue.store.address import NO_CLUSTER
from jobqueue.store.connection import limit_commands, takes_bytes
from jobqueue.workers.child.child import what_is_short
from jobqueue.workers.child.log_fields import jobs_named_in_logs
from jobqueue.workers.rq_classes.engine import Engine
from jobqueue.workers.rq_classes.lease import is_dead
from jobqueue.workers.rq_classes.rq_roles import RAISED_BY_SIGNALS, RQRoles
from jobqueue.workers.rq_finish.maintenance import Intermediate, lock_queue, take_out_wrong_entries
from jobqueue.workers.running.context import after_imports
from jobqueue.workers.running.limits import PASSING
from jobqueue.workers.shared.copies import this_is_the_original
from jobqueue.workers.shared.deaths import EXECUTION_TTL, claim_in
from jobqueue.workers.shared.logs import logging_guarded
from jobqueue.workers.shared.own_thread import hide_own_threads, show_own_threads


class WarmChild(Interface):
    """The interface of ``Horse`` that this module needs: it cannot import ``horse``, which imports it."""

    owner: str

    def stop_job(self, claim: int) -> bool: ...

    def stir(self) -> None: ...


class OnOurEngine(BaseWorker):
    """RQ's worker, whose ``work()`` runs jobs on our engine."""

    engine: Engine | None = None  # set while jobs run in this process
    horse: WarmChild | None = None  # set while they run in a child
    rq_roles: RQRoles | None = None
    _is_loading = False  # plugins are imported: a signal is only noted
    runs_user_code_apart = True  # callbacks that are called for the dead, RQ's maintenance: in processes of their own
    plugins: Sequence[str] = ()  # module:Class; JOBQ_PLUGINS names more
    lease = 10.0  # seconds without a renewal after which other workers count this one as dead
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
        """Run jobs as RQ's ``work()`` does, with the same arguments. Return whether any job was run.

        Raises redis-py's ConnectionError, also where the store is a Redis Cluster: `rq worker` prints it in one line.
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
            guarded = logging_guarded(RAISED_BY_SIGNALS + PASSING, self.log)
            with self._closed_terminal_stops(), guarded, jobs_named_in_logs(self.name):
                return bool(self._work_on_engine(burst, max_jobs, max_idle_time))
        finally:
            self.teardown()  # type: ignore[no-untyped-call]

    @contextmanager
    def _closed_terminal_stops(self) -> Iterator[None]:
        """Stop on SIGHUP as on SIGTERM, unless it is ignored (nohup). RQ's worker dies of it, together with its job."""
        before = signal.getsignal(signal.SIGHUP)
        if before is signal.SIG_DFL:
            signal.signal(signal.SIGHUP, self.request_stop)
        try:
            yield
        finally:
            if before is signal.SIG_DFL:
                signal.signal(signal.SIGHUP, before)

    def _why_rq(self) -> str:
        """Return why RQ's own loop has to run this worker; "": the engine may."""
        raise NotImplementedError

    def _look_around(self) -> None:
        """Look at this process before we open anything in it."""

    def _serve(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> int:
        """Run jobs; return how many were run."""
        raise NotImplementedError

    def _work_on_engine(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> int:
        this_is_the_original()
        self._is_loading = True
        try:
            self.rq_roles = RQRoles(self, self.lease, self.execution_ttl, self.runs_user_code_apart)
        finally:
            self._is_loading = False
        if self._stop_requested:
            self.rq_roles = None
            return 0
        after_imports.capture()
        hide_own_threads()
        try:
            self.rq_roles.start()
            self.rq_roles.plugins.call("worker_start")
            with after_imports.watching_imports():
                return self._serve(burst, max_jobs, max_idle_time)
        except StopRequested:
            return 0
        except (
            Exception
        ) as e:  # logged, as RQ's work() does; but the exit code says that the worker has not done its work
            if short := what_is_short(e):
                self.log.error("Worker %s: cannot go on, quitting: %s", self.name, short)
            else:
                self.log.error("Worker %s: found an unhandled exception, quitting...", self.name, exc_info=True)
            raise SystemExit(1) from None
        finally:
            rq_roles, self.rq_roles = self.rq_roles, None
            rq_roles.plugins.call("worker_stop")
            try:
                rq_roles.stop()
            except RedisError as e:
                self.log.warning("Worker %s: could not give its lease back: %s", self.name, e)
            show_own_threads()

    def register_birth(self) -> None:
        """Register as RQ does. If a worker of ours that was killed has this name, take it over when its lease has run
        out; RQ would refuse the name until the registration expires."""
        if is_dead(self.connection, self.name):
            self.connection.hset(self.key, "death", utcformat(now()))
        super().register_birth()  # type: ignore[no-untyped-call]

    def _set_connection(self, connection: Redis) -> Redis:
        """Limit the time of a command on this client, which jobs use too. RQ sets 415 s, because its loop waits for
        jobs on it; ours does not."""
        connection = super()._set_connection(connection)
        limit_commands(connection)
        return connection

    def subscribe(self) -> None:
        """Subscribe as RQ does, over a connection that notices when the store does not answer any more."""
        self.log.info("Worker %s: subscribing to channel %s", self.name, self.pubsub_channel_name)
        self.pubsub = Listener(self.connection.connection_pool)
        self.pubsub.subscribe(**{self.pubsub_channel_name: self.handle_payload})
        self.pubsub_thread = self.pubsub.run_in_thread(  # type: ignore[assignment]
            sleep_time=60, daemon=True, exception_handler=self._pubsub_exception_handler
        )

    def unsubscribe(self) -> None:
        """Unsubscribe as RQ does, in another order: stop the thread first, else it waits for one second more."""
        if self.pubsub is not None and self.pubsub_thread is not None:
            self.log.info("Worker %s: unsubscribing from channel %s", self.name, self.pubsub_channel_name)
            self.pubsub_thread.stop()
            try:
                self.pubsub.unsubscribe()  # wakes the thread
            except RedisError as e:  # a job has closed the connection: there is no subscription any more
                self.log.debug("Worker %s: could not unsubscribe: %s", self.name, e)
            self.pubsub_thread.join(timeout=1)
            self.pubsub.close()

    def clean_registries(self) -> None:
        """Do what RQ does, without the jobs that our processes hold: a child may claim one at this moment, and RQ would
        take it for stuck between two lists."""
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
        """Act on a command, in RQ's thread for commands. Ours are those that stop a job; RQ's code does the others."""
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
        """Request a stop, in a signal handler. RQ's worker raises at once when it is idle; our engine stops where it is
        safe."""
        runs = self.horse or self.engine
        if self._is_loading:  # plugins: code around an import may keep what is raised there
            self._stop_requested = True
        elif runs is None:
            super()._shutdown()  # type: ignore[no-untyped-call]
        elif self.engine is not None and self.engine.consumer.mending:  # the store does not answer, perhaps for long
            raise StopRequested
        else:
            self._stop_requested = True
            runs.stir()
            if self.get_state() == WorkerStatus.BUSY:
                self._say_that_it_stops()

    def _say_that_it_stops(self) -> None:
        """Write the stop to the store as RQ does, but never raise while a job runs: neither when the store does not
        answer, nor when the horse has ended its job meanwhile."""
        try:
            self.set_shutdown_requested_date()  # type: ignore[no-untyped-call]
        except RedisError as e:
            self.log.warning("Worker %s: could not say that it stops: %s", self.name, e)
        if self.scheduler:
            self.stop_scheduler()  # type: ignore[no-untyped-call]


@cache
def _careful(queue_class: type[Queue]) -> type[Queue]:
    """Return a subclass of this class of queues, whose intermediate list leaves out jobs that our processes hold, and
    whose maintenance lock has the value ``lock_value``, and is taken from ``lock_of_dead`` too."""
    careful = property(lambda queue: Intermediate(queue.key, queue.connection))

    def lock(queue: Any) -> bool:
        return lock_queue(queue, getattr(queue, "lock_value", 1), getattr(queue, "lock_of_dead", ""))

    more = {"intermediate_queue": careful, "acquire_maintenance_lock": lock}
    return type(queue_class.__name__, (queue_class,), more)
