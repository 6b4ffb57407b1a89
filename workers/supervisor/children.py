"""Start the children, read their messages, retire them, and have the dead ones reaped.

    missing ──► owner name into the store ──► fork ──► runs ──► retires ──► leaves  ┐
                                                │       └─► dies                    ├─► reaped, handle released
                                                └─► dies before it runs             ┘

Children that die before they can run a job, again and again, end the worker with exit code 2 and the cause.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence

from jobqueue.errors import BootFailed
from jobqueue.workers.shared.attempts import Attempts
from jobqueue.workers.shared.deaths import FAILED, by_sigkill
from jobqueue.workers.shared.journal import DONE
from jobqueue.workers.shared.messages import CannotBegin, Dropped, OutOfWork, Ping, PluginBegun, Retire, Wake
from jobqueue.workers.shared.process_tree import OfProcess, end_processes
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.supervisor.birth_watch import in_plugin
from jobqueue.workers.supervisor.child_handle import ChildHandle, HandleState
from jobqueue.workers.supervisor.death_report import death_report, how_it_ended
from jobqueue.workers.supervisor.forkserver_lifecycle import ForkServerLifecycle
from jobqueue.workers.supervisor.main_loop import MainLoop
from jobqueue.workers.supervisor.reaper import Reaper
from jobqueue.workers.supervisor.role_threads import RoleThreads
from jobqueue.workers.supervisor.shutdown import Phase, Shutdown

log = logging.getLogger(__name__)


class Children:
    """All children of a worker. The supervisor's main loop owns it; as a Requester of the fork server it is told of
    births and deaths."""

    def __init__(
        self,
        settings: Settings,
        handles: Sequence[ChildHandle],
        loop: MainLoop,
        threads: RoleThreads,
        fork_server: ForkServerLifecycle,
        reaper: Reaper,
        shutdown: Shutdown,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._handles = handles
        self._loop = loop
        self._threads = threads
        self._fork_server = fork_server
        self._reaper = reaper
        self._shutdown = shutdown
        self._clock = clock
        self._births = Attempts("No process becomes ready to run jobs: the last one")
        self.done = 0  # jobs that were done by children that have left
        self.deaths: Counter[str] = Counter()  # of children, by cause, for the metrics

    # -- they come -----------------------------------------------------------------------------------------------------

    @property
    def missing(self) -> int:
        """How many children have to be started. A retiring child counts as missing."""
        return self._settings.children - sum(
            handle.state is not HandleState.EMPTY and not handle.process.retiring for handle in self._handles
        )

    @property
    def are_starting(self) -> bool:
        """Whether the owner name of a child is being stored."""
        return any(handle.state is HandleState.STARTING for handle in self._handles)

    @property
    def used(self) -> list[ChildHandle]:
        """The handles that have a process, or have requested one."""
        return [handle for handle in self._handles if handle.is_used]

    def start_missing(self, now: float) -> None:
        """Start the missing children, unless the fork server is not ready or earlier children failed just now."""
        if not self._fork_server.is_ready or now < self._births.not_before or not (missing := self.missing):
            return
        empty = [handle for handle in self._handles if handle.state is HandleState.EMPTY]
        if any(now < handle.not_before for handle in empty):  # it applies to spare handles too
            return
        for handle in empty[:missing]:
            self._start(handle)

    def _start(self, handle: ChildHandle) -> None:
        """Store the new owner name first, then start its process: so a rescuer finds the jobs that it claims."""
        owner = handle.next_owner(self._settings.worker)
        self._threads.add_owner(owner, lambda: self._fork(handle))

    def _fork(self, handle: ChildHandle) -> None:
        handle.page.wipe()
        handle.faults.clear()
        control = self._fork_server.fork_child(handle)
        if control is None:  # the fork server died meanwhile, or the worker stops: strike the name off again
            self._reap(handle, None)
            handle.release()
            return
        handle.attach(control)
        self._loop.watch(control, lambda: self._on_readable(handle))

    def forked(self, owner: str, pid: int) -> bool:
        """Note the pid of a child that runs, and tell the retiring one that it replaces to leave."""
        found = [handle for handle in self._handles if handle.owner == owner]
        for handle in found:
            handle.process.pid = pid
        self._let_the_retired_go()
        return bool(found)

    def one_works(self) -> None:
        """Note that a child has had an answer to a claim: earlier failed starts do not count any more."""
        self._births.worked()

    # -- they speak ----------------------------------------------------------------------------------------------------

    def _on_readable(self, handle: ChildHandle) -> None:
        if (control := handle.process.control) is None:  # its death was reported in this same turn
            return
        messages = control.receive()
        if messages is None:  # it is dying, or a job has closed or used the socket
            self._loop.forget(control.socket)
            handle.process.closed_since = self._clock()
            return
        for message in messages:
            match message:
                case OutOfWork():
                    self._threads.queue_waiter.call_at_push(lambda: handle.tell(Wake()))
                case Dropped(tokens):
                    self._shutdown.dropped(handle, tokens)
                case Retire():
                    self.retire(handle, self._why_it_retires())
                case CannotBegin(why):
                    handle.process.failure = why
                case PluginBegun(name):
                    handle.process.plugin, handle.process.plugin_since = name, self._clock()

    def wake_all(self) -> None:
        """Make the children look at their pages."""
        for handle in self._handles:
            handle.tell(Ping())

    def retire(self, handle: ChildHandle, why: str) -> None:
        """Start a successor; when that runs, this child is told to finish its jobs and to leave. May be called
        twice."""
        if not handle.process.retiring and not self._shutdown.phase:
            log.info("child %s retires: %s", handle.owner, why)
            handle.process.retiring = True

    def _why_it_retires(self) -> str:
        return "it has done its share" if self._settings.max_jobs else "a thread of it is stuck, or it is cut off"

    def _let_the_retired_go(self) -> None:
        """Tell one retiring child to leave for each successor that runs: two may retire at once."""
        there = [handle for handle in self._handles if handle.pid and not handle.process.quiet_sent]
        spare = len(there) - self._settings.children
        for handle in [handle for handle in there if handle.process.retiring][: max(0, spare)]:
            handle.quiet()

    # -- they go -------------------------------------------------------------------------------------------------------

    def unborn(self, owner: str, why: str) -> bool:
        """Handle a child that the system did not start."""
        found = [handle for handle in self.used if handle.owner == owner]
        for handle in found:
            self._lost(handle, None, f"could not be started: {why}")
        return bool(found)

    def died(self, pid: int, status: int) -> bool:
        """Handle the death of a child."""
        found = [handle for handle in self._handles if handle.pid == pid]
        for handle in found:
            self._lost(handle, status)
        return bool(found)

    def all_died(self) -> None:
        """Handle the death of the fork server: kill its children, wait until they are gone, end the programs of their
        jobs, and reap them. For a child that was not ready yet, this does not count as a failed attempt."""
        for handle in self.used:
            process = handle.process
            process.killed = process.killed or not handle.has_begun
            handle.kill()
            assert process.control is not None
            process.control.await_end()
            self._end_jobs(handle)
            self._lost(handle, None)

    def _end_jobs(self, handle: ChildHandle) -> None:
        """End the programs that its jobs had started. The fork server does this, unless it has died itself."""
        if handle.pid and (running := handle.page.running()):
            end_processes(OfProcess(handle.pid, handle.owner, None), min(job.start for job in running))

    def _lost(self, handle: ChildHandle, status: int | None, how: str = "") -> None:
        """Pass a dead child's jobs to the reaper, and free its handle for the next. how: how it ended, if ``status``
        does not show that."""
        process = handle.process
        if not handle.has_begun:
            self._hear_last_words(handle)
        how = process.failure or how or how_it_ended(handle, status)
        if process.plugin and not handle.has_begun and not process.failure:
            how += f" in {in_plugin(process.plugin)}"
        if status != 0 and self._shutdown.phase < Phase.INTERRUPT:
            log.warning("child %s (pid %d) %s", handle.owner, handle.pid, how)
        if not process.killed and not self._shutdown.phase:
            self._note_early_death(handle, status, how)
        if process.control is not None:
            self._loop.forget(process.control.socket)
        self.done += handle.page.get(DONE)
        self._reap(handle, status)
        handle.release()

    def _hear_last_words(self, handle: ChildHandle) -> None:
        """Read which plugin was called last in a process that has died: its death may be reported before that is."""
        control = handle.process.control
        for message in control.last_words() if control is not None else ():
            if isinstance(message, PluginBegun):
                handle.process.plugin = message.name

    def _reap(self, handle: ChildHandle, status: int | None) -> None:
        is_stopping = self._shutdown.phase >= Phase.INTERRUPT
        report = death_report(handle, status, is_stopping)
        if report.death:
            self.deaths[report.death] += 1
        self._reaper.reap(report)

    def _note_early_death(self, handle: ChildHandle, status: int | None, how: str) -> None:
        """Count a child as a failed attempt if it died before it was ready, or failed by itself before it had claimed a
        job. After too many, and while no other child does better, end the worker: another attempt would not help."""
        failed = status is not None and os.waitstatus_to_exitcode(status) == FAILED
        if handle.has_begun and (handle.look_whether_it_works() or not failed):
            self._births.worked()  # it became ready: earlier failures were not in a row with this one
            return
        others = [other for other in self.used if other is not handle]
        began = handle.process.born
        try:
            self._births.failed(f"(pid {handle.pid}) {how}", began, self._clock(), by_sigkill(status))
        except BootFailed as e:
            if not any(other.process.worked if handle.has_begun else other.has_begun for other in others):
                self._shutdown.fail(e)
