"""Run jobs in one child process: its slots, its consumer, its watchdog. The fork server forks it, or spawns it.

Life: a session of its own, SIGINT, SIGTERM and SIGHUP silenced (only the supervisor decides) → slots take and run jobs
→ the supervisor says quiet → running jobs end and are settled → exit 0. It dies at once (exit 3) when its name was
struck off by a rescue, (exit 4) when its supervisor is gone, after its last job (exit 5) when its watchdog failed,
(exit 6) when a job has taken the means from it to reach the store, and (exit 7) when a slot does not come back.
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from time import sleep
from typing import NamedTuple, Protocol

import redis

from jobqueue.plugins.calls import Plugins
from jobqueue.store.connection import Address, client
from jobqueue.workers.child.hooks import Hooks
from jobqueue.workers.child.log_fields import name_jobs_in_logs
from jobqueue.workers.child.process_plugins import ProcessPlugins
from jobqueue.workers.child.slot import Slot
from jobqueue.workers.child.supervisor_link import SupervisorLink
from jobqueue.workers.child.wiring import Wiring
from jobqueue.workers.running import exit_handlers, output
from jobqueue.workers.running.context import after_imports
from jobqueue.workers.running.current import current_of
from jobqueue.workers.running.leftover_timers import survive_leftovers
from jobqueue.workers.running.limits import PASSING
from jobqueue.workers.running.own_classes import job_class_of
from jobqueue.workers.running.plugin_calls import wrap_calls
from jobqueue.workers.running.randomness import reseed
from jobqueue.workers.running.runner import Runner
from jobqueue.workers.shared.copies import this_is_the_original
from jobqueue.workers.shared.deaths import FAILED, FENCED
from jobqueue.workers.shared.journal import SharedPage
from jobqueue.workers.shared.logs import protect_logging
from jobqueue.workers.shared.messages import PluginBegun
from jobqueue.workers.shared.own_thread import be_own_thread, hide_own_threads
from jobqueue.workers.shared.process_tree import MARK, TO_ALL, Forks
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.shared.spare_descriptors import spare_descriptors
from jobqueue.workers.shared.titles import Title

log = logging.getLogger(__name__)

ORPHANED, DEAF, CUT_OFF, STUCK = 4, 5, 6, 7
PR_SET_PDEATHSIG = 1
LAST_WORD = 5.0  # seconds


class Clients(NamedTuple):
    """A child's clients of the store. They may be made before the fork, as they connect later: redis-py's pools begin
    anew in a forked process."""

    own: redis.Redis
    of_jobs: redis.Redis  # what `get_current_job().connection` is


def clients_of(address: Address) -> Clients:
    """Make the clients of a child."""
    return Clients(client(address), client(address, for_jobs=True))


class Child:
    """Run the jobs of one child process. Made in the new process; ``run`` is called once."""

    def __init__(
        self,
        settings: Settings,
        owner: str,
        page: SharedPage,
        control: socket.socket,
        runner: Runner,
        title: Title,
        plugins: Plugins,
        clients: Clients,
    ) -> None:
        name_jobs_in_logs(settings.worker)
        self._worker = settings.worker
        link = SupervisorLink(control)
        wrap_calls(runner, plugins)
        self._plugins = ProcessPlugins(plugins, lambda name: link.tell(PluginBegun(name)), partial(leave, FAILED))
        make_current = partial(
            current_of(job_class_of(settings)),
            connection=clients.of_jobs,
            worker=settings.worker,
            serializer_of=runner.serializer_of,
        )
        wiring = Wiring(
            settings,
            owner,
            page,
            clients.own,
            link,
            Hooks(
                on_fenced=partial(leave, FENCED),
                on_cut_off=partial(leave, CUT_OFF),
                on_orphaned=partial(leave, ORPHANED),
                on_stuck=partial(leave, STUCK),
            ),
            make_slot=lambda parts, number: Slot(number, parts, runner, make_current),
            start_slot=self._start,
            title=title,
            plugins=plugins,
        )
        self._slots, self._limits = wiring.slots, wiring.limits
        self._watchdog, self._request_thread = wiring.watchdog, wiring.request_thread
        self._threads: list[tuple[threading.Thread, Slot]] = []
        self._ask_to_retire = link.ask_to_retire

    def run(self) -> None:
        """Run until the supervisor has this child leave."""
        os.environ["RQ_WORKER_ID"] = self._worker  # for jobs and their programs, as in RQ
        os.environ.pop("RQ_JOB_ID", None)  # set by a job that started this worker; with threads every job would see it
        survive_leftovers(self._ask_to_retire)
        spare_descriptors.keep(self._ask_to_retire)
        self._plugins.start()
        self._watchdog.start()
        if len(self._slots) == 1:
            self._slots[0].run()
            self._leave_if_deaf()
            self._plugins.stop()
            return
        for slot in self._slots:
            self._start(slot)
        while working := self._working():
            working[0].join(0.2)  # with a timeout, as the slot may be written off meanwhile
        self._request_thread.finish(LAST_WORD)  # otherwise the end of a written-off job is lost, and it runs again
        self._leave_if_deaf()
        self._plugins.stop()

    def _leave_if_deaf(self) -> None:
        """Exit with a code that tells the supervisor's log why, if the watchdog failed: the jobs of this child are done
        and settled."""
        if self._watchdog.failed:
            self._request_thread.finish(LAST_WORD)
            leave(DEAF)

    def _working(self) -> list[threading.Thread]:
        with self._limits.replacing:
            return [thread for thread, slot in self._threads if thread.is_alive() and not slot.written_off]

    def _start(self, slot: Slot) -> None:
        thread = threading.Thread(target=_run_for_good, args=[slot], name=f"jobq-slot-{slot.number}", daemon=True)
        self._threads.append((thread, slot))
        thread.start()


def _run_for_good(slot: Slot) -> None:
    """Run a slot in this thread; end the child if that fails by a mistake of ours: it would have a slot without a
    thread, and another child replaces it."""
    code = FAILED
    be_own_thread()
    try:
        slot.run()
        code = 0
    except BaseException:
        log.exception("a slot failed")
    finally:
        if code:  # even if writing the log failed
            leave(code)


class Runs(Protocol):
    """What a new process runs: a child, a finish process, or a round of RQ's maintenance."""

    def run(self) -> None: ...


def leave(code: int) -> None:
    """End this process at once, without clean-up, as another process owns its jobs by now. Flushing logs and output may
    run code of the user's, so a thread ends the process after 5 s in any case."""
    try:
        with contextlib.suppress(RuntimeError):  # the system starts no thread now
            _thread.start_new_thread(_leave_later, (code,))  # Thread.start() waits for ever where there is no memory
        logging.shutdown()
        output.flush()
    finally:
        os._exit(code)


def _leave_later(code: int) -> None:
    sleep(LAST_WORD)
    os._exit(code)


def become_child(make: Callable[[], Runs], parent: int, name: str, forks: Forks) -> None:
    """Turn the calling process into a child; do not return. name: the mark of the programs that its jobs start."""
    code = FAILED
    try:
        lead_a_session()
        die_with(parent)
        os.environ[MARK] = name
        forks.watch()
        this_is_the_original()
        protect_logging(PASSING)
        obey_the_parent_only(_nothing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM, *TO_ALL))  # modules may have blocked them
        reseed()
        hide_own_threads()
        with after_imports.watching_imports():
            make().run()
        exit_handlers.run()
        code = 0
    except BaseException as e:
        if out_of := what_is_short(e):
            log.error("a child cannot run: %s", out_of)
        else:
            log.exception("a child failed")
    finally:
        leave(code)


def what_is_short(error: BaseException) -> str:
    """Return the resource that this machine or user has run out of; "": a mistake of ours, which shows its
    traceback."""
    if isinstance(error, MemoryError):
        return "there is not enough memory (see ulimit -v, and the container's limit)"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "the system starts no more threads: give fewer (-n, --threads), or see ulimit -u and -v"
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM):
        return f"{error.strerror} (see ulimit -a)"
    return ""


def lead_a_session() -> None:
    """Start a session without a terminal, with a process group that no other process of ours is in. So Ctrl-C does not
    reach a job's programs, a job that reads the terminal stops no other process, and a signal that a job sends to its
    group reaches only the programs that it started."""
    with contextlib.suppress(OSError):  # the process leads a session already
        os.setsid()


def obey_the_parent_only(on_term: Callable[..., object]) -> None:
    """Ignore SIGINT and SIGHUP, and call ``on_term`` at SIGTERM: by handlers, as programs that a job starts would
    inherit SIG_IGN. Processes that a job forks (multiprocessing) inherit handlers, and still have to die of SIGTERM, or
    ``Process.terminate`` and ``Pool.__exit__`` wait for ever."""
    handlers = {signal.SIGINT: _nothing, signal.SIGHUP: _nothing, signal.SIGTERM: on_term}
    for number, handler in handlers.items():
        signal.signal(number, handler)

    def restore() -> None:
        for number, handler in handlers.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    os.register_at_fork(after_in_child=restore)


def _nothing(*_: object) -> None:
    pass


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies. (macOS has no such thing: the child watchdog sees the
    end of the supervisor's socket, which C code holding the GIL can delay.)"""
    if not _at_death_of(parent, signal.SIGKILL):
        leave(ORPHANED)


def wake_at_death_of(parent: int) -> bool:
    """Ask the kernel to continue this process (SIGCONT) when its parent dies, so that it can clean up even if it is
    stopped. Return False if the parent is dead already."""
    return _at_death_of(parent, signal.SIGCONT)


def _at_death_of(parent: int, number: int) -> bool:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)
    return os.getppid() == parent  # otherwise the parent died before we asked
