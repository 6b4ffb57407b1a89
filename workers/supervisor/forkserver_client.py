"""Be the supervisor's end of the fork server: start its process, request children, read its reports."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence

from jobqueue.errors import BootFailed, signal_name
from jobqueue.producing.importing import cannot_import
from jobqueue.workers.shared.deaths import CLOSED, LeftForRQ
from jobqueue.workers.shared.forked_process import ForkedProcess, blocked
from jobqueue.workers.shared.handover import hand_over
from jobqueue.workers.shared.messages import (
    ForkChild,
    ForkFinish,
    ForkMaintenance,
    ForkRequest,
    FromForkServer,
    ImportFailed,
    MessageReader,
    NotAMessage,
    Ping,
    encode,
)
from jobqueue.workers.shared.process_tree import TO_ALL
from jobqueue.workers.shared.settings import Settings

SEND = 5.0  # seconds that the fork server may take to read a request


def _start() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the fork server as a program; return its process and our end of its control socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        argv = [sys.executable, "-P", "-m", "jobqueue.workers.forking.forkserver"]
        with blocked(*TO_ALL):  # until it has its own handlers
            process = subprocess.Popen(
                [*argv, str(theirs.fileno()), str(os.getpid())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
    return process, ours


class ForkServerClient:
    """One process of the fork server (see forkserver.py), which is started at once, or was forked in advance. Used by
    the supervisor's main loop only."""

    def __init__(self, settings: Settings, files: Sequence[int], prepared: ForkedProcess | None = None) -> None:
        """files: that of the pages, and the report of each child, by its number. prepared: take this process, which
        was forked in advance, instead of starting one."""
        self._reader: MessageReader[FromForkServer] = MessageReader(FromForkServer)
        self._process: ForkedProcess | subprocess.Popen[bytes]
        if prepared:
            self._process, self.control = prepared, prepared.control
        else:
            self._process, self.control = _start()
        self.control.settimeout(SEND)  # a stopped fork server (SIGSTOP) reads nothing, and the supervisor must not wait
        try:
            hand_over(self.control, settings, files)
        except OSError:  # it is gone already, or of no use: the next read finds the end
            self.kill()

    def fork(self, owner: str, child: int) -> socket.socket:
        """Request a child; return our end of its control socket. Its pid arrives as Forked."""
        return self._request(ForkChild(owner, child))

    def fork_finish_process(self, left: LeftForRQ, page: int) -> socket.socket:
        """Request a short-lived process in which RQ's own code ends the jobs that a rescue left for it, with the number
        of its page; return our end of its control socket."""
        return self._request(ForkFinish(left.owner, left.worker, tuple(left.jobs), tuple(left.plain), page))

    def fork_maintenance(self, plain: bool) -> socket.socket:
        """Request a short-lived process that does RQ's maintenance, ``plain``: without any code of the user's; return
        our end of its control socket."""
        return self._request(ForkMaintenance(plain))

    def ping(self) -> None:
        """Ask for a sign of life, which arrives as Pong."""
        self.control.sendall(encode(Ping()))

    def _request(self, request: ForkRequest) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            # the descriptor goes with the first byte; a long request may take more than one write
            line = encode(request)
            socket.send_fds(self.control, [line[:1]], [theirs.fileno()])
            self.control.sendall(line[1:])
        return ours

    def messages(self) -> list[FromForkServer] | None:
        """Read the messages that have arrived, when the socket is readable. None: the fork server is gone, or a served
        module has written into its socket. Raises BootFailed when a module cannot be imported."""
        try:
            data = self.control.recv(65536)
        except OSError:
            data = b""
        try:
            found = self._reader.read(data)
        except NotAMessage:  # only a served module can have written that
            return None
        for message in found:
            if isinstance(message, ImportFailed):
                raise BootFailed(cannot_import(message.why))
        return found if data else None

    @property
    def pid(self) -> int:
        """The pid of the process."""
        return self._process.pid

    def kill(self) -> None:
        """Kill the process; its children die with it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    def end(self) -> str:
        """Return how the process ended, in words that follow its name. Call this after ``close``."""
        code = self._process.returncode or 0
        if code < 0:
            return f"was killed by {signal_name(-code)}"
        return "closed its connection to the supervisor" if code == CLOSED else f"exited with status {code}"

    def was_killed(self) -> bool:
        """Return whether SIGKILL ended the process. Call this after ``close``."""
        return self._process.returncode == -signal.SIGKILL

    def close(self, at_once: bool = False) -> None:
        """End the process by closing its control socket, and with it every child that is still there; wait for it for
        5 s, then kill it. ``at_once``: kill it first, because it has no children yet and does not read its socket
        before its imports have ended. May be called twice."""
        if at_once and self._process.poll() is None:
            self.kill()
        self.control.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.wait()
