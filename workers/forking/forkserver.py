"""Run the fork server: import the served modules once, fork children that have them, reap the children.

A process of its own. The first one is forked in advance by the process that becomes the supervisor (prepare.py), each
later one is started by it as a program. The supervisor alone holds the other end of its control socket;
``shared/messages.py`` has what is said over it.

It runs no job. It leads a session of its own, without a terminal, as each child does: what is typed there, or sent to
a job's process group, reaches neither it nor the supervisor. ``gc.freeze`` keeps the collector from touching what the
modules built, so that children share it copy-on-write. When the control socket ends it kills its children, with what
their jobs started, and leaves; they carry PDEATHSIG against its own death. It adopts what jobs leave behind, and
collects it. Why not multiprocessing's fork server: its children hold its alive pipe, it outlives a killed supervisor,
and its preload swallows import errors (measured).
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

from jobqueue.clock import monotonic
from jobqueue.plugins.calls import Plugins
from jobqueue.plugins.finding import Found
from jobqueue.producing.importing import place_of
from jobqueue.workers.child.child import Child, Clients, Runs, become_child, clients_of, die_with, wake_at_death_of
from jobqueue.workers.forking import preload
from jobqueue.workers.forking.finish_process import FinishProcess
from jobqueue.workers.rq_finish.maintenance import MaintenanceRound
from jobqueue.workers.running import exit_handlers, output, randomness, runner
from jobqueue.workers.running.fork_hazards import ForkHazards
from jobqueue.workers.running.own_classes import runner_for
from jobqueue.workers.running.plugin_calls import plugins_of
from jobqueue.workers.running.runner import Runner
from jobqueue.workers.shared import served
from jobqueue.workers.shared.deaths import CLOSED
from jobqueue.workers.shared.faults import report_to
from jobqueue.workers.shared.finish_page import pages_in_file
from jobqueue.workers.shared.handover import take_over
from jobqueue.workers.shared.journal import SharedPage
from jobqueue.workers.shared.logs import set_up_logging
from jobqueue.workers.shared.messages import (
    Died,
    ForkChild,
    Forked,
    ForkFinish,
    ForkMaintenance,
    ForkRequest,
    FromForkServer,
    ImportBegun,
    ImportFailed,
    MessageReader,
    Ping,
    Pong,
    Ready,
    ToForkServer,
    Unborn,
    encode,
)
from jobqueue.workers.shared.process_tree import TO_ALL, Forks, OfProcess, adopt_orphans, end_processes
from jobqueue.workers.shared.settings import Settings
from jobqueue.workers.shared.titles import Title


class Birth(NamedTuple):
    """The fork server's record of a child."""

    name: str  # the mark in the environment of programs that its jobs start
    child_number: int | None  # None: it runs no jobs
    forks: Forks
    at: float  # monotonic seconds


log = logging.getLogger("jobqueue.workers.forking.forkserver")  # it may be __main__ itself


class ForkServer:
    """Fork and reap children until the supervisor is gone. Its own process runs it, in the main thread."""

    def __init__(self, settings: Settings, control: socket.socket, files: Sequence[int], supervisor: int) -> None:
        """files: that of the pages, and the report of each child, by its number."""
        self._settings = settings
        self._supervisor = supervisor  # its pid
        self._control = control
        self._page_file, *self._faults = files
        self._runner = Runner(settings)
        self._plugins = Plugins()
        self._clients: Clients | None = None  # of the children, unless they are spawned
        self._children: dict[int, Birth] = {}
        self._births = itertools.count()
        self._reader: MessageReader[ToForkServer] = MessageReader(ToForkServer)
        self._fds: list[int] = []
        self._wake_write = -1
        self._generators: dict[str, Any] = {}  # the modules' own random generators: their states, until the first fork

    def run(self) -> None:
        if not self._preload():
            return
        if not wake_at_death_of(self._supervisor):
            return
        wake_read, self._wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._listen()
        selector = selectors.DefaultSelector()
        selector.register(self._control, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        alive = True
        while alive:
            for key, _ in selector.select():
                if key.fileobj == wake_read:
                    os.read(wake_read, 4096)
                    self._reap()
                else:
                    alive = self._hear()
        self._kill_all()

    def _listen(self) -> None:
        """Handle SIGCHLD and ignore other signals. Called after user code ran here, which may have changed this."""
        for number in (signal.SIGCHLD, *TO_ALL):
            signal.signal(number, _nothing)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGCHLD, *TO_ALL))

    def _preload(self) -> bool:
        needed = {fd: os.fstat(fd) for fd in (self._control.fileno(), self._page_file)}
        hazards = ForkHazards()
        try:
            found_plugins = preload.import_all(self._settings, on_import=lambda name: self._say(ImportBegun(name)))
            self._plugins = plugins_of(found_plugins, self._settings.verbose)
            self._runner = runner_for(self._settings)  # its serializer may be in an imported module
        except BaseException as e:
            self._say(ImportFailed(describe_import_error(e)))
            return False
        if not all(_is_same(fd, before) for fd, before in needed.items()):
            os._exit(CLOSED)  # the socket is closed: only the exit code can tell the supervisor
        gc.collect()
        found = hazards.found(self._settings.modules)
        self._spawns = bool(found)
        self._generators = {} if self._spawns else randomness.states_of_own(self._settings.modules)
        if not self._spawns:
            self._clients = preload.make_shared(self._settings.address)
        gc.freeze()
        self._say(Ready(" and ".join(found), _for_supervisor(found_plugins), self._plugins.has("job_ended")))
        return True

    def _say(self, message: FromForkServer) -> None:
        with contextlib.suppress(OSError):  # the supervisor is gone, which the next read shows
            self._control.sendall(encode(message))

    def _hear(self) -> bool:
        """Read the supervisor's requests and act on them; return False if it is gone."""
        try:
            data, fds, _, _ = socket.recv_fds(self._control, 65536, 64)
        except OSError:
            return False
        self._fds += fds
        for request in self._reader.read(data):
            if isinstance(request, Ping):
                self._say(Pong())
            else:
                self._start(request, self._fds.pop(0))
        return bool(data)

    def _start(self, request: ForkRequest, fd: int) -> None:
        """Start a process. If the system starts none now (limits, memory), report that and continue: if this process
        ended, all children would end with it."""
        try:
            self._fork(request, fd)
        except OSError as e:
            with contextlib.suppress(OSError):
                os.close(fd)
            self._say(Unborn(request.owner, e.strerror or str(e)))

    def _fork(self, request: ForkRequest, fd: int) -> None:
        parent, child_number = os.getpid(), request.child if isinstance(request, ForkChild) else None
        name = request.owner if child_number is not None else f"{self._settings.worker}:{parent}.{next(self._births)}"
        birth = Birth(name, child_number, Forks(), monotonic())
        output.flush()
        pid = self._spawn(request, name, fd) if self._spawns else os.fork()
        if pid == 0:
            self._control.close()
            exit_handlers.forget_inherited()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            become_child(lambda: self._make_child(request, fd), parent, name, birth.forks)
        self._listen()
        os.close(fd)
        self._generators = {}
        self._children[pid] = birth
        self._say(Forked(request.owner, pid))

    def _make_child(self, request: ForkRequest, fd: int) -> Runs:
        self._warn_of_equal_numbers()
        return make_child(
            self._settings,
            request,
            (self._page_file, self._faults_of(request)),
            fd,
            self._runner,
            self._plugins,
            self._clients,
        )

    def _faults_of(self, request: ForkRequest) -> int:
        """Return the descriptor of the faulthandler report of a process, -1: it has none."""
        return self._faults[request.child] if isinstance(request, ForkChild) else -1

    def _warn_of_equal_numbers(self) -> None:
        """Warn, in the first child, of random generators whose state is the same as before the fork. Hooks of
        ``os.register_at_fork``, which may seed them, have been called by now."""
        states = self._generators and randomness.states_of_own(self._settings.modules)
        if equal := [name for name, state in self._generators.items() if states.get(name) == state]:
            log.warning("%s", randomness.warning_of(equal))

    def _spawn(self, request: ForkRequest, name: str, fd: int) -> int:
        """Start a child that imports the modules itself: the imports here have left something that a fork would not
        copy, or would share. Return its pid."""
        argv = [
            sys.executable,
            "-P",
            "-m",
            "jobqueue.workers.forking.spawned",
            encode(request).decode(),
            str(self._page_file),
            str(faults := self._faults_of(request)),
            str(fd),
            name,
        ]
        inherited = [number for number in (fd, self._page_file, faults) if number >= 0]
        for number in inherited:
            os.set_inheritable(number, True)
        # in the environment, not in argv: the address may contain a password, and every user can read argv
        pid = os.posix_spawn(sys.executable, argv, {**os.environ, "JOBQ_CHILD_SETTINGS": self._settings.to_json()})
        for number in inherited:
            os.set_inheritable(number, False)
        return pid

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if birth := self._children.pop(pid, None):  # else it is an orphan that was adopted
                self._end_jobs(pid, birth, well=status == 0)
                self._say(Died(pid, status))

    def _end_jobs(self, pid: int, birth: Birth, well: bool) -> None:
        """End the processes that a dead child's jobs had started, before its death is reported and the jobs run
        again."""
        if birth.child_number is None:
            starts = [] if well else [birth.at]
        else:
            starts = [
                job.start for job in SharedPage(self._page_file, birth.child_number, self._settings.slots).running()
            ]
        if starts:
            end_processes(OfProcess(pid, birth.name, birth.forks), min(starts))

    def _kill_all(self) -> None:
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid, birth in self._children.items():
            self._end_jobs(pid, birth, well=False)


def _nothing(*_: object) -> None:
    pass


def _is_same(fd: int, before: os.stat_result) -> bool:
    """Return whether the descriptor is still the file that it was."""
    try:
        return os.path.samestat(os.fstat(fd), before)
    except OSError:
        return False


def describe_import_error(error: BaseException) -> str:
    """Return one line: the error, and the last line of a user's module in its traceback."""
    text = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    place = place_of(error, (__file__, preload.__file__, runner.__file__, served.__file__))
    return f"{text} ({place})" if place else text


def _for_supervisor(found: Sequence[Found]) -> tuple[str, ...]:
    """Return the targets of the active plugins that are to be called in the supervisor's process too."""
    return tuple(it.target for it in found if not it.why_inactive and {"worker_start", "worker_stop"} & set(it.methods))


def make_child(
    settings: Settings,
    request: ForkRequest,
    files: tuple[int, int],
    fd: int,
    runner: Runner,
    plugins: Plugins,
    clients: Clients | None = None,
) -> Runs:
    """Make the object that the request asks for. Called in the new process. files: that of the pages, and that of the
    faulthandler report; clients: those that were made before the fork."""
    page_file, faults = files
    control = socket.socket(fileno=fd)
    title = Title(settings.worker, _role(request))
    match request:
        case ForkFinish(owner, worker, jobs, plain, number):
            finish_page = pages_in_file(page_file)[number]
            return FinishProcess(settings, owner, worker, jobs, plain, control, finish_page, plugins)
        case ForkMaintenance(plain):
            return MaintenanceRound(settings, control, plain=plain)
    report_to(faults)
    page = SharedPage(page_file, request.child, settings.slots)
    clients = clients or clients_of(settings.address)
    return Child(settings, request.owner, page, control, runner, title, plugins, clients)


def _role(request: ForkRequest) -> str:
    if isinstance(request, ForkChild):
        return f"child {request.child}"
    return "maintenance" if isinstance(request, ForkMaintenance) else "finishing jobs"


def serve(control: socket.socket, parent: int) -> None:
    """Be the fork server of the supervisor with this pid, which says the settings on the control socket."""
    die_with(parent)
    for number in TO_ALL:
        signal.signal(number, _nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_ALL)
    if (taken := take_over(control)) is None:
        return
    settings, files = taken
    set_up_logging(settings.log_format, settings.verbose, settings.worker)
    output.buffer_lines()
    os.environ["JOBQ_ALLOW_PRIVATE"] = "1" if settings.allow_private else "0"
    adopt_orphans()
    Title(settings.worker, "fork server")
    ForkServer(settings, control, files, parent).run()


def main() -> None:
    """Run the fork server as a program: ``python -m jobqueue.workers.forking.forkserver CONTROL_FD PARENT``."""
    control_fd, parent = (int(a) for a in sys.argv[1:3])
    os.set_inheritable(control_fd, False)
    serve(socket.socket(fileno=control_fd), parent)


if __name__ == "__main__":
    main()
