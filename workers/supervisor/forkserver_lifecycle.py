"""Start the fork server, pass on its reports, replace it, and handle its death, which is that of its children.

    start ──► it imports the served modules ──► ready: it forks ──► dies, or is replaced ──► the next one starts
                 └─► cannot import them: the worker ends with exit code 2

One that dies before it is ready, again and again, ends the worker with exit code 2 and the cause (see attempts.py).
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from jobqueue.errors import BootFailed
from jobqueue.workers.shared.attempts import Attempts
from jobqueue.workers.shared.deaths import LeftForRQ
from jobqueue.workers.shared.failures import describe
from jobqueue.workers.shared.forked_process import ForkedProcess
from jobqueue.workers.shared.messages import Died, Forked, ImportBegun, Ready, Unborn
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.supervisor.child_handle import ChildHandle
from jobqueue.workers.supervisor.forkserver_client import ForkServerClient
from jobqueue.workers.supervisor.forkserver_watch import ForkServerWatch
from jobqueue.workers.supervisor.importing import Importing
from jobqueue.workers.supervisor.main_loop import MainLoop
from jobqueue.workers.supervisor.shutdown import Shutdown

log = logging.getLogger(__name__)
T = TypeVar("T")


class Requester(Protocol):
    """A part of the supervisor that requests processes from the fork server. Each method is called in the main loop;
    those that return a bool tell whether it was a process of theirs."""

    def forked(self, owner: str, pid: int) -> bool:
        """Note that the process that was requested under this name runs."""

    def unborn(self, owner: str, why: str) -> bool:
        """Note that the system did not start it."""

    def died(self, pid: int, status: int) -> bool:
        """Note that it has ended, with this wait status."""

    def all_died(self) -> None:
        """Note that the fork server is gone, and with it every process that it had started."""


class ForkServerLifecycle:
    """The life of the fork server. The supervisor's main loop owns it. ``requesters`` is set before the first start."""

    def __init__(
        self,
        settings: Settings,
        loop: MainLoop,
        shutdown: Shutdown,
        page_file: int,
        handles: Sequence[ChildHandle],
        on_ready: Callable[[Ready], None],
        clock: Callable[[], float] = time.monotonic,
        prepared: ForkedProcess | None = None,
    ) -> None:
        """on_ready: called each time a fork server becomes ready; True: children are spawned, not forked. prepared: the
        first one, if it was forked in advance."""
        self._settings = settings
        self._loop = loop
        self._shutdown = shutdown
        self._page_file = page_file
        self._handles = handles
        self._on_ready = on_ready
        self._clock = clock
        self.requesters: Sequence[Requester] = ()
        self.importing = Importing(clock)
        self.is_ready = False  # the fork server can start processes
        self._prepared = prepared
        self._client: ForkServerClient | None = None
        self._started_at = 0.0  # monotonic seconds
        self._watch: ForkServerWatch | None = None  # set while it is ready
        self._failure = ""  # why its imports failed
        self._attempts = Attempts("The served modules cannot be imported: the process that imports them")

    # -- the process itself --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a fork server; ``on_ready`` is called when it is ready."""
        self.is_ready, self._started_at, self._failure = False, self._clock(), ""
        self.importing.begin()
        files = (self._page_file, *(it.faults.fd for it in self._handles))
        self._client, self._prepared = ForkServerClient(self._settings, files, self._prepared), None
        self._loop.watch(self._client.control, self._on_readable)

    def close(self) -> None:
        """End the fork server, and with it every child that still runs. May be called twice."""
        if self._client:
            self._client.close(at_once=not self.is_ready)

    def step(self, now: float, dead_since: float) -> None:
        """Look at the fork server, and start the next one if there is none. dead_since: since when a child has been
        dead without a report of its death (monotonic seconds), 0: there is none."""
        self.importing.step(now)
        if self._watch and self._client:
            self._look(self._watch, self._client, now, dead_since)
        if self._client is None and not self._shutdown.phase and now >= self._attempts.not_before:
            self.start()

    @property
    def pids(self) -> set[int]:
        """The pid of its process, if there is one."""
        return {self._client.pid} if self._client else set()

    def _look(self, watch: ForkServerWatch, client: ForkServerClient, now: float, dead_since: float) -> None:
        used = [handle for handle in self._handles if handle.is_used]
        is_busy = any(handle.page.running() for handle in used)
        is_needed = any(not handle.pid or handle.process.closed_since for handle in used)
        if why := watch.step(now, is_busy, is_needed, dead_since):
            self.replace(why)
        elif watch.asks(now):
            self._ask(client.ping)

    def replace(self, why: str) -> None:
        """Kill the fork server; the next one starts when its death is seen. Its children die with it, which is not
        blamed on their jobs."""
        if self._client is None:
            return
        log.error("the fork server %s: it is killed, and a new one starts", why)
        for handle in self._handles:
            handle.process.killed = handle.process.killed or handle.is_used
        self._client.kill()
        self._watch = None

    # -- what is asked of it -------------------------------------------------------------------------------------------

    def fork_child(self, handle: ChildHandle) -> socket.socket | None:
        """Have the fork server start a process for this handle; return our end of its control socket. None: it cannot
        now."""
        if self._shutdown.phase:
            return None
        return self._fork(lambda client: client.fork(handle.owner, handle.number))

    def fork_finish_process(self, left: LeftForRQ, page: int) -> bool:
        """Have the fork server start a process in which RQ's own code ends jobs; return whether it was requested."""
        return self._without_socket(self._fork(lambda client: client.fork_finish_process(left, page)))

    def fork_maintenance(self, plain: bool) -> bool:
        """Have the fork server start a process for RQ's maintenance, ``plain``: without any code of the user's; return
        whether it was requested."""
        if self._shutdown.phase:
            return False
        return self._without_socket(self._fork(lambda client: client.fork_maintenance(plain)))

    def _fork(self, request: Callable[[ForkServerClient], socket.socket]) -> socket.socket | None:
        client = self._client
        return self._ask(lambda: request(client)) if client is not None and self.is_ready else None

    def _without_socket(self, control: socket.socket | None) -> bool:
        """Close our end of a process that gets no messages; return whether there is one."""
        if control is None:
            return False
        control.close()
        return True

    def _ask(self, request: Callable[[], T]) -> T | None:
        """Send a request; return None if the fork server is gone, or does not read and is replaced."""
        try:
            return request()
        except OSError as e:
            if self._watch is not None:
                self.replace(f"takes no requests ({describe(e)})")
            return None

    # -- what it says --------------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        assert self._client is not None
        try:
            messages = self._client.messages()
        except BootFailed as e:
            if not self._attempts.has_worked:
                self._shutdown.fail(e)
                return
            log.error(
                "%s: it is tried again", str(e).rstrip(".")
            )  # its process ends now, and counts as a failed attempt
            self._failure = str(e)
            return
        if messages is None:
            self._died()
            return
        if self._watch:
            self._watch.heard()
        for message in messages:
            match message:
                case ImportBegun(module):
                    self.importing.next(module)
                case Ready():
                    self._became_ready(message)
                case Unborn(owner, why):
                    self._unborn(owner, why)
                case Forked(owner, pid):
                    any(requester.forked(owner, pid) for requester in self.requesters)
                case Died(pid, status):
                    any(requester.died(pid, status) for requester in self.requesters)

    def _became_ready(self, ready: Ready) -> None:
        assert self._client is not None
        self.is_ready = True
        self.importing.end()
        self._watch = ForkServerWatch(self._client.pid)
        if ready.why_not_forked:
            log.warning(
                "importing the served modules %s: forked children would not have such threads and would share such "
                "connections, so they import for themselves, start slower and share no memory; what a function starts "
                "or opens when it runs does not have this price",
                ready.why_not_forked,
            )
        self._on_ready(ready)

    def _unborn(self, owner: str, why: str) -> None:
        """Pass on that the system did not start a process. Its requester asks again, with backoff."""
        log.error("no process could be started for %s: %s", owner, why)
        any(requester.unborn(owner, why) for requester in self.requesters)

    def _died(self) -> None:
        """Handle the death of the fork server. Its children have PDEATHSIG and die with it; where the kernel does not
        have that, the end of their socket makes them leave."""
        client, self._client = self._client, None
        assert client is not None
        self._loop.forget(client.control)
        client.close()
        how, was_killed = client.end(), client.was_killed()
        if self.is_ready:
            log.error("the fork server (pid %d) %s; its children die with it, and a new one starts", client.pid, how)
        had_begun = any(handle.has_begun for handle in self._handles if handle.is_used)
        self.is_ready, self._watch = False, None
        for requester in self.requesters:
            requester.all_died()
        if not self._shutdown.phase:
            self._note_death(how, had_begun, was_killed)

    def _note_death(self, how: str, had_begun: bool, was_killed: bool) -> None:
        """Count a failed attempt, unless one of its children had become ready. Too many end the worker."""
        if had_begun:
            self._attempts.worked()
        what = f"{how} while it imported {self.importing.module}" if self.importing.module else how
        what = f"{what} ({self._failure})" if self._failure else what
        try:
            self._attempts.failed(what, self._started_at, self._clock(), was_killed)
        except BootFailed as e:
            self._shutdown.fail(e)
