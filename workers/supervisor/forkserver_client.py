"""The supervisor's end of the fork server: ask for a child, hear of births and deaths."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from jobqueue.errors import BootFailed
from jobqueue.producing.importing import cannot_import
from jobqueue.workers.shared.deaths import LeftForRQ
from jobqueue.workers.shared.process_tree import TO_ALL
from jobqueue.workers.shared.settings import Settings


@contextlib.contextmanager
def blocked(*numbers: signal.Signals) -> Iterator[None]:
    """Hold these signals back while inside; a process that is started here begins with them held back."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


CLOSED = 7  # its exit code when an import has closed what it needs
SEND = 5.0  # seconds that it may take to read an order


class ForkServerClient:
    """Starts the fork server and speaks its protocol (see forkserver.py). Used by the supervisor's main loop only."""

    def __init__(self, settings: Settings, page_file: int, faults: Sequence[int]) -> None:
        self._unread = b""
        self.control, theirs = socket.socketpair()
        with theirs:
            numbers = (theirs.fileno(), page_file, os.getpid(), *faults)
            argv = [sys.executable, "-P", "-m", "jobqueue.workers.forking.forkserver", *map(str, numbers)]
            with blocked(*TO_ALL):  # until it has its own handlers
                self._process = subprocess.Popen(
                    argv,
                    pass_fds=(theirs.fileno(), page_file, *faults),
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
        self.control.settimeout(SEND)  # one that is stopped reads nothing: who waits for it must not be the supervisor
        self._say_settings(settings)

    def _say_settings(self, settings: Settings) -> None:
        with contextlib.suppress(OSError):  # it is gone already: the next read says so
            self.control.sendall(settings.to_json().encode() + b"\n")

    def fork(self, owner: str, child: int, faults: int) -> socket.socket:
        """Ask for a child; returns our end of its control socket. Its pid comes as a {"forked"} message."""
        return self._request({"fork": owner, "child": child, "faults": faults})

    def fork_finish_process(self, left: LeftForRQ) -> socket.socket:
        """Ask for a short-lived child that finishes by RQ's own code what a rescue left to it."""
        jobs = [[*job[:4], job.cause.decode()] for job in left.jobs]
        return self._request({"fork": left.owner, "worker": left.worker, "finish": jobs, "plain": [*left.plain]})

    def fork_maintenance(self) -> socket.socket:
        """Ask for a short-lived child that does RQ's maintenance."""
        return self._request({"fork": "maintenance", "maintenance": True})

    def ping(self) -> None:
        """Ask for a sign of life; it comes as a {"pong"} message."""
        self.control.sendall(b'{"ping": true}\n')

    def _request(self, request: dict[str, Any]) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            # the descriptor goes with the first byte; a long order may take more than one write
            line = json.dumps(request).encode() + b"\n"
            socket.send_fds(self.control, [line[:1]], [theirs.fileno()])
            self.control.sendall(line[1:])
        return ours

    def messages(self) -> list[dict[str, Any]] | None:
        """What it says, when its socket is readable; None: it is gone."""
        try:
            data = self.control.recv(65536)
        except OSError:
            data = b""
        *lines, self._unread = (self._unread + data).split(b"\n")
        try:
            found = [dict(json.loads(line)) for line in lines]
        except (ValueError, TypeError, RecursionError):  # a served module wrote into what is not its own
            return None
        for message in found:
            if "failed" in message:
                raise BootFailed(cannot_import(message["failed"]))
        return found if data else None

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """Its children die with it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    def end(self) -> str:
        """After ``close``: how it ended, in words."""
        code = self._process.returncode
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return "closed its connection to the supervisor" if code == CLOSED else f"exited with status {code}"

    def was_killed(self) -> bool:
        """After ``close``: by SIGKILL."""
        return self._process.returncode == -signal.SIGKILL

    def close(self, at_once: bool = False) -> None:
        """The end of the control socket ends it, and with it every child that is still there; ``at_once``: it has none,
        and does not look at the socket before its import has ended. Twice is fine."""
        if at_once and self._process.poll() is None:
            self.kill()
        self.control.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.wait()
