"""Supervise a worker: keep its children running, stop them, and clean up after dead ones.

    signals ──►┐                          ┌──► fork server ──► children
    births,    ├── main loop (never waits ├──► heartbeat thread: renews the lease, and does nothing else
    deaths ───►│   for Redis, runs no     ├──► roles thread: registration, owners, rescue, scheduler (waits for Redis)
    no work ──►┘   user code)             └──► queue waiter: BLMOVE, wakes children that are out of work

    here                     who does what, and the loop
    forkserver_lifecycle     starts, watches and replaces the fork server
    children                 starts, retires and loses the children; child_watches looks at them
    role_threads             the threads that may wait for Redis
    reaper                   cleans up after dead children
    shutdown                 stops the worker, phase by phase

Life: start the fork server → register → one owner name and one child per handle → loop → quiet → all children have left
→ everything given back or rescued → off every list. The order of stopping: children claim nothing more, jobs that never
started go back at once and in order, running jobs end until the deadline, then they are interrupted, then killed; the
jobs of each child are rescued; the queue waiter, the roles thread and the fork server go last.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Sequence

from jobqueue.metrics.tree_facts import TreeFacts
from jobqueue.schedules.timetable import Schedule
from jobqueue.store.local.server import server_pids
from jobqueue.store.open import Store
from jobqueue.words import count
from jobqueue.workers.shared.forked_process import ForkedProcess
from jobqueue.workers.shared.messages import Ready
from jobqueue.workers.shared.process_tree import TO_ALL, adopt_orphans, collect_orphans
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.supervisor.burst import Burst
from jobqueue.workers.supervisor.child_handle import ChildHandle, make_handles
from jobqueue.workers.supervisor.child_watches import SOON, ChildWatches
from jobqueue.workers.supervisor.children import Children
from jobqueue.workers.supervisor.command_handler import CommandHandler
from jobqueue.workers.supervisor.finish_processes import FinishProcesses
from jobqueue.workers.supervisor.forkserver_lifecycle import ForkServerLifecycle
from jobqueue.workers.supervisor.health import Health
from jobqueue.workers.supervisor.main_loop import MainLoop
from jobqueue.workers.supervisor.metrics_port import MetricsPort
from jobqueue.workers.supervisor.other_trees import OtherTrees
from jobqueue.workers.supervisor.plugin_thread import PluginThread
from jobqueue.workers.supervisor.reaper import Reaper
from jobqueue.workers.supervisor.role_threads import GIVE_UP, RoleThreads
from jobqueue.workers.supervisor.shutdown import Shutdown
from jobqueue.workers.supervisor.signals import Signals, suspend

log = logging.getLogger(__name__)


class Supervisor:
    """One worker tree. ``run`` returns the exit code."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        cron: Sequence[Schedule] = (),
        clock: Callable[[], float] = time.monotonic,
        fork_server: ForkedProcess | None = None,
    ) -> None:
        """fork_server: the first one, if it was forked in advance."""
        self._settings = settings
        self._clock = clock
        self._signals = Signals()
        self._loop = MainLoop()
        page_file, self._handles = make_handles(settings.children, settings.slots, clock)
        self._threads = RoleThreads(
            settings,
            store,
            cron,
            self._handles,
            self._loop.post,
            on_left=lambda left: self._reaper.finish_by_rq(left),
            on_command=lambda command: self._command_handler.handle(command),
            on_lapse=lambda: self._children.wake_all(),
            fork_maintenance=lambda plain: self._fork_server.fork_maintenance(plain),
            clock=clock,
        )
        self._shutdown = Shutdown(
            self._handles, settings.grace, self._threads.give_back, lambda: self._threads.is_away, clock
        )
        self._fork_server = ForkServerLifecycle(
            settings, self._loop, self._shutdown, page_file, self._handles, self._on_ready, clock, fork_server
        )
        self._finish_processes = FinishProcesses(
            page_file, self._fork_server.fork_finish_process, lambda: self._threads.is_away, clock
        )
        self._reaper = Reaper(self._threads.rescuer, self._threads.do, self._loop.post, self._finish_processes)
        self._children = Children(
            settings, self._handles, self._loop, self._threads, self._fork_server, self._reaper, self._shutdown, clock
        )
        self._fork_server.requesters = (self._reaper, self._threads.maintenance, self._children)
        self._watches = ChildWatches(settings, self._handles, self._children, self._stand_in)
        self._command_handler = CommandHandler(
            self._handles, lambda: self._shutdown.asked("shutdown command"), self._find, clock
        )
        self._health = Health(settings.health_file)
        self._metrics = MetricsPort(settings, store, self._facts)
        self._plugins = PluginThread(settings)
        self._burst = self._make_burst()

    def _make_burst(self) -> Burst:
        threads = self._threads
        return Burst(
            self._handles,
            self._settings.queues,
            threads.client,
            ask=threads.do,
            post=self._loop.post,
            full=self._is_full,
            on_over=lambda: self._shutdown.begin("the queues are empty"),
            others=OtherTrees(threads.client, self._settings.worker, threads.rescuer.lease_of),
            clock=self._clock,
        )

    # -- life ----------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run until stopped (or, in a burst, until the queues are empty). Raises BootFailed."""
        self._metrics.open()
        adopt_orphans()
        with self._signals.caught((*TO_ALL, signal.SIGQUIT, signal.SIGTSTP, signal.SIGCHLD)):
            try:
                self._loop.watch(self._signals.fd, self._on_signals)
                self._fork_server.start()
                self._threads.listen()
                while not self._is_over():
                    self._turn()
                code = self._close()
                if self._shutdown.cause:
                    raise self._shutdown.cause
                return code
            finally:
                self._plugins.stop()
                self._metrics.close()
                self._health.remove()
                self._fork_server.close()

    def _turn(self) -> None:
        """Wait until something happens or it is time to look again, and do what is due."""
        self._loop.wait(self._poll_timeout())
        now = self._clock()
        self._threads.self_fencing.step(now)
        self._health.step(now, self._why_not(now))
        self._watches.step(now)
        self._finish_processes.step(now)
        self._fork_server.step(now, self._watches.dead_since)
        if self._shutdown.phase:
            self._shutdown.step(now)
            if self._shutdown.takes_too_long(now):  # whatever happened to it: a stop has to end
                self._fork_server.replace("does not say that its children have died")
            return
        self._children.start_missing(now)
        if self._settings.burst and self._fork_server.is_ready:
            self._burst.step()

    def _poll_timeout(self) -> float:
        """Return the seconds until there may be something to do that sends no event."""
        return SOON if self._shutdown.phase or self._settings.burst else self._watches.poll_timeout

    def _why_not(self, now: float) -> str:
        """Why this worker cannot claim, for its health file; "" if it can."""
        if self._shutdown.phase:
            return "it is stopping"
        if not self._threads.has_lease:
            return self._fork_server.importing.describe()
        return self._threads.why_not(now) or self._watches.why_no_child(now)

    def _facts(self) -> TreeFacts:
        """(any thread) Return what the metrics say of this worker."""
        now, renewed = self._clock(), self._threads.renewed
        used = self._children.used
        return TreeFacts(
            worker=self._settings.worker,
            why_not=self._health.why_not(now),
            slots=self._settings.children * self._settings.slots,
            slots_busy=sum(len(handle.page.running()) for handle in used),
            pids=tuple(handle.pid for handle in used if handle.pid),
            lease_age=now - renewed if renewed else None,
            deaths=dict(self._children.deaths),
        )

    def _is_full(self) -> bool:
        """Whether all children run, and no jobs of a dead one are under way."""
        if self._children.are_starting or self._children.missing:
            return False
        maintenance = self._threads.maintenance
        return not (self._reaper.busy or maintenance.awaited or maintenance.running)

    def _is_over(self) -> bool:
        """Whether the stop is over: no child is left, and the jobs of dead ones are rescued, or that takes too long."""
        if not self._shutdown.phase or self._children.used:
            return False
        waits = self._reaper.busy or self._threads.maintenance.running or self._children.are_starting
        return not waits or self._shutdown.without_children_for(self._clock()) > GIVE_UP

    def _close(self) -> int:
        """Return the exit code."""
        if not self._threads.close(self._reaper.busy):
            return 1
        log.info("stopped: %s done", count(self._children.done, "job"))
        return 0

    # -- what happens --------------------------------------------------------------------------------------------------

    def _on_ready(self, ready: Ready) -> None:
        """Register the worker: the fork server can start children."""
        self._watches.birth_watch.spawned = self._finish_processes.spawned = bool(ready.why_not_forked)
        self._threads.rescuer.leaves_failures = ready.hears_ends
        if not self._shutdown.phase:
            self._threads.register()
            self._plugins.start(ready.plugins)

    def _on_signals(self) -> None:
        for number in self._signals.take():
            if number == signal.SIGCHLD:
                collect_orphans(own={*server_pids(), *self._fork_server.pids})
            elif number == signal.SIGTSTP:
                suspend([handle.pid for handle in self._handles if handle.pid], self._settings.lease)
            else:
                self._shutdown.asked(signal.Signals(number).name, at_once=number == signal.SIGQUIT)

    def _stand_in(self, handle: ChildHandle, pulse: int) -> None:
        """Have the roles thread stand in for a child that holds still at this pulse."""
        owner = handle.owner
        self._reaper.ask(lambda: self._threads.stand_in(owner, handle.page, pulse), lambda _: None)

    def _find(self, job_id: str, owners: list[str], then: Callable[[int | None], None]) -> None:
        """Look up in the store under which claim one of these owners holds a job."""
        self._reaper.ask(lambda: self._threads.rescuer.claim_of(job_id, owners), then)
